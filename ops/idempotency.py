"""Requests that may be sent again: one effect and one answer for an ``Idempotency-Key`` (contract 11).

The only module that writes ``IdempotencyKey``. For what happens in our database alone: the effect,
the key and the answer commit together, so a key either stands with its answer or was never used;
there is no state in between for a crash to leave behind. Refusals are raised, roll everything back
and leave the key free: a top-up unblocks the request that met an empty wallet.

An answer with a secret in it must not pass through here: it would be kept.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import msgspec
from django.db import connection, transaction

from core import errors, ids, wire
from core.transactions import retry

HEADER = "Idempotency-Key"
KEY_CHARS_MAX = 255
# How long an answer is kept at least; until it is trimmed it is repeated.
LIFE = timedelta(hours=24)
TRIM_ROWS = 1000
TRIM_ROUNDS_MAX = 1000
# Keeps these advisory locks apart from every other kind.
ADVISORY_CLASS = 7010

_VISIBLE = re.compile(r"[!-~]+", re.ASCII)
# A string of RFC 8941, 3.3.3: a quote or a backslash in it stands behind a backslash.
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r"\\(.)")
# Wide enough that no number the wire lets in is ever rounded.
_EXACT = Context(prec=wire.NUMBER_DIGITS_MAX)
_sorted = msgspec.json.Encoder(order="sorted")


class Saved(NamedTuple):
    """An answer; ``replayed`` when it is the one that an earlier request got."""

    status: int
    body: bytes
    content_type: str = "application/json"
    replayed: bool = False


class _Scope(NamedTuple):
    """What a key is unique within, and the key."""

    organization_id: UUID
    method: str
    path: str
    key: str


class _Kept(NamedTuple):
    """What stands under a key."""

    fingerprint: bytes
    answer: Saved


def read_key(header: str | None, *, required: bool = False) -> str | None:
    """The key in a header, without the quotes it may stand in; None if there is no header.

    Raises ``InvalidRequest`` for anything but 1 to 255 visible ASCII characters, ``MissingParameter``
    where a key is ``required``.
    """
    if header is None:
        if required:
            raise errors.MissingParameter(f"This request needs an {HEADER}.", param=HEADER)
        return None
    # Optional white space around a field's value is not part of it (RFC 9110, 5.5).
    text = header.strip(" \t")
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        text = _ESCAPED.sub(r"\1", quoted[1]) if quoted else ""
    if len(text) > KEY_CHARS_MAX or _VISIBLE.fullmatch(text) is None:
        raise errors.InvalidRequest(f"{HEADER} is 1 to {KEY_CHARS_MAX} visible ASCII characters.", param=HEADER)
    return text


def canonical(body: Any) -> bytes:
    """A decoded body (``core.wire``) as JSON in its one spelling.

    The order of an object's members and the spelling of texts and fractions mean nothing. A whole
    number and a fraction of the same value differ, as ``1`` and ``1.0`` do where a field takes whole
    numbers only; ``null`` and an absent member differ too. So two requests that count as one are
    one to every endpoint.
    """
    return _sorted.encode(_spelled(body))


def _spelled(value: Any) -> Any:
    """The value with each fraction as ``1.5E+0``, which no whole number looks like."""
    if isinstance(value, dict):
        return {name: _spelled(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, Decimal):
        # Adding zero takes the sign off a negative one.
        return msgspec.Raw(f"{_EXACT.normalize(_EXACT.add(value, 0)):E}".encode())
    assert value is None or isinstance(value, str | int), f"{type(value).__name__} is nothing that the wire decodes"
    return value


def fingerprint(*, body: Any, organization_slug: str) -> bytes:
    """SHA-256 of what a request says: its canonical body and whom it charges."""
    # No slug holds a line break.
    return hashlib.sha256(organization_slug.encode() + b"\n" + canonical(body)).digest()


def once(
    *,
    organization_id: UUID,
    organization_slug: str,
    method: str,
    path: str,
    key: str | None,
    body: Any,
    work: Callable[[], Saved],
) -> Saved:
    """Do ``work`` and keep its answer, or repeat the answer that the key stands for.

    ``work`` runs inside the one transaction, which is tried again after a conflict: it touches nothing
    but the database, calls verbs that join a transaction, and raises what it refuses. Whatever it raises
    rolls all back. Of what it returns, 2xx and 3xx is kept. Without a key it runs in a transaction just
    the same, each time.

    Raises ``IdempotencyKeyReused`` for a key that stands for another body or slug, and at once
    ``IdempotencyKeyInUse`` while a first request is at it.
    """
    if key is None:
        return retry(lambda: _do(work))
    scope = _Scope(organization_id, method, quote(path), key)
    digest = fingerprint(body=body, organization_slug=organization_slug)
    return retry(lambda: _once(scope, digest, work))


def _do(work: Callable[[], Saved]) -> Saved:
    """Work in a transaction of its own."""
    with transaction.atomic(durable=True):
        return _answer(work)


def _once(scope: _Scope, digest: bytes, work: Callable[[], Saved]) -> Saved:
    """The lock first, then a look in a statement of its own: whoever has it sees all that its holders committed."""
    with transaction.atomic(durable=True):
        free, at = _enter(scope)
        kept = _find(scope)
        if kept is not None:
            if kept.fingerprint != digest:
                raise errors.IdempotencyKeyReused(param=HEADER)
            return kept.answer
        if not free:
            raise errors.IdempotencyKeyInUse(param=HEADER)
        answer = _answer(work)
        if answer.status < 400:
            _keep(scope, digest, answer, at=at)
        return answer


def _answer(work: Callable[[], Saved]) -> Saved:
    answer = work()
    assert answer.status < 500, "a fault is raised, so that nothing of it stays"
    return answer


def _enter(scope: _Scope) -> tuple[bool, datetime]:
    """Whether nobody else works under this key until our transaction ends; and the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s)), now()", [ADVISORY_CLASS, "\n".join(map(str, scope))]
        )
        free, at = cursor.fetchone()
        return free, at


def _find(scope: _Scope) -> _Kept | None:
    """What stands under the key."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT fingerprint, status, body, content_type FROM idempotency_key"
            " WHERE organization_id = %s AND method = %s AND path = %s AND key = %s",
            scope,
        )
        row = cursor.fetchone()
    if row is None:
        return None
    digest, status, body, content_type = row
    return _Kept(bytes(digest), Saved(status, bytes(body), content_type, replayed=True))


def _keep(scope: _Scope, digest: bytes, answer: Saved, *, at: datetime) -> None:
    """Let the key stand for the answer. Raises ``IdempotencyKeyInUse`` if it stands for one by now.

    That cannot be while the lock is held; should it ever not hold, the effect is rolled back.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO idempotency_key"
            " (id, organization_id, method, path, key, fingerprint, status, body, content_type, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (organization_id, method, path, key) DO NOTHING",
            [next(ids.run(at=at)), *scope, digest, answer.status, answer.body, answer.content_type, at],
        )
        if not cursor.rowcount:
            raise errors.IdempotencyKeyInUse(param=HEADER)


def trim(*, at: datetime | None = None) -> int:
    """Forget what is older than ``LIFE`` at an instant (now), oldest first; how many.

    Each ``TRIM_ROWS`` go in a transaction of their own, at most ``TRIM_ROUNDS_MAX`` times.
    """
    end = ids.floor((at or _now()) - LIFE)
    trimmed = 0
    for _ in range(TRIM_ROUNDS_MAX):
        done = retry(lambda: _trim_some(end))
        trimmed += done
        if done < TRIM_ROWS:
            break
    return trimmed


def _trim_some(end: UUID) -> int:
    """The oldest rows below an id. By a bound instead of a list of rows, which a sharded database can do too."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM (SELECT id FROM idempotency_key WHERE id < %s ORDER BY id LIMIT %s) AS oldest"
            " ORDER BY id DESC LIMIT 1",
            [end, TRIM_ROWS],
        )
        last = cursor.fetchone()
        if last is None:
            return 0
        cursor.execute("DELETE FROM idempotency_key WHERE id <= %s", last)
        return int(cursor.rowcount)


def _now() -> datetime:
    """The database's clock, which the ids carry."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        at: datetime = cursor.fetchone()[0]
        return at
