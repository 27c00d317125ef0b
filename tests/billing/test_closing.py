"""Closing periods: what becomes of a month, whoever closes it, however often, and whatever happens meanwhile."""

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest

from billing import closing, corrections, profiles, wallets
from billing.ledger import Terms
from billing.models import BillingPeriod, Invoice, NumberSeries
from core import errors, failpoints
from metering import rollups
from metering.verdicts import Status
from orgs.models import AuditEntry, Organization
from tests.billing import history
from tests.billing.corruption import tamper
from tests.billing.months import (
    ADA,
    DAY,
    USD,
    assert_nothing_is_left,
    at,
    buy,
    close,
    document,
    documents,
    fold,
    go_to,
    lines,
    receive,
    sold,
    taxed,
    use,
)
from tests.billing.world import assert_all, assert_sound, organization, part_of, record, rows
from tests.books import Books
from tests.clocks import Clock
from tests.journeys.neighbours import EVENTS, Caller
from tests.metering import world as metering
from tests.nursery import Nursery
from tests.orgs import world as people
from tests.proofs import proves

JUNE = "2031-06-01T00:00:00Z"
TOKENS = {"input_tokens": 1_000_000, "cached_input_tokens": 0, "output_tokens": 0}
JULY = "2031-07-01T00:00:00Z"


def test_a_prepaid_month_becomes_a_statement_of_what_moved(calendar: Clock) -> None:
    acme = organization("acme", usd="5")
    quiet = organization("quiet")
    buy(acme, "20")
    use(acme, events=3)
    go_to(calendar, JUNE)
    use(acme)
    done = close(calendar)
    assert (done.opened, done.drafted, done.finalized, done.parked) == (2, 1, 2, 0)
    found = document(acme)
    assert (found.kind, found.state, found.number, found.total_usd) == ("statement", "issued", None, Decimal("24.19"))
    assert (found.opening_usd, found.closing_usd) == (0, Decimal("24.19"))
    assert lines(found) == [("topup", "20", "20.00"), ("given", "5", "5.00"), ("deepseek-chat", "-0.81", "-0.81")]
    assert (found.starts_at, found.ends_at) == (at("2031-05-01T00:00:00Z"), at(JUNE))
    # Nothing moved there, so there is nothing to say; its time is accounted for all the same.
    assert documents(quiet) == []
    assert BillingPeriod.objects.filter(organization=quiet).count() == 2
    assert_nothing_is_left()


def test_a_postpaid_month_becomes_an_invoice_of_what_is_owed(calendar: Clock) -> None:
    acme = sold("acme")
    buy(acme, "1")
    use(acme, events=10)
    use(acme, input_tokens=10_007)
    go_to(calendar, JUNE)
    close(calendar)
    found = document(acme)
    # 10 × 0.27 + 10,007 × 0.27 / 1M − 1
    assert found.exact_usd == Decimal("1.70270189")
    assert lines(found) == [("deepseek-chat", "2.70270189", "2.70"), ("credit", "-1", "-1.00")]
    assert (found.kind, found.state, found.total_usd) == ("invoice", "open", Decimal("1.70"))
    assert found.number == "TB-2031-000001"
    use(acme)
    receive(found, "1.70", "paid")
    go_to(calendar, JULY)
    close(calendar)
    found = documents(acme)[-1]
    assert lines(found) == [("deepseek-chat", "0.27", "0.27"), ("carried", "0.00270189", "0.00")]
    assert (found.number, found.total_usd) == ("TB-2031-000002", USD)
    assert_nothing_is_left()
    assert_sound()


def test_a_remainder_below_a_cent_is_carried_until_it_is_one(calendar: Clock) -> None:
    acme = sold("acme")
    kinds = []
    for month in ("06", "07", "08", "09"):
        # 13,000 × 0.27 / 1M = 0.00351
        use(acme, input_tokens=13_000)
        go_to(calendar, f"2031-{month}-01T00:00:00Z")
        close(calendar)
        kinds.append([one.kind for one in documents(acme)][-1])
    # 0.00351 and 0.00702 round to nothing and to a cent; then there are 0.00298 too much, and 0.00404 too little.
    assert kinds == ["statement", "invoice", "statement", "statement"]
    last = documents(acme)[1]
    assert lines(last) == [("deepseek-chat", "0.00351", "0.01"), ("carried", "0.00351", "0.00")]
    assert BillingPeriod.objects.get(ends_at=at("2031-08-01T00:00:00Z")).carried_usd == Decimal("0.00053")
    assert_sound()


def used_by(owner: Organization, *, events: int = 1, **of: Any) -> None:
    """Usage of 0.27 USD an event by a key, a member or a project, or that another wallet may pay for."""
    told = metering.attributed(owner, *(metering.event(**TOKENS) for _ in range(events)))
    assert_all(record([one._replace(**of) for one in told]), Status.CREATED)


def guest(of: Organization, *, usd: str = "0") -> tuple[Organization, dict[str, Any]]:
    """A member's own organization, and what says that its wallet may pay for the member's calls."""
    who = people.member(of, f"ann@{of.slug}.example")
    own = people.personal(who.user)
    if Decimal(usd):
        buy(own, usd)
    return own, {"member_id": who.pk, "fallback_id": own.pk}


def test_usage_is_told_apart_by_model_key_or_project_as_the_profile_asks(calendar: Clock) -> None:
    acme, other = sold("acme", grouping="api_key"), sold("other", grouping="project")
    key, project = part_of(acme), part_of(other, "project")
    used_by(acme, events=2, api_key_id=key)
    used_by(other, events=3, project_id=project, api_key_id=part_of(other))
    use(acme, model="gpt-4o")
    use(other)
    go_to(calendar, JUNE)
    close(calendar)
    told = "SELECT api_key_id, project_id, model, requests FROM invoice_line WHERE invoice_id = %s ORDER BY place"
    assert rows(told, document(acme).pk) == [
        (key, None, "deepseek-chat", 2), (None, None, "gpt-4o", 1),
    ]  # fmt: skip
    assert rows(told, document(other).pk) == [
        (None, None, "deepseek-chat", 1), (None, project, "deepseek-chat", 3),
    ]  # fmt: skip
    assert_sound()


@pytest.mark.one_database
def test_usage_stands_on_the_document_of_whoever_paid(calendar: Clock) -> None:
    acme = organization("acme", usd="0.30")
    ann, called = guest(acme, usd="5")
    wallets.change_terms(organization_id=acme.pk, terms=Terms(mode="fallback"), reason="tests", by=ADA)
    use(ann)
    # The first is covered; then ann pays.
    used_by(acme, **called)
    used_by(acme, events=2, **called)
    go_to(calendar, JUNE)
    assert close(calendar).parked == 0
    assert lines(document(acme))[-1] == ("deepseek-chat", "-0.27", "-0.27")
    assert lines(document(ann))[-1] == ("deepseek-chat", "-0.81", "-0.81")
    assert_sound()


def test_what_is_taken_back_later_stands_on_the_next_document(calendar: Clock) -> None:
    acme = sold("acme")
    use(acme, event_id="wrong")
    go_to(calendar, JUNE)
    close(calendar)
    corrections.void(organization_id=acme.pk, event_id="wrong", reason="tests", by=ADA)
    use(acme, events=3)
    go_to(calendar, JULY)
    close(calendar)
    # Three were used and one was taken back, which is still asked for by the invoice of May.
    assert lines(documents(acme)[-1]) == [("deepseek-chat", "0.54", "0.54")]
    assert_sound()


def test_a_top_up_instead_of_a_payment_is_not_asked_for_twice(calendar: Clock) -> None:
    acme = sold("acme")
    use(acme, events=100)
    go_to(calendar, JUNE)
    close(calendar)
    buy(acme, "27")
    use(acme, events=10)
    go_to(calendar, JULY)
    close(calendar)
    # The wallet owes 2.70, and the open invoice asks for 27 already.
    assert [one.kind for one in documents(acme)] == ["invoice", "statement"]
    receive(documents(acme)[0], "27.00", "late")
    use(acme, events=100)
    go_to(calendar, "2031-08-01T00:00:00Z")
    close(calendar)
    # 27 came twice: 29.70 were used before, so 24.30 of credit were left for this month's 27.
    assert documents(acme)[-1].total_usd == Decimal("2.70")
    assert lines(documents(acme)[-1]) == [
        ("deepseek-chat", "27", "27.00"), ("credit", "0", "0.00"), ("carried", "-24.3", "-24.30"),
    ][:1] + lines(documents(acme)[-1])[1:]  # fmt: skip
    assert_sound()


def test_a_grace_passes_before_a_draft_is_final(calendar: Clock) -> None:
    acme = sold("acme")
    use(acme)
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()
    assert closing.close_due().drafted == 1
    draft = document(acme)
    assert (draft.state, draft.number, draft.total_usd) == ("draft", None, USD)
    calendar.move(timedelta(hours=23))
    assert closing.finalize_due() == closing.Closed()
    period = BillingPeriod.objects.get(state="drafted")
    assert closing.finalize(period_id=period.pk, by=ADA).state == "finalized"
    assert document(acme).state == "open"
    with pytest.raises(errors.Conflict):
        closing.finalize(period_id=period.pk, by=ADA)


def test_a_run_that_is_out_of_time_leaves_the_rest_to_the_next(calendar: Clock) -> None:
    acme = sold("acme")
    use(acme)
    go_to(calendar, "2031-06-03T00:00:00Z")
    fold()
    assert closing.close_due(until=calendar.at) == closing.Closed(opened=1)
    assert closing.close_due(until=calendar.at + DAY).drafted == 1
    assert closing.finalize_due(until=calendar.at) == closing.Closed()
    assert closing.finalize_due(until=calendar.at + DAY).finalized == 1


def test_another_zone_counts_from_the_next_period_on(calendar: Clock) -> None:
    acme = organization("acme", usd="1")
    closing.close_due()
    Organization.objects.filter(pk=acme.pk).update(time_zone="Asia/Tokyo")
    profiles.set_profile(organization_id=acme.pk, fields={"anchor_day": 15}, by=ADA)
    go_to(calendar, JUNE)
    close(calendar)
    go_to(calendar, JULY)
    close(calendar)
    found = [(one.starts_at, one.ends_at) for one in BillingPeriod.objects.order_by("starts_at")]
    assert found == [
        (at("2031-05-01T00:00:00Z"), at(JUNE)), (at(JUNE), at("2031-06-14T15:00:00Z")),
        (at("2031-06-14T15:00:00Z"), at("2031-07-14T15:00:00Z")),
    ]  # fmt: skip


# Many workers, killed workers


def numbers(**chosen: str) -> list[int]:
    """The numbers given so far, in order."""
    found = Invoice.objects.exclude(state="draft").filter(sequence__isnull=False, **chosen).order_by("sequence")
    return [one.sequence or 0 for one in found]


def crowd(count: int) -> list[Organization]:
    """Organizations with a month of usage, every other one postpaid."""
    made = [
        sold(f"org-{place:03}") if place % 2 else organization(f"org-{place:03}", usd="9") for place in range(count)
    ]
    for owner in made:
        use(owner)
    return made


@proves("J07", guard="periods_are_taken_under_their_lock")
@pytest.mark.one_database
def test_eight_workers_write_each_document_once(books: Books, calendar: Clock) -> None:
    owners = crowd(60)
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()
    drafted = books.together([closing.close_due] * 8)
    assert sum(one.drafted for one in drafted) == 60
    calendar.move(DAY)
    finalized = books.together([closing.finalize_due] * 8)
    assert sum(one.finalized for one in finalized) == 60
    assert sorted(one.organization_id for one in Invoice.objects.all()) == sorted(one.pk for one in owners)
    assert numbers(kind="invoice") == list(range(1, 31))
    assert BillingPeriod.objects.count() == 120
    assert_nothing_is_left()
    assert_sound()


def run_jobs() -> None:
    """Both jobs, once."""
    closing.close_due()
    closing.finalize_due()


@proves("J01", guard="numbers_are_given_with_their_documents")
def test_a_worker_killed_at_any_step_leaves_no_half_document(
    calendar: Clock, nursery: Nursery, disabled_guard: str | None
) -> None:
    taxed("DE")
    owners = [sold(f"org-{place}", country="DE") for place in range(8)]
    for owner in owners:
        use(owner)
    go_to(calendar, "2031-06-03T00:00:00Z")
    fold()
    closing.open_missing()

    def die(name: str, nth: int = 1) -> None:
        ended = nursery.run("tests.billing.test_closing:run_jobs", dies_at=name, nth=nth, without=disabled_guard)
        assert ended.died, (name, ended)

    for name in ("close.after_snapshot", "close.after_documents", "close.before_commit"):
        die(name)
        assert Invoice.objects.count() == 0
        assert BillingPeriod.objects.count() == 8
    die("close.after_commit")
    assert Invoice.objects.filter(state="draft").count() == 8
    assert BillingPeriod.objects.count() == 16
    die("finalize.after_snapshot")
    # Each of them finalizes one, and dies in the next.
    for done, name in enumerate(
        ("finalize.after_draft", "issue.after_ledger", "issue.after_number", "finalize.before_commit"), start=1
    ):
        die(name, nth=2)
        assert numbers() == list(range(1, done + 1))
        assert [row.last_number for row in NumberSeries.objects.all()] == [done]
    run_jobs()
    assert numbers() == list(range(1, 9))
    assert {one.state for one in Invoice.objects.all()} == {"open"}
    assert_nothing_is_left()
    assert_sound()


@proves("J10", guard="periods_are_finalized_once")
def test_whoever_runs_it_again_finds_nothing_to_do(calendar: Clock) -> None:
    crowd(4)
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()
    closing.close_due()
    calendar.move(DAY)
    stale = list(BillingPeriod.objects.filter(state="drafted"))
    assert closing.finalize_due().finalized == 4
    assert_nothing_is_left()
    # An operator whose page still shows drafts.
    assert closing._finalize_all(stale) == []
    for period in stale:
        with pytest.raises(errors.Conflict):
            closing.finalize(period_id=period.pk, by=ADA)
    assert_nothing_is_left()


# What is not right


@proves("J11", guard="documents_are_held_against_what_was_charged")
def test_data_that_would_make_a_wrong_document_parks_it(books: Books, calendar: Clock) -> None:
    wrong, dear, jumped, fine = (sold(f"{name}-org") for name in ("wrong", "dear", "jumped", "fine"))
    for owner in (wrong, dear, jumped, fine):
        use(owner)
    go_to(calendar, JUNE)
    assert close(calendar).finalized == 4
    profiles.set_profile(organization_id=dear.pk, fields={"bound_usd": Decimal("0.5")}, by=ADA)
    use(wrong)
    use(fine, events=3)
    use(dear, events=2)
    # 6 × 0.27 M tokens would be 1.62; a thousandfold of it is beyond three times the mean, and the floor.
    use(jumped, events=10, input_tokens=999_000_000)
    go_to(calendar, JULY)
    calendar.move(timedelta(minutes=16))
    fold()
    tamper(books, f"UPDATE usage_rollup SET cost_usd = cost_usd * 100 WHERE organization_id = '{wrong.pk}' RETURNING 1")
    assert closing.close_due().parked == 3
    calendar.move(2 * DAY)
    assert closing.finalize_due() == closing.Closed(finalized=1)
    parked = {one.organization.slug: one for one in BillingPeriod.objects.filter(state="parked")}
    assert {slug: one.parked_for for slug, one in parked.items()} == {
        "wrong-org": "usage of 27 USD, and the ledger charged 0.27",
        "dear-org": "0.54 USD is above the bound of 0.5",
        "jumped-org": "2697.3 USD is more than 3 times the mean before of 0.27",
    }
    assert Invoice.objects.filter(state="draft").count() == 3
    # A person lets them pass; what differs from the ledger does not.
    for one in parked.values():
        closing.release(period_id=one.pk, reason="looked at", by=ADA)
    assert closing.finalize_due() == closing.Closed(finalized=2, parked=1)
    (left,) = BillingPeriod.objects.filter(state="parked")
    assert left.organization_id == wrong.pk
    # Until it is repaired.
    tamper(
        books,
        f"UPDATE usage_rollup SET cost_usd = 0.27 WHERE organization_id = '{wrong.pk}' AND records = 1 RETURNING 1",
    )
    closing.release(period_id=left.pk, reason="repaired", by=ADA)
    assert closing.finalize_due() == closing.Closed(finalized=1)
    assert_sound()


def test_one_that_cannot_be_worked_out_is_parked_and_holds_up_no_other(
    calendar: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, *others = crowd(5)
    closing.open_missing()
    Organization.objects.filter(pk=broken.pk).update(time_zone="Nowhere/Land")
    go_to(calendar, JUNE)
    done = close(calendar)
    assert (done.drafted, done.finalized, done.parked) == (4, 4, 1)
    parked = BillingPeriod.objects.get(state="parked")
    assert parked.organization_id == broken.pk
    assert "Nowhere/Land" in parked.parked_for
    assert "could not be drafted" in caplog.text
    Organization.objects.filter(pk=broken.pk).update(time_zone="UTC")
    closing.release(period_id=parked.pk, reason="repaired", by=ADA)
    assert close(calendar).finalized == 1
    assert len(others) == Invoice.objects.exclude(organization=broken).count()
    assert_sound()


def test_a_rate_of_tax_that_is_missing_parks_the_invoice(calendar: Clock) -> None:
    acme = sold("acme", country="DE")
    profiles.set_entity(slug="default", fields={"country": "DE"}, by=ADA)
    use(acme)
    go_to(calendar, JUNE)
    assert close(calendar).parked == 1
    period = BillingPeriod.objects.get(state="parked")
    assert period.parked_for == "No rate of tax is entered for DE."
    taxed("DE")
    closing.release(period_id=period.pk, reason="entered", by=ADA)
    assert closing.finalize_due().finalized == 1
    assert document(acme).tax_usd == Decimal("0.05")
    with pytest.raises(errors.Conflict):
        closing.release(period_id=period.pk, reason="again", by=ADA)


def test_the_audit_trail_says_that_a_draft_was_finalized_by_hand_only_if_it_was(calendar: Clock) -> None:
    acme = sold("acme", country="DE")
    profiles.set_entity(slug="default", fields={"country": "DE"}, by=ADA)
    use(acme)
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()
    closing.close_due()
    period = BillingPeriod.objects.get(state="drafted")
    told = AuditEntry.objects.filter(verb="billing_period.finalized")
    with pytest.raises(errors.Conflict, match="No rate of tax"):
        closing.finalize(period_id=period.pk, by=ADA)
    assert not told.exists()
    taxed("DE")
    closing.release(period_id=period.pk, reason="entered", by=ADA)
    closing.finalize(period_id=period.pk, by=ADA)
    assert told.count() == 1


@proves("J14", guard="only_final_usage_is_folded")
def test_what_commits_late_is_waited_for(calendar: Clock) -> None:
    acme = sold("acme")
    closing.open_missing()
    go_to(calendar, "2031-05-31T23:59:59Z")
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go_on.wait(20)

    late = threading.Thread(target=_in_thread(lambda: use(acme)), daemon=True)
    with failpoints.armed("charge.before_commit", wait):
        late.start()
        assert reached.wait(20)
        # The month is over, and its last record is not there yet.
        calendar.move(timedelta(seconds=31))
        fold()
        closing.close_due()
        go_on.set()
        late.join(20)
    close(calendar)
    assert [lines(one) for one in documents(acme)] == [[("deepseek-chat", "0.27", "0.27")]]
    assert_sound()


@proves("I07", guard="periods_go_by_when_usage_was_recorded")
@proves("I07", guard="prices_go_by_when_it_happened")
@proves("I07", guard="events_have_a_window")
def test_what_arrives_after_its_month_was_invoiced_is_on_the_next_invoice_at_the_price_of_its_own_day(
    calendar: Clock,
) -> None:
    acme = sold("acme")
    # A dollar per 1M tokens in May, two from June on.
    dear = (at(JUNE), None, "2")
    history.publish(history.entry("dated-1", (at("2031-05-01T00:00:00Z"), at(JUNE), "1"), dear))
    gateway = Caller("gateway", people.service_key().secret)

    def arrive(*days: str) -> list[str]:
        """Events of noon of these days, a batch; the verdicts."""
        batch = [
            {
                "event_id": day,
                "model": "dated-1",
                "occurred_at": f"2031-{day}T12:00:00Z",
                "organization": "acme",
                **TOKENS,
            }
            for day in days
        ]
        return [verdict["status"] for verdict in gateway.post(EVENTS, batch).json()["data"]]

    may = [f"05-{day}" for day in range(20, 32)]
    june = [f"06-{day:02}" for day in range(1, 20)]
    random.Random(7).shuffle(may)
    go_to(calendar, "2031-05-31T23:00:00Z")
    assert arrive(*may[:5]) == ["created"] * 5
    go_to(calendar, JUNE)
    assert close(calendar).parked == 0
    go_to(calendar, "2031-06-20T12:00:00Z")
    late = may[5:] + june
    random.Random(8).shuffle(late)
    assert arrive(*late) == ["created"] * 26
    # Fifty days later nobody takes it any more; what is there already is not taken again.
    assert arrive("05-01", *may[:2]) == ["rejected", "duplicate", "duplicate"]
    go_to(calendar, JULY)
    assert close(calendar).parked == 0
    # 5 of May; then 7 of May at 1 USD and 19 of June at 2.
    assert [lines(one) for one in documents(acme)] == [[("dated-1", "5", "5.00")], [("dated-1", "45", "45.00")]]
    assert rows("SELECT requests FROM invoice_line ORDER BY requests") == [(5,), (26,)]
    assert_sound()


def _in_thread(act: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        from django.db import connection

        try:
            act()
        finally:
            connection.close()

    return run


@pytest.mark.one_database
def test_usage_goes_on_while_months_are_closed(books: Books, calendar: Clock) -> None:
    owners = crowd(12)
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()

    def go_on(owner: Organization) -> closing.Closed:
        for _ in range(5):
            use(owner)
        return closing.Closed()

    books.together([*(lambda one=one: go_on(one) for one in owners[:6]), *[closing.close_due] * 3])
    calendar.move(DAY)
    books.together([*(lambda one=one: go_on(one) for one in owners[6:]), *[closing.finalize_due] * 3])
    assert rows("SELECT sum(charged_usd) FROM billing_period") == [(12 * USD,)]
    go_to(calendar, JULY)
    close(calendar)
    assert rows("SELECT sum(charged_usd) FROM billing_period") == [(72 * USD,)]
    assert_sound()


# Every record is on one document


@pytest.mark.one_database
@pytest.mark.parametrize("seed", [1, 2])
def test_every_record_is_on_one_document_whatever_clocks_and_calendars_do(calendar: Clock, seed: int) -> None:
    """Zones from −11 to +14, anchors that change, leaps of the clock over months, daylight saving and leap days."""
    chosen = random.Random(seed)
    zones = ["Pacific/Pago_Pago", "Pacific/Kiritimati", "America/New_York", "Europe/Berlin", "Asia/Kathmandu", "UTC"]
    owners = []
    for place, zone in enumerate(zones):
        made = sold(f"org-{place}", zone=zone, anchor_day=chosen.choice([1, 15, 29, 31])) if place % 2 else None
        owners.append(made or organization(f"org-{place}", usd="2"))
        Organization.objects.filter(pk=owners[-1].pk).update(time_zone=zone)
    # A caller's own wallet pays where this one is empty.
    own, called = guest(owners[0], usd="5")
    wallets.change_terms(organization_id=owners[0].pk, terms=Terms(mode="fallback"), reason="tests", by=ADA)
    go_to(calendar, "2031-09-15T12:00:00Z")
    for _ in range(24):
        calendar.move(chosen.choice([timedelta(minutes=7), timedelta(hours=9), DAY, 6 * DAY, 20 * DAY, 40 * DAY]))
        for owner in (owners[0], *chosen.sample(owners[1:], 2)):
            used_by(owner, events=chosen.randint(1, 2), **called if owner == owners[0] else {})
        if chosen.random() < 0.3:
            Organization.objects.filter(pk=chosen.choice(owners).pk).update(time_zone=chosen.choice(zones))
        if chosen.random() < 0.3:
            fields = {"anchor_day": chosen.randint(1, 31), "terms": chosen.choice(["prepaid", "postpaid"])}
            profiles.set_profile(organization_id=chosen.choice(owners).pk, fields=fields, by=ADA)
        if chosen.random() < 0.5:
            fold()
            closing.close_due()
            closing.finalize_due()
    calendar.move(70 * DAY)
    assert close(calendar).parked == 0
    # Each record lies in one period of its payer's, and the lines of that period's document are its records.
    assert rows(
        "SELECT count(*) FROM usage_record r WHERE (SELECT count(*) FROM billing_period p JOIN invoice i"
        " ON i.period_id = p.id AND i.state <> 'draft' WHERE p.organization_id = r.payer_id"
        " AND p.starts_at <= r.recorded_at AND r.recorded_at < p.ends_at) <> 1"
    ) == [(0,)]
    assert (
        rows(
            "SELECT i.id, abs(l.usd), l.requests, r.usd, r.many FROM invoice i CROSS JOIN LATERAL ("
            "SELECT coalesce(sum(exact_usd), 0) AS usd, coalesce(sum(requests), 0) AS requests FROM invoice_line"
            " WHERE invoice_id = i.id AND kind = 'usage') l CROSS JOIN LATERAL ("
            "SELECT coalesce(sum(cost_usd), 0) AS usd, count(*) AS many FROM usage_record"
            " WHERE payer_id = i.organization_id"
            " AND recorded_at >= i.starts_at AND recorded_at < i.ends_at) r"
            " WHERE (abs(l.usd), l.requests) <> (r.usd, r.many)"
        )
        == []
    )
    assert rows("SELECT count(*) > 30 FROM usage_record") == [(True,)]
    assert rows("SELECT count(*) > 0 FROM usage_record WHERE payer_id = %s", own.pk) == [(True,)]
    assert_nothing_is_left()
    assert_sound()


def test_closing_takes_as_many_queries_for_one_as_for_many(calendar: Clock, django_assert_num_queries: Any) -> None:
    crowd(6)
    closing.open_missing()
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()
    due = list(BillingPeriod.objects.order_by("pk"))
    profiles.of_many([one.organization_id for one in due])
    with mock.patch.object(rollups, "folded_until", return_value=at(JULY)):
        for some in (due[:1], due):
            with django_assert_num_queries(8):
                assert len(closing.work_out(some)) == len(some)


def test_a_person_closes_a_period_that_is_over_and_no_other(calendar: Clock) -> None:
    acme, quiet = organization("acme", usd="5"), organization("quiet")
    use(acme, events=3)
    closing.open_missing()
    period = BillingPeriod.objects.get(organization=acme)
    with pytest.raises(errors.Conflict, match="something may still be recorded"):
        closing.close(period_id=period.pk, by=ADA)
    # Over by the calendar, and not yet folded: what ran at the end of May may be missing.
    go_to(calendar, JUNE)
    with pytest.raises(errors.Conflict, match="something may still be recorded"):
        closing.close(period_id=period.pk, by=ADA)
    assert AuditEntry.objects.filter(verb="billing_period.closed").count() == 0
    calendar.move(timedelta(minutes=16))
    fold()
    closed = closing.close(period_id=period.pk, by=ADA)
    assert (closed.state, closed.charged_usd, closed.closing_usd) == ("drafted", Decimal("0.81"), Decimal("4.19"))
    assert document(acme).state == "draft"
    note = AuditEntry.objects.get(verb="billing_period.closed")
    assert (note.actor_label, note.organization_id, note.details["before"]) == ("ada@example.com", acme.pk, "open")
    with pytest.raises(errors.Conflict, match="Only an open period"):
        closing.close(period_id=period.pk, by=ADA)
    # The next one waits: it is not over, and would wait for this one if it were.
    june = BillingPeriod.objects.get(organization=acme, state="open")
    go_to(calendar, JULY)
    calendar.move(timedelta(minutes=16))
    fold()
    with pytest.raises(errors.Conflict, match="before it has to be finalized"):
        closing.close(period_id=june.pk, by=ADA)
    # What nobody used is closed at once, and says nothing.
    empty = BillingPeriod.objects.get(organization=quiet)
    assert closing.close(period_id=empty.pk, by=ADA).state == "finalized"
    assert documents(quiet) == []
    # The job goes on from here, as if it had closed it.
    close(calendar)
    assert [(one.state, one.total_usd) for one in documents(acme)] == [("issued", Decimal("4.19"))]
    assert_nothing_is_left()
    assert_sound()


def test_a_period_that_differs_from_the_ledger_is_parked_whoever_closes_it(books: Books, calendar: Clock) -> None:
    acme = organization("acme", usd="5")
    use(acme)
    closing.open_missing()
    go_to(calendar, JUNE)
    calendar.move(timedelta(minutes=16))
    fold()
    tamper(books, f"UPDATE usage_rollup SET cost_usd = cost_usd * 100 WHERE organization_id = '{acme.pk}' RETURNING 1")
    with pytest.raises(errors.Conflict, match=r"It was parked: usage of 27 USD, and the ledger charged 0\.27"):
        closing.close(period_id=BillingPeriod.objects.get(organization=acme).pk, by=ADA)
