"""The guards that proofs disable (decisions 28), by name.

A guard is one thing in the product that makes a scenario harmless: a constraint, a comparison, a
lock. Registering it here means saying how to take it away for one test:

    @guard("fingerprint_compared")
    def _() -> Disabled:
        \"\"\"An event id sent again is compared with what it first stood for.\"\"\"
        return patched("billing.charges.same_story", lambda *_: True)

What is taken away must be the guard and nothing else: SQL or code that then cannot run at all is
reported as a broken proof, not as a red one.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import psycopg
from psycopg import sql

from tests import books

Disabled = AbstractContextManager[Any]

# Set in a child process: its database has been changed already, only its code is left to change.
_code_only = False


@dataclass(frozen=True)
class Guard:
    """A named guard: what it is, and a context in which it does not exist."""

    name: str
    about: str
    disabled: Callable[[], Disabled]


GUARDS: dict[str, Guard] = {}


def guard(name: str) -> Callable[[Callable[[], Disabled]], Callable[[], Disabled]]:
    """Register how to disable a guard; the function's docstring says what the guard does."""

    def register(disable: Callable[[], Disabled]) -> Callable[[], Disabled]:
        assert name.isidentifier(), f"{name!r} is no name for a guard"
        assert name not in GUARDS, f"two guards are named {name}"
        assert disable.__doc__, f"the guard {name} does not say what it does"
        GUARDS[name] = Guard(name, " ".join(disable.__doc__.split()), disable)
        return disable

    return register


def patched(target: str, replacement: Any) -> Disabled:
    """``package.module.attribute`` replaced. Raises ``AttributeError`` if there is no such thing.

    Name the module that *uses* it when that one imported it by name.
    """
    return mock.patch(target, replacement)


def all_of(*parts: Disabled) -> Disabled:
    """Several parts as one guard."""

    @contextmanager
    def nested() -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part)
            yield

    return nested()


@contextmanager
def rewritten(old: str, new: str) -> Iterator[None]:
    """Every SQL text that holds ``old`` is sent with ``new`` instead, in all threads.

    Raises ``LookupError`` at the end if no statement held it: the guard is not where it is said to be.
    """
    hits = 0

    def rewrite(query: Any, cursor: Any) -> Any:
        nonlocal hits
        text = query.as_string(cursor) if isinstance(query, sql.Composable) else query
        text = text.decode() if isinstance(text, bytes) else text
        if not isinstance(text, str) or old not in text:
            return query
        hits += 1
        return text.replace(old, new).encode()

    execute, executemany, copy = psycopg.Cursor.execute, psycopg.Cursor.executemany, psycopg.Cursor.copy

    def on_execute(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        return execute(self, rewrite(query, self), *args, **options)

    def on_executemany(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        return executemany(self, rewrite(query, self), *args, **options)

    def on_copy(self: Any, statement: Any, *args: Any, **options: Any) -> Any:
        return copy(self, rewrite(statement, self), *args, **options)

    with (
        mock.patch.object(psycopg.Cursor, "execute", on_execute),
        mock.patch.object(psycopg.Cursor, "executemany", on_executemany),
        mock.patch.object(psycopg.Cursor, "copy", on_copy),
    ):
        yield
    if not hits and not _code_only:
        raise LookupError(f"no statement held {old!r}, so nothing was disabled")


@contextmanager
def without_constraint(table: str, name: str) -> Iterator[None]:
    """The test's own database lacks a constraint, or a unique index that stands for one.

    Raises ``LookupError`` if it has none of that name.
    """
    _change(
        table,
        name,
        find="SELECT 1 FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s",
        change="ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE",
        otherwise="DROP INDEX {name} CASCADE",
        find_otherwise="SELECT 1 FROM pg_index WHERE indrelid = %s::regclass AND indexrelid = to_regclass(%s)",
    )
    yield


@contextmanager
def without_trigger(table: str, name: str) -> Iterator[None]:
    """The test's own database lacks a trigger (and its copies on partitions).

    Raises ``LookupError`` if the table has none of that name.
    """
    _change(
        table,
        name,
        find="SELECT 1 FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = %s AND NOT tgisinternal",
        change="DROP TRIGGER {name} ON {table}",
    )
    yield


def _change(
    table: str, name: str, *, find: Any, change: Any, find_otherwise: Any = None, otherwise: Any = None
) -> None:
    """Run the change that fits what is there. The database is dropped after the test: nothing to undo."""
    if _code_only:
        return
    with books.current().connect() as own:
        names = {"table": sql.Identifier(table), "name": sql.Identifier(name)}
        if own.execute(find, (table, name)).fetchone():
            own.execute(sql.SQL(change).format(**names))
        elif find_otherwise and own.execute(find_otherwise, (table, name)).fetchone():
            own.execute(sql.SQL(otherwise).format(**names))
        else:
            raise LookupError(f"{table} has nothing named {name}")


@contextmanager
def in_child(name: str) -> Iterator[None]:
    """Disable a guard's code in a child process that serves a database where the rest is done."""
    global _code_only
    _code_only = True
    importlib.import_module("django").setup()
    with GUARDS[name].disabled():
        yield


@guard("revocation_reaches_every_process")
def _() -> Disabled:
    """A change that processes cache raises the epoch that they all poll."""
    return patched("orgs.caches.bump", lambda: None)


@guard("only_the_digest_is_stored")
def _() -> Disabled:
    """Of a key's secret the SHA-256 is kept and nothing else."""
    return patched("orgs.keys.digest", lambda secret: secret[4:36].encode())


@guard("secrets_are_cut_from_logs")
def _() -> Disabled:
    """Every handler's filter cuts secrets out of messages and tracebacks."""
    return patched("core.logs.redact", lambda text: text)


@guard("membership_is_required")
def _() -> Disabled:
    """A personal key speaks for an organization only while its owner is a member."""
    member = importlib.import_module("orgs.members").MemberFacts
    return patched("orgs.members.find", lambda **_: member(id=None, role="owner", permissions=frozenset()))


@guard("own_slug_only")
def _() -> Disabled:
    """An organization's key takes no slug but its organization's."""
    return patched("orgs.principals.is_own", lambda *_: True)


@guard("service_keys_have_limits")
def _() -> Disabled:
    """A service key made for some organizations names no others."""
    return patched("orgs.principals.may_name", lambda *_: True)


@guard("one_slug_in_the_header")
def _() -> Disabled:
    """The header holds one slug or nothing; two headers arrive as one with a comma."""
    return patched("orgs.organizations.is_slug", lambda _: True)


@guard("keys_are_read_within_the_organization")
def _() -> Disabled:
    """Whoever manages keys reaches only those of the organization that the credential stands for."""
    return patched("orgs.keyring._all", lambda _: importlib.import_module("orgs.models").ApiKey.objects.all())
