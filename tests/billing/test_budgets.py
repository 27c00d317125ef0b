"""Ceilings: their windows to the second, what counts, and when a refused request fits again."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from billing import budgets, corrections, holds, ledger
from billing.budgets import Counted
from billing.models import Budget, BudgetSpend, Hold, Wallet
from core import errors, ids
from metering import usage
from metering.attribution import Attributed
from metering.verdicts import Status
from ops.models import OutboxMessage
from orgs.audit import system
from orgs.models import ApiKey, AuditEntry, Organization
from tests.billing.world import assert_all, assert_sound, charge, organization, part_of, record, rows
from tests.books import Books
from tests.metering.world import COST, attributed, event

BY = system("tests")
USD = Decimal(COST)
TOKENS = 1200
Window = Budget.Window


def ceiling(
    owner: Organization,
    most: str | int | Decimal,
    *,
    window: str = Window.DAY,
    subject: str = "organization",
    of: UUID | None = None,
    unit: str = "usd",
) -> Budget:
    """A ceiling on an organization or a part of it."""
    return budgets.set_ceiling(
        organization_id=owner.pk, subject=subject, subject_id=of or owner.pk, window=window, unit=unit,
        ceiling=Decimal(most), by=BY,
    )  # fmt: skip


def whose(owner: Organization, usd: Decimal = USD, tokens: int = TOKENS, **parts: UUID) -> Counted:
    """What a request counts."""
    return Counted(owner.pk, parts.get("project"), parts.get("member"), parts.get("key"), usd, tokens)


def hold(owner: Organization, usd: Decimal = USD, **parts: UUID) -> Hold:
    """A hold in a transaction of its own."""
    with transaction.atomic():
        return holds.place(holds.Asked(whose(owner, usd, TOKENS, **parts), "deepseek-chat", 100, 600)).hold


def reserve(owner: Organization, at: datetime) -> list[UUID]:
    """Reserve as of an instant, under the wallet's lock."""
    with transaction.atomic():
        ledger.lock([owner.pk])
        return budgets.reserve(whose(owner), at=at)


def item(owner: Organization, **parts: Any) -> Attributed:
    """An event of a part of an organization."""
    (plain,) = attributed(owner, event())
    return plain._replace(**parts)


def spent(of: Budget) -> Decimal:
    """What a ceiling's row says was used."""
    found: Decimal = Budget.objects.get(pk=of.pk).spent
    return found


def age(of: Budget, by: timedelta) -> None:
    """Let time pass for a ceiling: what it has counted moves back."""
    rows("UPDATE budget_spend SET bucket = bucket - %s WHERE budget_id = %s", by, of.pk)
    rows("UPDATE budget SET counted_from = counted_from - %s WHERE id = %s", by, of.pk)


@pytest.mark.parametrize(
    ("window", "at", "zone", "start"),
    [
        ("5h", "2026-03-01T12:03:00", "UTC", "2026-03-01T07:00:00"),
        ("5h", "2026-03-01T12:05:00", "UTC", "2026-03-01T07:05:00"),
        ("5h", "2026-03-01T12:04:59.999999", "UTC", "2026-03-01T07:00:00"),
        ("1d", "2026-03-01T00:00:00", "America/New_York", "2026-02-28T00:00:00"),
        ("7d", "2026-03-08T00:01:00", "UTC", "2026-03-01T00:00:00"),
        ("month", "2026-03-01T04:59:59", "America/New_York", "2026-02-01T05:00:00"),
        ("month", "2026-03-01T05:00:00", "America/New_York", "2026-03-01T05:00:00"),
        # Clocks went forward within the month: it began at -5 and ends at -4.
        ("month", "2026-03-31T23:00:00", "America/New_York", "2026-03-01T05:00:00"),
        ("month", "2026-12-31T18:30:00", "Asia/Kolkata", "2026-12-31T18:30:00"),
    ],
)
def test_a_window_begins_at_a_whole_bucket(window: str, at: str, zone: str, start: str) -> None:
    instant = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert budgets.starts(window, instant, time_zone=zone) == datetime.fromisoformat(start).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "start", "zone", "out"),
    [
        ("5h", "2026-03-01T07:00:00", "UTC", "2026-03-01T12:05:00"),
        ("1d", "2026-03-01T07:00:00", "UTC", "2026-03-02T07:05:00"),
        ("7d", "2026-03-01T07:00:00", "UTC", "2026-03-08T07:05:00"),
        ("month", "2026-03-01T05:00:00", "America/New_York", "2026-04-01T04:00:00"),
        ("month", "2026-12-01T00:00:00", "UTC", "2027-01-01T00:00:00"),
    ],
)
def test_a_bucket_leaves_the_window_when_no_part_of_it_is_inside(window: str, start: str, zone: str, out: str) -> None:
    begins = datetime.fromisoformat(start).replace(tzinfo=UTC)
    leaves = budgets.falls_out(window, begins, time_zone=zone)
    assert leaves == datetime.fromisoformat(out).replace(tzinfo=UTC)
    inside = leaves - timedelta(microseconds=1)
    assert budgets.starts(window, inside, time_zone=zone) <= begins
    assert budgets.starts(window, leaves, time_zone=zone) > begins


@pytest.mark.parametrize("window", list(Window))
@pytest.mark.parametrize(("unit", "each"), [("usd", USD), ("tokens", Decimal(TOKENS))])
def test_a_charge_counts_in_its_own_transaction(books: Books, window: str, unit: str, each: Decimal) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 1000, window=window, unit=unit)
    assert_all(charge(acme, event(), event(), event()), Status.CREATED)
    assert spent(made) == 3 * each
    assert rows("SELECT sum(amount) FROM budget_spend") == [(3 * each,)]
    assert_sound()


def test_each_part_counts_what_is_its_own(books: Books) -> None:
    acme = organization("acme", usd="1")
    key, member, project, other = part_of(acme), part_of(acme, "member"), part_of(acme, "project"), part_of(acme)
    made = {
        name: ceiling(acme, 1, subject=name, of=of)
        for name, of in (("organization", acme.pk), ("key", key), ("member", member), ("project", project))
    }
    foreign = ceiling(acme, 1, subject="key", of=other)
    record([item(acme, api_key_id=key)])
    record([item(acme, api_key_id=key, member_id=member)])
    record([item(acme, project_id=project)])
    assert {name: spent(one) for name, one in made.items()} == {
        "organization": 3 * USD, "key": 2 * USD, "member": USD, "project": USD,
    }  # fmt: skip
    assert spent(foreign) == 0
    assert_sound()


def test_what_was_used_before_a_ceiling_was_set_counts(books: Books) -> None:
    acme = organization("acme", usd="1")
    key = part_of(acme)
    record([item(acme, api_key_id=key)])
    record([item(acme)])
    for window in Window:
        assert spent(ceiling(acme, 1, window=window)) == 2 * USD
        assert spent(ceiling(acme, 1, window=window, subject="key", of=key)) == USD
        assert spent(ceiling(acme, 1, window=window, unit="tokens")) == 2 * TOKENS
    assert_sound()


def test_a_ceiling_is_reached_exactly_and_not_passed_by_a_pico(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 3 * USD)
    charge(acme, event())
    hold(acme)
    with pytest.raises(errors.BudgetExceeded):
        hold(acme, USD + Decimal("0.000000000001"))
    hold(acme)
    with pytest.raises(errors.BudgetExceeded) as refusal:
        hold(acme, Decimal("0.000000000001"))
    assert str(refusal.value) == (
        "The rolling day ceiling of the organization is 0.001086 USD: 0.000362 USD used and 0.000724 held,"
        " 0.000000000001 asked for."
    )
    assert Budget.objects.get(pk=made.pk).held == 2 * USD
    # What was refused holds nothing: neither the ceiling nor the wallet.
    assert Wallet.objects.get().held_usd == 2 * USD
    assert_sound()


def test_usage_is_never_refused_by_a_ceiling(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, USD)
    assert_all(charge(acme, event(), event()), Status.CREATED)
    assert spent(made) == 2 * USD
    with pytest.raises(errors.BudgetExceeded):
        hold(acme, Decimal("0.000000000001"))


def test_a_hold_counts_until_it_ends_however_it_ends(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 1)
    captured, released = hold(acme, 5 * USD), hold(acme, 7 * USD)
    assert Budget.objects.get(pk=made.pk).held == 12 * USD
    (plain,) = attributed(acme, event())
    record([plain._replace(authorization_id=captured.pk)])
    assert (spent(made), Budget.objects.get(pk=made.pk).held) == (USD, 7 * USD)
    with transaction.atomic():
        holds.release(organization_id=acme.pk, hold_id=released.pk)
    assert (spent(made), Budget.objects.get(pk=made.pk).held) == (USD, 0)
    hold(acme, 2 * USD)
    rows("UPDATE hold SET expires_at = created_at WHERE state = 'open'")
    assert holds.expire_due() == 1
    assert Budget.objects.get(pk=made.pk).held == 0
    assert_sound()


def test_a_void_counts_backwards(books: Books) -> None:
    acme = organization("acme", usd="1")
    usd, tokens = ceiling(acme, 1), ceiling(acme, 10_000, unit="tokens")
    told = event()
    charge(acme, told, event())
    corrections.void(organization_id=acme.pk, event_id=told.event_id, reason="wrong", by=BY)
    assert (spent(usd), spent(tokens)) == (USD, TOKENS)
    assert_sound()


@pytest.mark.parametrize("window", ["5h", "1d", "7d"])
def test_what_has_left_the_window_counts_no_more(books: Books, window: str) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 2 * USD, window=window)
    charge(acme, event())
    age(made, budgets.LENGTHS[Window(window)] + budgets.BUCKET)
    charge(acme, event())
    assert spent(made) == USD
    hold(acme)
    with pytest.raises(errors.BudgetExceeded):
        hold(acme)


def test_a_new_month_begins_at_nothing(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, USD, window="month")
    charge(acme, event())
    with pytest.raises(errors.BudgetExceeded) as refusal:
        hold(acme)
    assert 0 < int(refusal.value.headers["Retry-After"]) <= 31 * 86_400
    age(made, timedelta(days=31))
    hold(acme)
    assert spent(made) == 0


@pytest.mark.parametrize("window", ["5h", "1d", "7d"])
def test_a_refused_request_fits_when_it_was_told_to_come_back_and_not_before(books: Books, window: str) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 2 * USD, window=window)
    charge(acme, event())
    charge(acme, event())
    with pytest.raises(errors.BudgetExceeded) as refusal:
        hold(acme)
    after = int(refusal.value.headers["Retry-After"])
    length = int(budgets.LENGTHS[Window(window)].total_seconds())
    assert length <= after <= length + 300
    at = rows("SELECT now()")[0][0]
    (ceilings,) = budgets._live([acme.pk], at=at)
    fits = budgets._fits_at(ceilings, USD)
    assert fits is not None
    with pytest.raises(errors.BudgetExceeded):
        reserve(acme, fits - timedelta(seconds=1))
    assert reserve(acme, fits) == [made.pk]
    assert fits > at


def test_what_never_fits_is_not_told_to_come_back(books: Books) -> None:
    acme = organization("acme", usd="1")
    ceiling(acme, USD)
    with pytest.raises(errors.BudgetExceeded) as refusal:
        hold(acme, 2 * USD)
    assert "Retry-After" not in refusal.value.headers


def test_what_holds_take_up_is_given_back_at_their_end_at_the_latest(books: Books) -> None:
    acme = organization("acme", usd="1")
    ceiling(acme, USD)
    hold(acme)
    with pytest.raises(errors.BudgetExceeded) as refusal:
        hold(acme)
    assert 590 <= int(refusal.value.headers["Retry-After"]) <= 601


def test_a_ceiling_is_changed_in_place_and_lifted(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 0)
    with pytest.raises(errors.BudgetExceeded):
        hold(acme)
    assert ceiling(acme, 1).pk == made.pk
    hold(acme)
    shown = ids.show("budget", made.pk)
    assert budgets.find(organization_id=acme.pk, shown=shown).pk == made.pk
    budgets.remove_ceiling(budget_id=made.pk, by=BY)
    budgets.remove_ceiling(budget_id=made.pk, by=BY)
    with pytest.raises(errors.NotFound):
        budgets.find(organization_id=acme.pk, shown=shown)
    hold(acme, 1 - 2 * USD)
    assert Wallet.objects.get().has_budgets is False
    assert list(AuditEntry.objects.filter(verb__startswith="budget").order_by("id").values_list("verb", flat=True)) == [
        "budget.set", "budget.set", "budget.removed",
    ]  # fmt: skip
    with pytest.raises(errors.NotFound):
        budgets.remove_ceiling(budget_id=ids.new(), by=BY)


@pytest.mark.parametrize("most", ["-1", "NaN", "100000000000"])
def test_a_ceiling_that_cannot_be_is_refused(books: Books, most: str) -> None:
    with pytest.raises(errors.OutOfRange) as refusal:
        ceiling(organization("acme"), most)
    assert refusal.value.param == "ceiling"


@pytest.mark.parametrize("subject", Budget.Subject.values)
def test_a_ceiling_on_what_belongs_to_another_organization_is_refused(books: Books, subject: str) -> None:
    acme, other = organization("acme"), organization("other")
    foreign = other.pk if subject == "organization" else part_of(other, subject)
    for of in (foreign, ids.new()):
        with pytest.raises(errors.OutOfRange, match=f"The organization has no such {subject}.") as refusal:
            ceiling(acme, 1, subject=subject, of=of)
        assert refusal.value.param == "subject_id"
    assert not Budget.objects.exists()
    theirs = ceiling(other, 1, subject=subject, of=foreign)
    assert theirs.subject_id == foreign
    for shown in (ids.show("budget", theirs.pk), "budget_1"):
        with pytest.raises(errors.NotFound):
            budgets.find(organization_id=acme.pk, shown=shown)


def test_standing_reads_the_window_of_now_and_the_tightest_of_a_key(books: Books) -> None:
    acme = organization("acme", usd="1")
    key = part_of(acme)
    day = ceiling(acme, 1, subject="key", of=key)
    ceiling(acme, 2, subject="key", of=key, window="7d")
    ceiling(acme, 3, subject="key", of=key, window="7d", unit="tokens")
    record([item(acme, api_key_id=key)])
    found: Any = budgets.tightest(acme.pk, key)
    assert (found.budget.pk, found.spent, found.left) == (day.pk, USD, 1 - USD)
    age(day, timedelta(days=2))
    found = budgets.tightest(acme.pk, key)
    assert (found.spent, found.left) == (0, 1)
    assert budgets.tightest(acme.pk, ids.new()) is None
    assert budgets.standing(organization("other").pk) == []


def test_buckets_that_no_window_reaches_are_trimmed(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = ceiling(acme, 1)
    charge(acme, event())
    assert budgets.trim() == 0
    age(made, timedelta(days=41))
    # Nobody has asked since, so the ceiling's row still counts it.
    assert (budgets.trim(), spent(made)) == (0, USD)
    charge(acme, event())
    assert (spent(made), budgets.trim()) == (USD, 1)
    assert spent(made) == USD


def messages() -> list[tuple[str, str]]:
    """Kinds of messages about ceilings, with what they say was used."""
    found = OutboxMessage.objects.filter(kind__startswith="budget.").order_by("id")
    return [(each.kind, each.data["used"]) for each in found]


def use(owner: Organization, *amounts: str) -> None:
    """Count amounts, each in five minutes of its own."""
    for usd in amounts:
        at = datetime.now(UTC) + budgets.BUCKET * BudgetSpend.objects.count()
        with transaction.atomic():
            ledger.lock([owner.pk])
            budgets.count([whose(owner, Decimal(usd), 0)], at=at)


def test_people_are_told_when_a_part_of_a_ceiling_is_used_and_when_all_is(books: Books) -> None:
    acme = organization("acme")
    week = ceiling(acme, 10, window="7d")
    use(acme, "7.9")
    assert messages() == []
    use(acme, "0.1", "1.9")
    assert messages() == [("budget.near", "8")]
    use(acme, "0.1", "5")
    assert messages() == [("budget.near", "8"), ("budget.full", "10")]
    (_, full) = OutboxMessage.objects.filter(kind__startswith="budget.").order_by("id")
    assert full.data == {
        "budget": ids.show("budget", week.pk), "on": "organization", "name": "", "window": "7d", "unit": "usd",
        "ceiling": "10", "used": "10",
    }  # fmt: skip


def test_a_ceiling_that_stays_close_to_its_line_tells_once(books: Books) -> None:
    acme = organization("acme")
    ceiling(acme, 10, window="7d")
    # Up to 8, down to 7.3 and up again: never below 7.2, nine tenths of the line.
    use(acme, "8", "-0.7", "0.7", "-0.5")
    assert messages() == [("budget.near", "8")]
    use(acme, "-0.31", "1")
    assert messages() == [("budget.near", "8"), ("budget.near", "8.19")]


def test_whoever_sets_a_ceiling_chooses_when_to_be_told_and_is_not_told_by_setting_it(books: Books) -> None:
    acme = organization("acme")
    key = part_of(acme)
    made = ceiling(acme, 10, subject="key", of=key)
    with transaction.atomic():
        ledger.lock([acme.pk])
        budgets.count([whose(acme, Decimal(3), 0, key=key)], at=usage.started_at())
    chosen = {"organization_id": acme.pk, "subject": "key", "subject_id": key, "window": "1d", "unit": "usd", "by": BY}
    assert budgets.set_ceiling(**chosen, ceiling=Decimal(4), warn_percent=50).level == Budget.Level.NEAR
    assert budgets.set_ceiling(**chosen, ceiling=Decimal(10)).warn_percent == 50
    assert messages() == []
    with transaction.atomic():
        ledger.lock([acme.pk])
        budgets.count([whose(acme, Decimal(2), 0, key=key)], at=usage.started_at())
    (told,) = OutboxMessage.objects.filter(kind="budget.near")
    assert (told.data["on"], told.data["name"]) == ("key", ApiKey.objects.get(pk=key).name)
    for wrong in (0, 101):
        with pytest.raises(errors.OutOfRange) as refusal:
            budgets.set_ceiling(**chosen, ceiling=Decimal(1), warn_percent=wrong)
        assert refusal.value.param == "warn_percent"
    assert Budget.objects.get(pk=made.pk).ceiling == 10
