"""Wallets: what people set about them, alerts on crossing, and who pays where the organization cannot."""

from decimal import Decimal
from uuid import UUID

import pytest
from django.db import transaction

from billing import holds, wallets
from billing.budgets import Counted
from billing.ledger import Terms
from billing.models import Hold, Wallet
from core import errors, ids
from metering.models import UsageRecord
from metering.verdicts import Status, Verdict
from ops.models import OutboxMessage
from orgs.audit import system
from orgs.models import AuditEntry, Organization
from tests.billing.test_grants import give
from tests.billing.world import assert_sound, organization, record, rows, side_by_side, standing
from tests.books import Books
from tests.metering.world import COST, attributed, event

BY = system("tests")
USD = Decimal(COST)


def change(owner: Organization, **terms: object) -> None:
    """Change a wallet's terms."""
    wallets.change_terms(organization_id=owner.pk, terms=Terms(**terms), reason="asked", by=BY)  # type: ignore[arg-type]


def hold(owner: Organization, usd: str | int | Decimal, *, fallback: UUID | None = None, model: str = "m") -> Hold:
    """A hold in a transaction of its own."""
    asked = holds.Asked(Counted(owner.pk, None, None, None, Decimal(usd), 0), model, 100, 600, fallback)
    with transaction.atomic():
        return holds.place(asked).hold


def told(kind_prefix: str = "wallet.") -> list[str]:
    """The alerts so far."""
    messages = OutboxMessage.objects.filter(kind__startswith=kind_prefix).order_by("id")
    return list(messages.values_list("kind", flat=True))


def spend(owner: Organization, usd: Decimal) -> None:
    """One event that costs ``usd``: output of deepseek-chat at 1.10 USD per million tokens."""
    tokens = int(usd / Decimal("0.0000011"))
    (item,) = attributed(owner, event(input_tokens=0, cached_input_tokens=0, output_tokens=tokens))
    record([item])


def test_an_alert_is_left_when_a_line_is_crossed_and_once(books: Books) -> None:
    acme = organization("acme", usd="22")
    assert told() == []
    spend(acme, Decimal("11"))
    assert told() == []
    spend(acme, Decimal("6.6"))
    assert told() == ["wallet.low"]
    spend(acme, Decimal("1.1"))
    assert told() == ["wallet.low"]
    spend(acme, Decimal("5.5"))
    spend(acme, Decimal("1.1"))
    assert told() == ["wallet.low", "wallet.empty"]
    give(acme, 4, "some")
    assert told() == ["wallet.low", "wallet.empty", "wallet.recovered"]
    give(acme, 40, "more")
    assert told() == ["wallet.low", "wallet.empty", "wallet.recovered", "wallet.recovered"]
    spend(acme, Decimal("38.5"))
    assert told()[4:] == ["wallet.low"]
    last = OutboxMessage.objects.latest("id")
    assert last.data == {"balance_usd": "2.2", "low_usd": "5"}
    assert last.organization_id == acme.pk


def test_terms_can_make_a_wallet_cross_a_line(books: Books) -> None:
    acme = organization("acme", usd="10")
    change(acme, low_usd=Decimal(11))
    assert told() == ["wallet.low"]
    change(acme, low_usd=Decimal(1))
    assert wallets.state(acme.pk).low_usd == 1
    assert told() == ["wallet.low", "wallet.recovered"]


@pytest.mark.one_database
def test_each_change_says_what_it_changed_and_why(books: Books) -> None:
    acme = organization("acme", usd="10")
    change(acme, credit_limit_usd=Decimal(5), mode="fallback")
    change(acme, credit_limit_usd=Decimal(5))
    entry = AuditEntry.objects.get(verb="wallet.changed")
    assert entry.organization_id == acme.pk
    assert entry.details == {
        "reason": "asked",
        "mode": {"before": "strict", "after": "fallback"},
        "credit_limit": {"before": "0", "after": "5"},
    }


@pytest.mark.parametrize("field", ["credit_limit_usd", "low_usd"])
@pytest.mark.parametrize("usd", ["-1", "NaN", "0.0000000000001"])
def test_terms_that_cannot_be_are_refused(books: Books, field: str, usd: str) -> None:
    with pytest.raises(errors.OutOfRange) as refusal:
        change(organization("acme"), **{field: Decimal(usd)})
    assert refusal.value.param == field


def test_a_frozen_wallet_refuses_holds_and_still_pays_for_usage(books: Books) -> None:
    acme = organization("acme", usd="10")
    wallets.freeze(organization_id=acme.pk, reason="dispute", by=BY)
    first = Wallet.objects.get().frozen_at
    wallets.freeze(organization_id=acme.pk, reason="again", by=BY)
    assert Wallet.objects.get().frozen_at == first
    with pytest.raises(errors.OrgWalletEmpty, match="frozen"):
        hold(acme, 1)
    assert wallets.state(acme.pk).status == "frozen"
    assert wallets.state(acme.pk).can_pay is False
    spend(acme, Decimal("1.1"))
    assert standing(acme).posted == Decimal("8.9")
    wallets.unfreeze(organization_id=acme.pk, reason="won", by=BY)
    hold(acme, 1)
    verbs = AuditEntry.objects.filter(verb__startswith="wallet").order_by("id").values_list("verb", flat=True)
    assert list(verbs) == ["wallet.frozen", "wallet.unfrozen"]
    assert_sound()


@pytest.mark.parametrize(
    ("enforcement", "asked", "admitted"),
    [("strict", "10", True), ("strict", "10.000000000001", False), ("soft", "1000", True), ("off", "1000", True)],
)
def test_what_a_hold_must_meet_is_the_organizations_choice(
    books: Books, enforcement: str, asked: str, admitted: bool
) -> None:
    acme = organization("acme", usd="10")
    change(acme, enforcement=enforcement)
    if admitted:
        hold(acme, asked)
    else:
        with pytest.raises(errors.OrgWalletEmpty):
            hold(acme, asked)
    held = {"strict": Decimal(asked), "soft": Decimal(asked), "off": Decimal(0)}[enforcement] if admitted else 0
    assert Wallet.objects.get().held_usd == held
    assert_sound()


def test_soft_means_above_the_floor_and_off_means_never_refused(books: Books) -> None:
    acme = organization("acme")
    change(acme, enforcement="soft")
    with pytest.raises(errors.OrgWalletEmpty):
        hold(acme, 1)
    change(acme, credit_limit_usd=Decimal("0.000000000001"))
    hold(acme, 1)
    change(acme, enforcement="off", credit_limit_usd=Decimal(0))
    hold(acme, 1)
    assert_sound()


def test_a_credit_limit_lets_holds_go_below_zero_and_no_further(books: Books) -> None:
    acme = organization("acme", usd="1")
    change(acme, credit_limit_usd=Decimal(2))
    hold(acme, 3)
    with pytest.raises(errors.OrgWalletEmpty):
        hold(acme, Decimal("0.000000000001"))
    assert_sound()


# Fallback: the caller's personal wallet pays where the organization's is empty


def personal(usd: str) -> Organization:
    """Somebody's own wallet."""
    return organization(f"personal-{ids.new()}", usd=usd)


def charge_for(owner: Organization, caller: Organization, *, hold_id: UUID | None = None) -> Verdict:
    """One event of an organization by a personal key."""
    (item,) = attributed(owner, event())
    (verdict,) = record([item._replace(fallback_id=caller.pk, authorization_id=hold_id)])
    assert verdict.status is Status.CREATED
    return verdict


@pytest.mark.one_database
def test_in_fallback_mode_the_personal_wallet_pays_when_the_organizations_cannot(books: Books) -> None:
    acme, ada = organization("acme", usd=str(USD * 2)), personal("1")
    change(acme, mode="fallback")
    for _ in range(3):
        charge_for(acme, ada)
    payers = list(UsageRecord.objects.order_by("id").values_list("organization_id", "payer_id"))
    assert payers == [(acme.pk, acme.pk), (acme.pk, acme.pk), (acme.pk, ada.pk)]
    assert (standing(acme).posted, standing(ada).posted) == (0, 1 - USD)
    assert_sound()


def test_a_strict_organization_never_touches_the_personal_wallet(books: Books) -> None:
    acme, ada = organization("acme"), personal("1")
    charge_for(acme, ada)
    assert (standing(acme).overdraft, standing(ada).posted) == (USD, 1)
    assert_sound()


@pytest.mark.one_database
def test_where_neither_can_pay_the_organization_owes_it(books: Books) -> None:
    acme, ada = organization("acme"), personal("0")
    change(acme, mode="fallback")
    charge_for(acme, ada)
    assert (standing(acme).overdraft, standing(ada).overdraft) == (USD, 0)
    assert_sound()


@pytest.mark.one_database
def test_within_one_batch_the_organization_pays_as_far_as_it_goes(books: Books) -> None:
    acme, ada = organization("acme", usd=str(USD * 2)), personal("1")
    change(acme, mode="fallback")
    items = attributed(acme, *(event() for _ in range(5)))
    record([item._replace(fallback_id=ada.pk) for item in items])
    assert (standing(acme)[:2], standing(ada).posted) == ((0, 0), 1 - 3 * USD)
    assert rows("SELECT count(*) FROM grant_use") == [(4,)]
    assert_sound()


@pytest.mark.one_database
def test_a_hold_falls_back_as_a_charge_does_and_its_event_is_paid_by_whom_it_was_placed_with(books: Books) -> None:
    acme, ada = organization("acme", usd=str(USD)), personal("1")
    change(acme, mode="fallback")
    placed = hold(acme, 2 * USD, fallback=ada.pk)
    assert (placed.organization_id, placed.payer_id) == (acme.pk, ada.pk)
    charge_for(acme, ada, hold_id=placed.pk)
    assert (standing(acme).posted, standing(ada).posted) == (USD, 1 - USD)
    assert rows("SELECT held_usd FROM wallet") == [(0,), (0,)]
    with pytest.raises(errors.InsufficientQuota) as refusal:
        hold(acme, 2, fallback=ada.pk)
    assert refusal.value.code == "insufficient_quota"
    assert_sound()


@pytest.mark.one_database
def test_two_organizations_falling_back_on_one_person_at_once_take_the_last_dollar_once(books: Books) -> None:
    ada = personal(str(USD * 5))
    owners = [organization(f"org-{place}") for place in range(4)]
    for owner in owners:
        change(owner, mode="fallback")

    def many(owner: Organization) -> None:
        for _ in range(5):
            charge_for(owner, ada)

    side_by_side(books, *(lambda owner=owner: many(owner) for owner in owners))
    assert standing(ada)[:2] == (0, 0)
    assert sum((standing(owner).overdraft for owner in owners), Decimal(0)) == 15 * USD
    assert_sound()
