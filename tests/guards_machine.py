"""Guards of the database, the machine and the door's first line. Registered by ``tests.guards``."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import books
from tests.guards import Disabled, _verified, guard, patched, rewritten

_verified("V28", "rights_are_compared", "compares what roles were granted with what a runtime role may have.")
_verified("V33", "keys_in_plain_text_are_looked_for", "looks through every column of text for what looks like a key.")


@guard("periods_go_by_when_usage_was_recorded")
def _() -> Disabled:
    """What was used is counted in the quarter in which its record was made, whenever it happened."""
    return rewritten("date_bin(%(grain)s, recorded_at,", "date_bin(%(grain)s, occurred_at,")


@guard("chunks_end_their_connection")
def _() -> Disabled:
    """After a body in chunks the connection ends, so nothing that follows it is taken for a request."""
    return patched("core.asgi._ending", lambda send: send)


@guard("threads_wait_for_no_body")
def _() -> Disabled:
    """A thread is taken for a request when its body is whole."""
    return patched("core.asgi._serve_whole", importlib.import_module("core.asgi")._serve)


@guard("counters_are_wide")
@contextmanager
def _() -> Iterator[None]:
    """What counts up without an end is a ``bigint``."""
    with books.current().connect() as own:
        own.execute("DROP TRIGGER explained ON wallet")
        own.execute("ALTER TABLE wallet ALTER seq TYPE integer")
        own.execute("ALTER TABLE transfer ALTER seq TYPE integer")
    yield


@guard("sums_of_counts_are_wide")
@contextmanager
def _() -> Iterator[None]:
    """Sums of tokens are ``bigint``, whatever a single count may be."""
    with books.current().connect() as own:
        own.execute("ALTER TABLE usage_rollup ALTER input_tokens TYPE integer")
    yield


@guard("migrations_wait_briefly")
def _() -> Disabled:
    """A migration waits for a lock for a bounded time, and gives up with nothing changed."""
    return patched("core.management.commands.prepare.MIGRATION_LOCK_TIMEOUT_MS", 0)


@guard("restored_copies_are_verified")
def _() -> Disabled:
    """What was restored from a backup passes every check of ``verify`` before it is called good."""

    def unlooked(*_: Any, **__: Any) -> list[Any]:
        return []

    return patched("billing.backups._findings", unlooked)


@guard("strangers_have_a_limit")
def _() -> Disabled:
    """So many letters an hour go to people whom nobody knows yet, from all places together."""
    return patched("portal.invitations.STRANGERS_MAX", 10**9)
