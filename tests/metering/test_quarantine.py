"""Quarantine: kept once, as it was told, until it is charged or withdrawn."""

import re
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from core import clock, ids
from metering import catalog, quarantine, rating
from metering.events import Event
from metering.models import Quarantine
from metering.quarantine import Held
from orgs.models import Organization
from tests.billing.world import organization, rows, side_by_side
from tests.books import Books
from tests.metering.world import event

Reason = Quarantine.Reason


def held(
    taken: Event, *, scope: str = "acme/", story: bytes = b"s", of: Organization | None = None, **more: Any
) -> Held:
    return Held(
        ids.new(), scope, of.pk if of else None, taken, more.get("reason", Reason.UNKNOWN_ORGANIZATION),
        more.get("detail", "no organization acme"), story,
    )  # fmt: skip


def hold(*chosen: Held) -> set[tuple[str, str]]:
    """Hold in a transaction of its own."""
    with transaction.atomic():
        return quarantine.hold(chosen, at=clock.now(), reported_by=None)


def waiting(*models: str, limit: int = 100, after: Any = None) -> list[quarantine.Waiting]:
    with transaction.atomic():
        return quarantine.waiting(models=models, after=after, limit=limit)


def test_what_is_held_is_told_by_scope_and_event_id(books: Books) -> None:
    one = event(event_id="a")
    assert hold(held(one), held(one, scope="umbrella/"), held(event(event_id="b"))) == {
        ("acme/", "a"), ("umbrella/", "a"), ("acme/", "b"),
    }  # fmt: skip
    assert hold(held(one), held(event(event_id="c"))) == {("acme/", "c")}
    assert rows("SELECT count(*) FROM quarantine") == [(4,)]
    assert hold() == set()


def test_the_first_story_stays(books: Books) -> None:
    hold(held(event(event_id="a"), story=b"first"))
    hold(held(event(event_id="a"), story=b"second"))
    assert quarantine.stories([("acme/", "a"), ("acme/", "z")]) == {("acme/", "a"): b"first"}
    assert quarantine.stories([]) == {}


def test_many_who_hold_the_same_event_at_once_keep_it_once(books: Books) -> None:
    chosen = [event(event_id=name) for name in "abcde"]

    def post(turn: int) -> set[tuple[str, str]]:
        turned = chosen[turn:] + chosen[:turn]
        return hold(*(held(one) for one in turned))

    told = side_by_side(books, *(partial(post, turn) for turn in range(5)))
    assert sum(map(len, told)) == 5
    assert rows("SELECT count(*) FROM quarantine") == [(5,)]


def test_an_event_comes_back_as_it_was_told(books: Books) -> None:
    taken = event(
        event_id="a", occurred_at=clock.now() - timedelta(microseconds=7), units={"images": 3}, metadata={"k": "é"},
        provider_cost_usd=Decimal("0.000000000001"), stream=False, service_tier="flex", batch=True, end_user="",
    )  # fmt: skip
    hold(held(taken))
    (found,) = waiting()
    assert found.event == taken
    assert isinstance(found.event.provider_cost_usd, Decimal)
    row = quarantine.row(found.id)
    assert (row.model, row.occurred_at, row.event["event_id"]) == (taken.model, taken.occurred_at, "a")


def test_a_long_detail_is_cut_and_refuses_nothing(books: Books) -> None:
    hold(held(event(), detail="x" * 10_000))
    assert rows("SELECT length(detail) FROM quarantine") == [(500,)]


def test_orphans_wait_always_and_the_unpriced_for_their_model(books: Books) -> None:
    acme = organization("acme")
    for reason in (Reason.UNKNOWN_ORGANIZATION, Reason.UNKNOWN_KEY, Reason.NOT_A_MEMBER):
        hold(held(event(event_id=reason.value), reason=reason))
    for model in ("m1", "m2"):
        hold(held(event(event_id=model, model=model), of=acme, reason=Reason.UNPRICED))
    orphans = ["unknown_organization", "unknown_key", "not_a_member"]
    assert [one.event.event_id for one in waiting()] == orphans
    assert [one.event.event_id for one in waiting("m2")] == [*orphans, "m2"]
    assert [one.event.event_id for one in waiting("m1", "m2", limit=4)] == [*orphans, "m1"]
    fourth = waiting("m1", "m2", limit=4)[-1]
    assert [one.event.event_id for one in waiting("m1", "m2", after=fourth.id)] == ["m2"]
    assert {"m1", "m2"} <= set(quarantine.models_waiting())


def test_what_is_closed_waits_no_more(books: Books) -> None:
    hold(*(held(event(event_id=name)) for name in "abc"))
    by_name = {one.event.event_id: one.id for one in waiting()}
    with transaction.atomic():
        quarantine.resolve([by_name["a"]], at=clock.now())
        assert quarantine.withdraw(by_name["b"], at=clock.now())
        assert not quarantine.withdraw(by_name["b"], at=clock.now())
        assert not quarantine.withdraw(by_name["a"], at=clock.now())
    assert [one.event.event_id for one in waiting()] == ["c"]


def test_two_workers_never_take_the_same_row(books: Books) -> None:
    hold(*(held(event(event_id=name)) for name in "abcd"))
    with transaction.atomic():
        mine = quarantine.waiting(models=(), after=None, limit=2)
        (theirs,) = books.together([lambda: waiting(limit=10)])
    assert [one.event.event_id for one in mine] == ["a", "b"]
    assert [one.event.event_id for one in theirs] == ["c", "d"]


def test_nothing_waits_at_first(db: None) -> None:
    empty = quarantine.backlog()
    assert (*empty,) == (0, 0, None, Decimal(0))
    assert empty.told(clock.now()) == "none wait"
    assert quarantine.late(before=clock.now(), limit=5) == (0, [])


def test_what_waits_is_added_up(books: Books) -> None:
    # Of the seed's one price: 1000 × 0.27 + 200 × 1.10 millionths, cached or not.
    hold(held(event(event_id="a")), held(event(event_id="b"), reason=Reason.UNKNOWN_KEY))
    hold(held(event(event_id="c"), reason=Reason.UNPRICED), held(event(event_id="d")))
    with transaction.atomic():
        quarantine.withdraw(Quarantine.objects.get(event_id="d").pk, at=clock.now())
    found = quarantine.backlog()
    first = Quarantine.objects.get(event_id="a").recorded_at
    assert (*found,) == (3, 2, first, Decimal("0.00147"))
    assert found.told(first + timedelta(days=3, hours=4, minutes=59)) == (
        "3 wait (2 with nobody to charge), the oldest for 3 d 4 h, worth about 0.00147 USD at median prices"
    )
    assert quarantine.backlog(most=2).rows == 2
    late = quarantine.late(before=first + timedelta(microseconds=1), limit=1)
    assert (late.rows, [row.event_id for row in late.oldest]) == (2, ["a"])


@pytest.mark.parametrize(
    ("rates", "worth"),
    [
        # 1,000,000 in and 100,000 out, at the median of 1, 2 and 9, and of 10, 30 and 20 dollars a million.
        ([("1", "10"), ("2", "30"), ("9", "20")], Decimal(4)),
        # Of two the lower one.
        ([("1", "10"), ("2", "30")], Decimal(2)),
        # What has no output rate is not paid for output.
        ([("3", None)], Decimal(3)),
        ([], None),
    ],
)
def test_a_model_without_a_price_is_valued_by_the_whole_catalog(
    db: None, monkeypatch: pytest.MonkeyPatch, rates: list[tuple[str, str | None]], worth: Decimal | None
) -> None:
    now = clock.now()
    cards = [
        rating.read_card({"terms": [{"when": {}, "rates": {"input": one, **({"output": two} if two else {})}}]})
        for one, two in rates
    ]
    listing = catalog.Listing([], [])
    listing.versions = {
        f"m-{place}": [catalog.Version(ids.new(), now - timedelta(days=1), None, card)]
        for place, card in enumerate(cards)
    }
    monkeypatch.setattr(catalog, "listing", lambda: listing)
    hold(held(event(event_id="a", model="nobody-knows", input_tokens=10**6, output_tokens=10**5)))
    assert quarantine.backlog().worth_usd == worth
    assert ("an unknown amount" in quarantine.backlog().told(now)) == (worth is None)


@pytest.mark.parametrize(
    "call",
    [
        lambda: quarantine.hold([], at=clock.now(), reported_by=None),
        lambda: quarantine.waiting(models=(), after=None, limit=1),
        lambda: quarantine.resolve([], at=clock.now()),
        lambda: quarantine.withdraw(ids.new(), at=clock.now()),
    ],
    ids=["hold", "waiting", "resolve", "withdraw"],
)
def test_every_verb_needs_the_callers_transaction(books: Books, call: Any) -> None:
    with pytest.raises(AssertionError):
        call()


def test_open_rows_are_counted_by_model_with_their_oldest(books: Books) -> None:
    first = clock.now() - timedelta(hours=2)
    with transaction.atomic():
        quarantine.hold([held(event(model="b"))], at=first, reported_by=None)
    hold(held(event(model="b")), held(event(model="a")), held(event(model="c")))
    rows("UPDATE quarantine SET resolved_at = now() WHERE model = 'c'")
    told = quarantine.waits()
    assert [(wait.model, wait.events, wait.more) for wait in told] == [("a", 1, False), ("b", 2, False)]
    assert told[1].oldest == first
    rows("UPDATE quarantine SET resolved_at = now()")
    assert quarantine.waits() == []


def test_no_model_is_counted_further_than_is_shown(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(
        *(held(event(model="a")) for _ in range(4)), *(held(event(model="b")) for _ in range(3)), held(event(model="c"))
    )
    monkeypatch.setattr(quarantine, "COUNTED_MAX", 3)
    monkeypatch.setattr(quarantine, "WAITS_MAX", 2)
    assert [(wait.model, wait.events, wait.more) for wait in quarantine.waits()] == [("a", 3, True), ("b", 3, False)]


def test_counting_open_rows_reads_the_index_of_open_rows_only(books: Books) -> None:
    hold(held(event(model="a")), held(event(model="b")))
    with transaction.atomic():
        rows("SET LOCAL enable_seqscan = off")
        rows("SET LOCAL enable_sort = off")
        rows("SET LOCAL enable_bitmapscan = off")
        plan = "\n".join(line for (line,) in rows(f"EXPLAIN {quarantine._WAITS}", 10, 10))
    scans = re.findall(r"Scan(?: using (\w+))? on quarantine", plan)
    assert len(scans) >= 2, plan
    assert set(scans) == {"quarantine_open"}, plan
