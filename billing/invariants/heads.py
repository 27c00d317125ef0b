"""Sealed heads outside of the database: the file that they are exported to, and what it says against the books.

JSON lines, one for each organization, and a last one that counts them and carries the SHA-256 of what
stands before it. A copy of the file on another machine tells whether the past was rewritten, seals
included.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from billing.invariants.checks import SAMPLES_MAX, Probe, Terms, told
from core import ids, money


class Head(NamedTuple):
    """Where a wallet stood when ``day`` was sealed, the last day on which it had moved."""

    organization_id: UUID
    day: date
    seq: int
    digest: bytes
    posted_usd: Decimal
    overdraft_usd: Decimal
    spent_usd: Decimal


class BadHeads(Exception):
    """A file is not one of exported heads, or is damaged; the message says how."""


def write(heads: Iterable[Head], *, sealed: date) -> str:
    """The file's text."""
    lines = [json.dumps(_shown(head)) for head in heads]
    body = "".join(f"{line}\n" for line in lines)
    end = {"sealed": sealed.isoformat(), "heads": len(lines), "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return f"{body}{json.dumps(end)}\n"


def _shown(head: Head) -> dict[str, Any]:
    return {
        "organization": ids.show("org", head.organization_id), "day": head.day.isoformat(), "seq": head.seq,
        "digest": head.digest.hex(), "posted_usd": money.plain(head.posted_usd),
        "overdraft_usd": money.plain(head.overdraft_usd), "spent_usd": money.plain(head.spent_usd),
    }  # fmt: skip


def read(path: Path) -> list[Head]:
    """The heads of a file. Raises ``BadHeads`` unless it is whole."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadHeads(f"{path} cannot be read: {error}") from error
    lines = text.splitlines()
    try:
        *rows, end = [json.loads(line) for line in lines]
        body = "".join(f"{line}\n" for line in lines[:-1])
        whole = (end["heads"], end["sha256"]) == (len(rows), hashlib.sha256(body.encode()).hexdigest())
        heads = [
            Head(
                ids.read("org", row["organization"]), date.fromisoformat(row["day"]), int(row["seq"]),
                bytes.fromhex(row["digest"]), money.parse(row["posted_usd"]), money.parse(row["overdraft_usd"]),
                money.parse(row["spent_usd"]),
            )
            for row in rows
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise BadHeads(f"{path} is no file of exported heads: {error}") from error
    if not whole:
        raise BadHeads(f"{path} was changed or cut off: its lines do not have the sum that it names")
    return heads


def against(heads: Sequence[Head]) -> tuple[Probe, Probe]:
    """Checks that hold the books against exported heads."""
    return (
        Probe("V31 chain leads to the exported heads", partial(_changed, heads)),
        Probe("V32 nothing goes back behind the exported heads", partial(_gone, heads)),
    )


_STANDING = """
    SELECT h.organization_id, h.day, h.seq, w.seq, t.digest = h.digest, (s.posted_usd, s.overdraft_usd, s.spent_usd)
        IS NOT DISTINCT FROM (h.posted_usd, h.overdraft_usd, h.spent_usd)
    FROM unnest(%s::uuid[], %s::date[], %s::int8[], %s::bytea[], %s::numeric[], %s::numeric[], %s::numeric[])
        AS h (organization_id, day, seq, digest, posted_usd, overdraft_usd, spent_usd)
    LEFT JOIN wallet w USING (organization_id)
    LEFT JOIN transfer t ON t.organization_id = h.organization_id AND t.seq = h.seq
    LEFT JOIN ledger_head s ON s.organization_id = h.organization_id AND s.day = h.day
    ORDER BY h.organization_id
"""


def _standing(heads: Sequence[Head]) -> list[tuple[Any, ...]]:
    """Each head beside the books: organization, day, seq, the wallet's seq, same digest, same seal."""
    columns = [list(column) for column in zip(*heads, strict=True)] or [[]] * len(Head._fields)
    with connection.cursor() as cursor:
        cursor.execute(_STANDING, columns)
        return list(cursor.fetchall())


def _changed(heads: Sequence[Head], _: Terms) -> tuple[int, int, str]:
    lines = []
    for organization_id, day, seq, _stands, same, sealed in _standing(heads):
        if same is False:
            lines.append(f"transfer {seq} of {organization_id} is not the one exported for {day}")
        elif same and not sealed:
            lines.append(f"the seal of {organization_id} for {day} is not what was exported")
    return len(heads), len(lines), told(len(lines), lines[:SAMPLES_MAX])


def _gone(heads: Sequence[Head], _: Terms) -> tuple[int, int, str]:
    lines = [
        f"wallet {organization_id} stands at seq {stands}; exported for {day} was {seq}"
        for organization_id, day, seq, stands, same, _sealed in _standing(heads)
        if stands is None or stands < seq or same is None
    ]
    return len(heads), len(lines), told(len(lines), lines[:SAMPLES_MAX])
