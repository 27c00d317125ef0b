"""Cursors that were changed, made up or taken from elsewhere: one refusal, never a row, never a failure."""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import pytest

from core import ids
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.proofs import proves

# Every promise holds at both doors.
pytestmark = pytest.mark.usefixtures("both_doors")


class List(NamedTuple):
    """A list that is read by cursor: its path, its query, the kind of its ids, the media type."""

    path: str
    query: str
    kind: str
    accept: str = "application/json"


LISTS = [
    List("/v1/usage", "", "usage"),
    List("/v1/usage", "order=asc&", "usage"),
    List("/v1/usage", "model=gpt-4o&limit=1&", "usage"),
    List("/v1/usage", "", "usage", "text/csv"),
    List("/v1/keys", "", "key"),
    List("/v1/invoices", "", "inv"),
    List("/v1/wallet/transactions", "", "tr"),
    List("/v1/wallet/transactions", "limit=100&", "tr", "text/csv"),
]
KINDS = {each.kind for each in LISTS}
BITS = 8


def good(house: House, of: List) -> str:
    """The id of something in the list; not the last."""
    return ids.show("key", house.keys["organization"].key.pk) if of.kind == "key" else house.shown(of.kind)[-2]


def ask(house: House, of: List, after: bytes) -> Any:
    """The page after a cursor of these bytes."""
    path = f"{of.path}?{of.query}after={quote_from_bytes(after, safe='')}"
    return house.callers["owner"].call("GET", path, headers={"Accept": of.accept})


def flipped(cursor: bytes) -> Iterator[bytes]:
    """Every cursor that differs in one bit."""
    for place in range(len(cursor)):
        for bit in range(BITS):
            yield cursor[:place] + bytes([cursor[place] ^ 1 << bit]) + cursor[place + 1 :]


def strange(cursor: str) -> list[bytes]:
    """Other spellings, other types, and things that break parsers."""
    head, _, body = cursor.partition("_")
    texts = [
        cursor.lower(), cursor.upper(), f" {cursor}", f"{cursor} ", f"{cursor}\n", f"{cursor}\x00", f"\x00{cursor}",
        f'"{cursor}"', f"{cursor},{cursor}", cursor[:-1], f"{cursor}0", body, f"_{body}", f"{head}__{body}",
        f"{head}-{body}", f"{head}_", head, "_", "null", "undefined", "None", "0", "-1", "1e9", "[]", "{}", "%s", "%00",
        f"{head}_8{body[1:]}", f"{head}_Z{body[1:]}", f"{head}_{body[:-1]}U", f"{head}_{body[:-1]}I",
        f"{head}_{body[:-1]}l", f"{head}_{body[:-1]}O", f"{head}_{body[:-1]}١", f"{head}_{body[:-1]}０",
        str(ids.read(head, cursor)), ids.read(head, cursor).hex, "' OR 1=1 --", "../../etc/passwd", "\u202e", "😀" * 9,
        "A" * 5_000,
    ]  # fmt: skip
    return [text.encode() for text in texts] + [b"\xff" * 31, b"\xc3", b"\xed\xa0\x80"]


@proves("A03", guard="cursors_are_looked_up_among_the_callers_rows")
@proves("A03", guard="ids_have_one_spelling")
def test_a_cursor_that_is_not_one_of_the_list_is_one_refusal(books: Books) -> None:
    ours, theirs = neighbours.house("acme-labs"), neighbours.house("other-inc")
    for of in LISTS:
        right = good(ours, of)
        assert ask(ours, of, right.encode()).status_code == 200, of
        wrong = [*flipped(right.encode()), *strange(right)]
        wrong += [text.encode() for text in theirs.shown(of.kind)]
        wrong += [text.encode() for kind in KINDS - {of.kind} for text in ours.shown(kind)]
        wrong += [ids.show(of.kind, ids.read(kind, ours.shown(kind)[0])).encode() for kind in KINDS - {of.kind}]
        wrong += [ids.show(of.kind, ids.new()).encode() for _ in range(3)]
        said = set()
        for cursor in wrong:
            answer = ask(ours, of, cursor)
            said.add((answer.status_code, answer.getvalue()))
            assert answer.status_code == 400, (of, cursor, answer.getvalue())
        assert len(said) == 1, of
        assert b"invalid_cursor" in said.pop()[1]


def test_a_colleagues_record_is_no_cursor_for_a_member_who_sees_only_their_own(books: Books) -> None:
    house = neighbours.house("acme-labs")
    plain = house.callers["plain"]
    mine = [each for each in house.records if each.member_id == house.plain.pk]
    assert plain.get("/v1/usage", after=ids.show("usage", mine[-1].pk)).status_code == 200
    for record in house.records:
        if record.member_id != house.plain.pk:
            answer = plain.get("/v1/usage", after=ids.show("usage", record.pk))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("of", LISTS, ids=lambda of: f"{of.path}?{of.query}{of.accept}")
def test_an_empty_cursor_is_the_first_page_and_the_last_of_two_counts(books: Books, of: List) -> None:
    house = neighbours.house("acme-labs")
    caller = house.callers["owner"]
    first = caller.call("GET", f"{of.path}?{of.query}", headers={"Accept": of.accept}).getvalue()
    assert ask(house, of, b"").getvalue() == first
    twice = f"{of.path}?{of.query}after=nonsense&after={good(house, of)}"
    assert caller.call("GET", twice, headers={"Accept": of.accept}).status_code == 200
