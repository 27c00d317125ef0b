"""Books changed behind their guards, and what the checks say of them."""

from collections.abc import Collection, Sequence
from typing import Any

import psycopg

from billing import invariants, ledger
from tests.books import Books

# What was tried, and what was seen by its own check and no other: for the report at the end of a run.
tried: list[str] = []
seen: list[str] = []
counting = True


def corrupt(books: Books, *statements: str) -> list[str]:
    """Change the books behind their triggers; what the last statement returns names what it changed.

    Whoever does it knows how the digests are made and makes them again, sealed ones included.
    """
    names = tamper(books, *statements)
    with books.connect() as raw:
        raw.execute("SET session_replication_role = replica")
        rechain(raw)
    return names


def tamper(books: Books, *statements: str) -> list[str]:
    """Change the books behind their triggers and leave the digests as they were."""
    with books.connect() as raw:
        raw.execute("SET session_replication_role = replica")
        for statement in statements:
            done = raw.execute(statement)
            assert done.rowcount != 0, f"nothing was changed by {statement}"
        return [str(value) for row in done.fetchall() for value in row]


_COLUMNS = ", ".join(name for name in ledger._COLUMNS if name != "digest")


def rechain(raw: psycopg.Connection[Any], *, sealed: bool = True) -> None:
    """Make every transfer's digest anew, and what repeats them; with ``sealed``, in the seals too."""
    heads: dict[Any, bytes] = {}
    for row in raw.execute(
        f"SELECT {_COLUMNS}, digest FROM transfer WHERE seq IS NOT NULL ORDER BY organization_id, seq"
    ).fetchall():
        *values, known = row
        digest = ledger.link(heads.get(values[1], b""), values)
        heads[values[1]] = digest
        if digest != known:
            raw.execute("UPDATE transfer SET digest = %s WHERE organization_id = %s AND id = %s",
                (digest, values[1], values[0]))  # fmt: skip
    for owner, digest in heads.items():
        raw.execute("UPDATE wallet SET head = %s WHERE organization_id = %s", (digest, owner))
    if sealed:
        raw.execute(
            "UPDATE ledger_head h SET digest = t.digest FROM transfer t"
            " WHERE t.organization_id = h.organization_id AND t.seq = h.seq"
        )


def broken(*, server: bool = False) -> dict[str, str]:
    """What the checks that fail say, by id."""
    return {name_of(one): one.detail for one in invariants.check(server=server) if not one.ok}


def name_of(finding: invariants.Finding) -> str:
    """The id of the check."""
    return finding.name.split()[0]


def assert_only(ids: str | Collection[str], names: Sequence[str], *, server: bool = False) -> None:
    """The corruption is seen by these checks and by no other, and what they say names what was changed."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    if counting:
        tried.append(" ".join(sorted(wanted)))
    assert names
    found = broken(server=server)
    assert found.keys() == wanted, found
    assert [name for name in names if not any(name in detail for detail in found.values())] == [], found
    if counting:
        seen.append(" ".join(sorted(wanted)))
