"""Requests for one organization that arrive side by side: charged together, each answered as if alone."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any
from unittest import mock
from uuid import UUID

import pytest

from billing import batches, charges
from core import ids
from metering.attribution import Attributed
from metering.verdicts import Status, Verdict
from orgs.models import Organization
from tests.billing.world import assert_sound, ledger, organization, rows, standing, statuses
from tests.books import Books
from tests.metering.world import COST, attributed, event

WAIT_SECONDS = 20
USD = Decimal(COST)


class Door:
    """``charges.record`` that is held up until as many requests wait as are expected; who came, call by call."""

    def __init__(self, *, until: int) -> None:
        self.until = until
        self.calls: list[list[str]] = []
        self.entered = threading.Event()
        self.dies: BaseException | None = None

    def record(self, real: Callable[..., Any], items: Sequence[Attributed], **named: Any) -> Any:
        """The first call waits for the others to queue up."""
        self.calls.append([item.event.event_id for item in items])
        if len(self.calls) == 1:
            self.entered.set()
            end = threading.Event()
            for _ in range(WAIT_SECONDS * 100):
                if sum(map(len, batches._waiting.values())) >= self.until:
                    break
                end.wait(0.01)
            if self.dies is not None:
                raise self.dies
        return real(items, **named)


@contextmanager
def door(*, until: int) -> Iterator[Door]:
    """The first request that is charged meanwhile stands at the door until ``until`` others wait for it."""
    made = Door(until=until)
    with mock.patch.object(charges, "record", partial(made.record, charges.record)):
        yield made
    assert batches._waiting == {}


def side_by_side(books: Books, held: Door, *requests: tuple[Sequence[Attributed], UUID | None]) -> list[list[Verdict]]:
    """Verdicts of requests in threads of their own; the first is at the door before the others come."""

    def ask(place: int) -> list[Verdict]:
        if place:
            assert held.entered.wait(WAIT_SECONDS)
        items, reporter = requests[place]
        return list(batches.record(items, reported_by=reporter))

    return books.together([partial(ask, place) for place in range(len(requests))])


def of(owner: Organization, *names: str, **fields: Any) -> list[Attributed]:
    """Events of an organization by their ids."""
    return list(attributed(owner, *(event(event_id=name, **fields) for name in names)))


def charged(owner: Organization) -> list[str]:
    """The kinds of an organization's transfers since its credit."""
    return [kind for kind, _ in ledger(owner)[1:]]


def test_those_who_come_while_one_is_charged_are_charged_together(books: Books) -> None:
    acme = organization("acme", usd="1")
    names = ["b", "c", "d"]
    with door(until=3) as held:
        told = side_by_side(books, held, (of(acme, "a"), None), *((of(acme, name, name + "2"), None) for name in names))
    assert [statuses(one) for one in told] == [["created"], *[["created", "created"]] * 3]
    assert [[verdict.event_id for verdict in one] for one in told] == [["a"], ["b", "b2"], ["c", "c2"], ["d", "d2"]]
    # One transfer for the first, one for the three that waited.
    assert held.calls[0] == ["a"]
    assert sorted(held.calls[1]) == ["b", "b2", "c", "c2", "d", "d2"]
    assert len(held.calls) == 2
    assert charged(acme) == ["charge", "charge"]
    assert standing(acme).spent == 7 * USD
    found = dict(rows("SELECT event_id, id FROM usage_record"))
    assert {verdict.event_id: verdict.record_id for one in told for verdict in one} == found
    assert_sound()


def test_an_event_that_two_send_at_once_is_charged_to_one_and_a_duplicate_to_the_other(books: Books) -> None:
    acme = organization("acme", usd="1")
    same = of(acme, "same")
    with door(until=3) as held:
        told = side_by_side(
            books, held, (of(acme, "a"), None), (same, None), (same, None), (of(acme, "same", output_tokens=7), None)
        )
    words = sorted(statuses(one)[0] for one in told[1:])
    # Whoever was first in the queue stands; the other story is a conflict, or both of the first are.
    assert words in (["conflict", "created", "duplicate"], ["conflict", "conflict", "created"])
    assert rows("SELECT count(*) FROM usage_record WHERE event_id = 'same'") == [(1,)]
    assert_sound()


def test_nobody_waits_for_another_organization_and_no_reporter_is_taken_for_another(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    one, other = ids.new(), ids.new()
    with door(until=1) as held:
        told = side_by_side(
            books, held, (of(acme, "a"), one), (of(acme, "b"), one), (of(acme, "c"), other), (of(umbrella, "d"), one)
        )
    assert [statuses(each) for each in told] == [["created"]] * 4
    assert sorted(held.calls) == [["a"], ["b"], ["c"], ["d"]]
    assert dict(rows("SELECT event_id, reported_by FROM usage_record")) == {"a": one, "b": one, "c": other, "d": one}


@pytest.mark.parametrize("death", [RuntimeError("gone"), SystemExit(1)])
def test_who_led_and_died_leaves_the_others_to_be_charged(books: Books, death: BaseException) -> None:
    acme = organization("acme", usd="1")
    outcomes: list[str] = []
    with door(until=2) as held:
        held.dies = death

        def first() -> list[Verdict]:
            with pytest.raises(type(death)):
                batches.record(of(acme, "a"), reported_by=None)
            outcomes.append("died")
            return []

        def later(name: str) -> list[Verdict]:
            assert held.entered.wait(WAIT_SECONDS)
            return list(batches.record(of(acme, name), reported_by=None))

        calls: list[Callable[[], list[Verdict]]] = [first, partial(later, "b"), partial(later, "c")]
        told = books.together(calls)
    assert outcomes == ["died"]
    assert [statuses(one) for one in told] == [[], ["created"], ["created"]]
    assert standing(acme).spent == 2 * USD
    assert_sound()


def test_those_along_with_one_who_died_are_charged_each_alone(books: Books) -> None:
    acme = organization("acme", usd="1")
    real = charges.record

    def poisoned(items: Sequence[Attributed], **named: Any) -> Any:
        # The batch that three made together meets an error of its own.
        if len(items) == 3:
            raise RuntimeError("gone")
        return real(items, **named)

    lost: list[str] = []
    with mock.patch.object(charges, "record", poisoned), door(until=3) as held:

        def ask(name: str) -> list[Verdict]:
            if name != "a":
                assert held.entered.wait(WAIT_SECONDS)
            try:
                return list(batches.record(of(acme, name), reported_by=None))
            except RuntimeError:
                lost.append(name)
                return []

        told = books.together([partial(ask, name) for name in "abcd"])
    assert len(lost) == 1
    assert sum(statuses(one) == ["created"] for one in told) == 3
    assert standing(acme).spent == 3 * USD
    assert_sound()


def test_a_large_request_and_one_for_many_go_alone(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    many = of(acme, *(str(number) for number in range(batches.SMALL + 1)))
    mixed = [*of(acme, "x"), *(item._replace(place=1) for item in of(umbrella, "y"))]
    with mock.patch.object(batches, "_charge", side_effect=AssertionError("went along with others")):
        assert {verdict.status for verdict in batches.record(many, reported_by=None)} == {Status.CREATED}
        assert statuses(batches.record(mixed, reported_by=None)) == ["created", "created"]
        assert batches.record([], reported_by=None) == []


def test_no_more_go_together_than_make_a_batch(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = organization("acme", usd="1")
    monkeypatch.setattr(batches, "EVENTS_MAX", 3)
    with door(until=4) as held:
        told = side_by_side(
            books, held, (of(acme, "a"), None), *((of(acme, name, name * 2), None) for name in "bc"),
            *((of(acme, name), None) for name in "de"),
        )  # fmt: skip
    assert {word for one in told for word in statuses(one)} == {"created"}
    assert max(map(len, held.calls)) in {2, 3}
    assert sorted(name for call in held.calls for name in call) == ["a", "b", "bb", "c", "cc", "d", "e"]
    assert_sound()
