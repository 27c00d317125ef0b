"""Quarantine: kept once, as it was told, until it is charged or withdrawn."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from core import clock, ids
from metering import quarantine
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
