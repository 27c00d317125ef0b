"""Money that finance moves: reasons, limits, a second person, and what may go back to a card."""

from decimal import Decimal
from functools import partial

import pytest

from billing import adjustments, corrections
from billing.adjustments import Kind, State
from billing.grants import Conditions
from billing.models import Adjustment, Grant
from core import errors
from ops import approvals
from ops.models import Approval
from orgs.audit import Actor
from orgs.models import AuditEntry, Organization
from tests.billing.test_grants import BY, USD, give, left, now
from tests.billing.world import assert_sound, charge, organization, rows, side_by_side, standing
from tests.books import Books
from tests.metering.world import event
from tests.proofs import proves

ADA = Actor(kind="user", id="user_ada", label="ada@example.com")
GRACE = Actor(kind="user", id="user_grace", label="grace@example.com")


def ask(
    owner: Organization, kind: str, usd: str | int | Decimal, *, conditions: Conditions | None = None
) -> Adjustment:
    """An act asked for by ada."""
    return adjustments.ask(
        organization_id=owner.pk, kind=kind, amount_usd=Decimal(usd), reason="a good one", by=ADA,
        conditions=conditions or Conditions(),
    )  # fmt: skip


def moved(owner: Organization) -> list[tuple[str, str, str, Decimal]]:
    """The transfers of an organization."""
    return [
        (row[0], row[1], row[2], row[3])
        for row in rows(
            "SELECT kind, debit, credit, amount_usd FROM transfer WHERE organization_id = %s ORDER BY seq", owner.pk
        )
    ]


def test_a_small_act_is_posted_at_once_with_its_reason_and_its_person(books: Books) -> None:
    acme = organization("acme")
    act = ask(acme, Kind.CREDIT, "12.5")
    assert act.state == State.POSTED
    assert moved(acme) == [("adjustment", "adjustments", "wallet", Decimal("12.5"))]
    assert rows("SELECT actor, reason FROM transfer") == [("ada@example.com", "a good one")]
    assert Grant.objects.get().kind == Grant.Kind.ADJUSTMENT
    assert list(AuditEntry.objects.order_by("id").values_list("verb", "actor_label")) == [
        ("adjustment.asked", "ada@example.com"), ("adjustment.posted", "ada@example.com"),
    ]  # fmt: skip
    assert_sound()


def test_the_limit_itself_needs_no_second_person_and_a_pico_more_does(books: Books) -> None:
    acme = organization("acme")
    assert ask(acme, Kind.GRANT, "500").state == State.POSTED
    assert ask(acme, Kind.GRANT, "500.000000000001").state == State.WAITING
    assert standing(acme).posted == 500


def test_a_large_act_waits_for_a_second_person_and_is_posted_once(books: Books) -> None:
    acme = organization("acme")
    act = ask(acme, Kind.GRANT, "501")
    carry_out = partial(adjustments.carry_out, adjustment_id=act.pk, by=ADA)
    with pytest.raises(approvals.ApprovalNeeded):
        carry_out()
    question = Approval.objects.get()
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=question.pk, by=ADA, grant=True)
    assert standing(acme).posted == 0
    approvals.decide(approval_id=question.pk, by=GRACE, grant=True)
    told = side_by_side(books, *(carry_out for _ in range(4)))
    assert {one.state for one in told} == {State.POSTED}
    assert moved(acme) == [("grant", "promotions", "wallet", Decimal(501))]
    assert_sound()


def test_a_refused_act_is_closed_and_moves_nothing(books: Books) -> None:
    acme = organization("acme")
    act = ask(acme, Kind.GRANT, "501")
    approvals.decide(approval_id=Approval.objects.get().pk, by=GRACE, grant=False)
    assert adjustments.carry_out(adjustment_id=act.pk, by=ADA).state == State.REFUSED
    assert adjustments.carry_out(adjustment_id=act.pk, by=ADA).state == State.REFUSED
    assert moved(acme) == []
    assert adjustments.waiting() == []


def test_a_grant_keeps_its_conditions_while_it_waits(books: Books) -> None:
    acme = organization("acme")
    end = now().replace(year=2040)
    conditions = Conditions(priority=3, expires_at=end, models=("deepseek-chat",))
    act = ask(acme, Kind.GRANT, "600", conditions=conditions)
    approvals.decide(approval_id=Approval.objects.get().pk, by=GRACE, grant=True)
    adjustments.carry_out(adjustment_id=act.pk, by=GRACE)
    grant = Grant.objects.get()
    assert (grant.priority, grant.expires_at, grant.model_slugs, grant.kind) == (
        3, end, ["deepseek-chat"], "promotional",
    )  # fmt: skip


def test_a_debit_takes_what_is_there_and_the_rest_is_owed(books: Books) -> None:
    acme = organization("acme", usd="1")
    ask(acme, Kind.DEBIT, "3")
    assert moved(acme)[1:] == [("draw", "overdraft", "wallet", 2), ("adjustment", "wallet", "adjustments", 3)]
    assert standing(acme)[:3] == (0, 2, 0)
    assert_sound()


@pytest.mark.parametrize(("usd", "refused"), [("10", False), ("10.000000000001", True), ("9.999999999999", False)])
def test_a_refund_goes_up_to_what_is_left_of_purchased_credit(books: Books, usd: str, refused: bool) -> None:
    acme = organization("acme", usd="100")
    give(acme, 10, "paid", kind=Grant.Kind.PURCHASED)
    if refused:
        with pytest.raises(errors.OutOfRange, match="Only 10 USD") as refusal:
            ask(acme, Kind.REFUND, usd)
        assert refusal.value.param == "amount_usd"
        assert Adjustment.objects.count() == 0
    else:
        ask(acme, Kind.REFUND, usd)
        assert moved(acme)[2:] == [("refund", "wallet", "stripe_clearing", Decimal(usd))]
        assert left(acme) == {"given": 100, "paid": 10 - Decimal(usd)}
    assert_sound()


def test_promotional_credit_is_never_refunded(books: Books) -> None:
    acme = organization("acme", usd="100")
    with pytest.raises(errors.OutOfRange, match="Only 0 USD"):
        ask(acme, Kind.REFUND, "1")
    give(acme, 5, "adjusted", kind=Grant.Kind.ADJUSTMENT)
    with pytest.raises(errors.OutOfRange, match="Only 0 USD"):
        ask(acme, Kind.REFUND, "1")
    assert standing(acme).posted == 105


@proves("W11", guard="refunds_are_capped")
def test_a_refund_stops_at_what_is_left_of_the_payment_whoever_agrees(books: Books) -> None:
    # 10 USD paid, 0.000362 used; in the other organization 600 were paid, so that a second person is asked.
    acme, large = organization("acme"), organization("large")
    give(acme, 10, "paid", kind=Grant.Kind.PURCHASED)
    charge(acme, event())
    with pytest.raises(errors.OutOfRange, match=r"Only 9\.999638 USD"):
        ask(acme, Kind.REFUND, "9.999638000001")
    assert left(acme) == {"paid": Decimal("9.999638")}
    assert ask(acme, Kind.REFUND, "9.999637999999").state == State.POSTED
    assert ask(acme, Kind.REFUND, "0.000000000001").state == State.POSTED
    assert left(acme) == {"paid": 0}
    with pytest.raises(errors.OutOfRange, match="Only 0 USD"):
        ask(acme, Kind.REFUND, "0.000000000001")

    give(large, 600, "paid", kind=Grant.Kind.PURCHASED)
    acts = [ask(large, Kind.REFUND, usd) for usd in ("600.000000000001", "600")]
    for question in Approval.objects.all():
        approvals.decide(approval_id=question.pk, by=GRACE, grant=True)
    with pytest.raises(errors.OutOfRange, match="Only 600 USD"):
        adjustments.carry_out(adjustment_id=acts[0].pk, by=ADA)
    assert adjustments.carry_out(adjustment_id=acts[1].pk, by=ADA).state == State.POSTED
    assert left(large) == {"paid": 0}
    assert [standing(owner)[:2] for owner in (acme, large)] == [(0, 0), (0, 0)]
    assert_sound()


@proves("W12", guard="only_purchased_credit_is_refunded")
def test_of_all_kinds_of_credit_only_the_purchased_goes_back_to_a_card(books: Books) -> None:
    everything = organization("everything")
    for kind in Grant.Kind.values:
        owner = organization(f"only-{kind}")
        for one in (owner, everything):
            give(one, 5, kind, kind=kind)
        if kind == Grant.Kind.PURCHASED:
            ask(owner, Kind.REFUND, "5")
            assert left(owner) == {kind: 0}
        else:
            with pytest.raises(errors.OutOfRange, match="Only 0 USD"):
                ask(owner, Kind.REFUND, "5")
            assert left(owner) == {kind: 5}
    # Given credit would be spent first, and is passed over.
    ask(everything, Kind.REFUND, "5")
    assert left(everything) == {"promotional": 5, "adjustment": 5, "purchased": 0}
    with pytest.raises(errors.OutOfRange, match="Only 0 USD"):
        ask(everything, Kind.REFUND, "0.000000000001")
    # What a void gives back of a debt is nobody's payment either.
    owing = organization("owing")
    charge(owing, event(event_id="owed"))
    give(owing, USD, "repaid", kind=Grant.Kind.PURCHASED)
    corrections.void(organization_id=owing.pk, event_id="owed", reason="tests", by=BY)
    assert standing(owing).posted == USD
    with pytest.raises(errors.OutOfRange, match="Only 0 USD"):
        ask(owing, Kind.REFUND, USD)
    assert_sound()


def test_a_write_off_forgives_at_most_what_is_owed(books: Books) -> None:
    acme = organization("acme")
    charge(acme, event())
    with pytest.raises(errors.OutOfRange, match=r"Only 0\.000362 USD are owed"):
        ask(acme, Kind.WRITE_OFF, USD + Decimal("0.000000000001"))
    ask(acme, Kind.WRITE_OFF, USD)
    assert moved(acme)[2:] == [("write_off", "write_offs", "wallet", USD), ("repayment", "wallet", "overdraft", USD)]
    assert standing(acme)[:3] == (0, 0, USD)
    assert left(acme) == {}
    assert_sound()


@pytest.mark.parametrize("usd", ["0", "-1", "NaN", "Infinity", "100000000000", "0.0000000000001"])
def test_an_amount_that_cannot_be_is_refused(books: Books, usd: str) -> None:
    acme = organization("acme")
    with pytest.raises(errors.OutOfRange) as refusal:
        ask(acme, Kind.CREDIT, usd)
    assert refusal.value.param == "amount_usd"


def test_an_act_says_why(books: Books) -> None:
    acme = organization("acme")
    with pytest.raises(errors.OutOfRange) as refusal:
        adjustments.ask(organization_id=acme.pk, kind=Kind.CREDIT, amount_usd=USD, reason=" ", by=ADA)
    assert refusal.value.param == "reason"


def test_only_a_grant_has_conditions_and_it_ends_after_it_begins(books: Books) -> None:
    acme = organization("acme")
    with pytest.raises(errors.OutOfRange, match="Only promotional credit"):
        ask(acme, Kind.CREDIT, "1", conditions=Conditions(priority=1))
    with pytest.raises(errors.OutOfRange, match="ends after it begins"):
        ask(acme, Kind.GRANT, "1", conditions=Conditions(expires_at=now()))
