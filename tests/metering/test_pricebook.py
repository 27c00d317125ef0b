"""Drafts, their diff, four eyes, publication on time, and corrections of published prices."""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from core import clock, errors
from metering import catalog, pricebook, rating, rules
from metering.models import CatalogModel, Price, PriceDraft
from metering.pricebook import Line
from ops import approvals
from ops.models import Approval
from orgs import caches
from orgs.audit import Actor
from orgs.models import AuditEntry
from tests.billing import world
from tests.books import Books
from tests.metering import world as metering
from tests.metering.world import MODEL

ADA = Actor(kind="user", id="user_ada", label="ada@example.com")
BOB = Actor(kind="user", id="user_bob", label="bob@example.com")


def rates(input_rate: str, **more: str) -> dict[str, Any]:
    card = {"input": input_rate, "cached_input": "0.07", "output": "1.10", **more}
    return {"terms": [{"when": {}, "rates": card}]}


def later(**shift: int) -> datetime:
    return clock.now() + timedelta(hours=1, **shift)


def draft(*lines: Line, by: Actor = ADA) -> PriceDraft:
    return pricebook.draft(lines=lines or (line("0.28"),), source="a test", by=by)


def line(input_rate: str, *, start: datetime | None = None, **more: Any) -> Line:
    return Line(MODEL, start or later(), rates(input_rate), "a test", **more)


def price_now(at: datetime) -> Decimal:
    caches.forget_all()
    version = catalog.listing().price_at(MODEL, at)
    assert version is not None
    return rating.per_million(version.card.terms[0].rates.input or 0)


def test_a_draft_changes_nothing_and_its_diff_says_what_it_would(books: Books) -> None:
    made = draft()
    assert price_now(later(minutes=5)) == Decimal("0.27")
    changes = {change.where: change for change in pricebook.diff(made)}
    # Cache writes have no rate of their own, so they follow the input.
    assert set(changes) == {"input", "cache_write", "cache_write_1h"}
    change = changes["input"]
    assert (change.model, change.before, change.after) == (MODEL, Decimal("0.27"), Decimal("0.28"))
    assert (change.difference, change.percent) == (Decimal("0.01"), Decimal("3.70"))


def test_a_small_change_is_published_by_one_person(books: Books) -> None:
    made = draft()
    (price,) = pricebook.publish(made, by=ADA)
    assert price.revision == 1
    assert price_now(later(minutes=5)) == Decimal("0.28")
    assert price_now(clock.now()) == Decimal("0.27")
    with pytest.raises(errors.Conflict):
        pricebook.publish(made, by=ADA)


def test_a_large_change_waits_for_a_second_person(books: Books) -> None:
    made = draft(line("0.54"))
    with pytest.raises(approvals.ApprovalNeeded):
        pricebook.publish(made, by=ADA)
    with pytest.raises(approvals.ApprovalNeeded):
        pricebook.publish(made, by=BOB)
    asked = Approval.objects.get()
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=asked.pk, by=ADA, grant=True)
    assert not Price.objects.filter(source="a test").exists()
    approvals.decide(approval_id=asked.pk, by=BOB, grant=True)
    pricebook.publish(made, by=ADA)
    assert price_now(later(minutes=5)) == Decimal("0.54")


def test_a_refused_draft_stays_refused(books: Books) -> None:
    made = draft(line("0.54"))
    with pytest.raises(approvals.ApprovalNeeded):
        pricebook.publish(made, by=ADA)
    asked = Approval.objects.get()
    approvals.decide(approval_id=asked.pk, by=BOB, grant=False)
    for _ in range(2):
        with pytest.raises(errors.Conflict, match=f"A second person refused this draft \\({asked}\\)"):
            pricebook.publish(made, by=ADA)
        with pytest.raises(approvals.Refused):
            pricebook.schedule(made, at=later(), by=ADA)
    # Nobody is asked again, and it waits for nothing.
    assert Approval.objects.get().pk == asked.pk
    assert PriceDraft.objects.get().state == "open"
    pricebook.discard(made, by=ADA)
    with pytest.raises(errors.Conflict):
        pricebook.publish(made, by=ADA)


@pytest.mark.parametrize(("before", "after"), [("1", "0"), ("1", None), ("0", "1"), ("1", "1.11")])
def test_free_and_gone_count_as_beyond_any_limit(before: str, after: str | None) -> None:
    change = pricebook.Change("m", "input", Decimal(before), None if after is None else Decimal(after))
    assert pricebook.beyond_limit([change]) == [change]


@pytest.mark.parametrize("after", ["0.9", "1.1"])
def test_a_change_at_the_limit_needs_nobody_else(after: str) -> None:
    assert pricebook.beyond_limit([pricebook.Change("m", "input", Decimal(1), Decimal(after))]) == []


def test_a_scheduled_draft_is_published_when_due_and_approved(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = draft(line("0.28")), draft(line("0.60", start=later(days=1)))
    pricebook.schedule(small, at=later(minutes=-30), by=ADA)
    pricebook.schedule(large, at=later(minutes=-30), by=ADA)
    assert pricebook.publish_due(by=ADA) == []
    now = clock.now() + timedelta(minutes=31)
    monkeypatch.setattr(clock, "now", lambda: now)
    assert [done.pk for done in pricebook.publish_due(by=ADA)] == [small.pk]
    approvals.decide(approval_id=Approval.objects.get().pk, by=BOB, grant=True)
    assert [done.pk for done in pricebook.publish_due(by=ADA)] == [large.pk]


def due(*drafts: PriceDraft, patch: pytest.MonkeyPatch) -> None:
    """Schedule drafts a minute apart, and let that time come."""
    for place, made in enumerate(drafts):
        pricebook.schedule(made, at=later(minutes=place - 30), by=ADA)
    now = clock.now() + timedelta(minutes=45)
    patch.setattr(clock, "now", lambda: now)


def test_a_scheduled_draft_that_the_catalog_refuses_keeps_no_later_one_waiting(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = later(minutes=30)
    bad, good = draft(line("0.28", start=start)), draft(line("0.29", start=start + timedelta(days=1)))
    # The same start is published meanwhile with another rate, so the first of the two cannot be any more.
    pricebook.publish(draft(line("0.275", start=start)), by=ADA)
    PriceDraft.objects.filter(pk=bad.pk).update(report="two models were left out")
    due(bad, good, patch=monkeypatch)
    assert [done.pk for done in pricebook.publish_due(by=BOB)] == [good.pk]
    left = PriceDraft.objects.get(pk=bad.pk)
    assert (left.state, left.publish_at) == ("open", None)
    before, told = left.report.split("\n")
    assert before == "two models were left out"
    assert told.startswith(f"Not published at {clock.now():%Y-%m-%d %H:%M} UTC: {MODEL}: ")
    note = AuditEntry.objects.get(verb="price_draft.not_published")
    assert (note.subject_id, note.actor_label) == (str(bad), "bob@example.com")
    assert note.details["why"] in told
    # It is not tried again by itself.
    assert pricebook.publish_due(by=BOB) == []
    assert AuditEntry.objects.filter(verb="price_draft.not_published").count() == 1


def test_a_scheduled_draft_that_was_refused_is_open_again_and_asks_nobody(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, good = draft(line("0.60")), draft(line("0.28", start=later(days=1)))
    pricebook.schedule(refused, at=later(minutes=-30), by=ADA)
    asked = Approval.objects.get()
    approvals.decide(approval_id=asked.pk, by=BOB, grant=False)
    due(good, patch=monkeypatch)
    # It is still 0.27 when the second one is looked at, whose change is small enough.
    assert [done.pk for done in pricebook.publish_due(by=ADA)] == [good.pk]
    left = PriceDraft.objects.get(pk=refused.pk)
    assert left.state == "open"
    assert f"A second person refused this draft ({asked})" in left.report
    assert Approval.objects.count() == 1


def test_a_database_that_cannot_now_leaves_a_draft_scheduled_and_is_raised_after_the_others(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, good = draft(line("0.28", start=later(days=2))), draft(line("0.29", start=later(days=1)))
    stuck_start = pricebook.lines_of(stuck)[0].effective_from
    due(stuck, good, patch=monkeypatch)
    append = catalog.append

    def locked(price: Price) -> None:
        if price.effective_from == stuck_start:
            raise OperationalError("canceling statement due to lock timeout")
        append(price)

    monkeypatch.setattr(catalog, "append", locked)
    with pytest.raises(OperationalError):
        pricebook.publish_due(by=ADA)
    assert dict(PriceDraft.objects.values_list("pk", "state")) == {stuck.pk: "scheduled", good.pk: "published"}
    monkeypatch.setattr(catalog, "append", append)
    assert [done.pk for done in pricebook.publish_due(by=ADA)] == [stuck.pk]


def test_a_wrong_price_is_corrected_by_a_revision_from_its_start(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Price.objects.get(model__slug=MODEL)
    made = draft(line("0.28", corrects=wrong.pk))
    (price,) = pricebook.publish(made, by=ADA)
    assert (price.revision, price.effective_from) == (2, wrong.effective_from)
    # Until it is active everywhere, everything is still rated by the old one, wherever it is asked.
    assert price_now(clock.now()) == Decimal("0.27")
    now = clock.now() + timedelta(minutes=5)
    monkeypatch.setattr(clock, "now", lambda: now)
    assert price_now(now - timedelta(days=1)) == Decimal("0.28")
    assert Price.objects.get(pk=wrong.pk).rates == wrong.rates


def test_a_correction_of_what_was_corrected_meanwhile_is_refused(books: Books) -> None:
    wrong = Price.objects.get(model__slug=MODEL)
    first, second = draft(line("0.28", corrects=wrong.pk)), draft(line("0.29", corrects=wrong.pk))
    (price,) = pricebook.publish(first, by=ADA)
    with pytest.raises(errors.OutOfRange, match="was corrected meanwhile"):
        pricebook.publish(second, by=ADA)
    assert Price.objects.filter(model__slug=MODEL).count() == 2
    # Whoever corrects the correction names it.
    (again,) = pricebook.publish(draft(line("0.29", corrects=price.pk)), by=ADA)
    assert again.revision == 3


def test_two_corrections_of_one_price_do_not_race(books: Books) -> None:
    wrong = Price.objects.get(model__slug=MODEL)
    drafts = [draft(line("0.28", corrects=wrong.pk)), draft(line("0.29", corrects=wrong.pk))]

    def publish(made: PriceDraft) -> str:
        try:
            return str(pricebook.publish(made, by=ADA)[0].revision)
        except Exception as error:  # noqa: BLE001 - the loser is refused, by whichever guard comes first
            return type(error).__name__

    told = sorted(books.together([partial(publish, made) for made in drafts]))
    assert Price.objects.filter(model__slug=MODEL).count() == 1 + sum(answer.isdecimal() for answer in told)
    assert len({*Price.objects.filter(model__slug=MODEL).values_list("revision", flat=True)}) >= 2


def test_what_last_month_would_have_cost_is_told_by_organization(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = world.organization("acme", usd="1")
    world.charge(acme, metering.event(), metering.event(), metering.event(model="gpt-4o"))
    next_month = (clock.now().replace(day=1) + timedelta(days=40)).replace(day=2)
    monkeypatch.setattr(clock, "now", lambda: next_month)
    made = draft(line("0.54", start=next_month + timedelta(days=1)))
    # 360 × 0.54 + 640 × 0.07 + 200 × 1.10 = 459.2 millionths, twice.
    assert pricebook.touched(made) == [("acme", 2, Decimal("0.000724"), Decimal("0.0009184"))]


def test_what_last_month_would_have_cost_takes_markups_along_and_leaves_contracts_alone(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CatalogModel.objects.get(slug=MODEL)
    marked, bound = world.organization("marked", usd="1"), world.organization("bound", usd="1")
    start = later()
    rules.publish(by=ADA, reason="twice", effective_from=start, organization=marked, factor=Decimal(2))
    rules.publish(by=ADA, reason="own", effective_from=start, organization=bound, model=model, rates=rates("1"))
    caches.forget_all()
    for of in (marked, bound):
        world.charge(of, *(metering.event(occurred_at=start + timedelta(minutes=1)) for _ in range(3)))
    next_month = (clock.now().replace(day=1) + timedelta(days=40)).replace(day=2)
    monkeypatch.setattr(clock, "now", lambda: next_month)
    made = draft(line("0.54", start=next_month + timedelta(days=1)))
    with CaptureQueriesContext(connection) as seen:
        told = pricebook.touched(made)
    # Twice 362 and twice 459.2 millionths, three times; 360 × 1 + 640 × 0.07 + 200 × 1.10 = 624.8, three times.
    assert told == [
        ("marked", 3, Decimal("0.002172"), Decimal("0.0027552")),
        ("bound", 3, Decimal("0.0018744"), Decimal("0.0018744")),
    ]
    # Each rule is read once, however many records it applied to.
    assert sum('FROM "price_rule"' in query["sql"] for query in seen) == 2


def test_what_last_month_would_have_cost_may_be_too_much_to_read(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    world.charge(world.organization("acme", usd="1"), *(metering.event() for _ in range(3)))
    next_month = (clock.now().replace(day=1) + timedelta(days=40)).replace(day=2)
    monkeypatch.setattr(clock, "now", lambda: next_month)
    made = draft(line("0.54", start=next_month + timedelta(days=1)))
    assert pricebook.touched(made, records_max=3)[0].records == 3
    with pytest.raises(errors.OutOfRange):
        pricebook.touched(made, records_max=2)


@pytest.mark.parametrize(
    "wrong",
    [
        Line("nobody", later(), rates("1"), "x"),
        Line(MODEL, later(), {"terms": []}, "x"),
        Line(MODEL, later(), rates("-1"), "x"),
        Line(MODEL, later(), rates("NaN"), "x"),
        Line(MODEL, later(), rates("1"), "x", effective_to=later(days=-1)),
    ],
)
def test_a_bad_line_is_refused_by_its_place_and_nothing_is_kept(db: None, wrong: Line) -> None:
    with pytest.raises(errors.OutOfRange) as refused:
        draft(line("0.28"), wrong)
    assert refused.value.param == "lines[1]"
    assert PriceDraft.objects.count() == 0


def test_a_line_that_would_rewrite_the_present_publishes_nothing_of_its_draft(books: Books) -> None:
    made = draft(line("0.28"), Line("gpt-4o", clock.now(), rates("2.5"), "x"))
    before = Price.objects.count()
    with pytest.raises((errors.OutOfRange, approvals.ApprovalNeeded)):
        pricebook.publish(made, by=ADA)
    assert Price.objects.count() == before
