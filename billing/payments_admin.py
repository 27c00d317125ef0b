"""The desk's pages of what customers pay through Stripe, and what finance does about it."""

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing import payments, refunds, settlement, topups
from billing.models import (
    Dispute,
    Payment,
    PaymentCard,
    Recharge,
    Refund,
    StripeCustomer,
    StripeEvent,
    TopUp,
    TopUpLimit,
    Transfer,
)
from billing.money_admin import ids_of, transfer_link, wallet_link
from billing.processor import client, inbox
from core import money
from core.admin import Act, ActsAdmin, BooksAdmin, Done, Section
from core.markup import NOTHING, as_facts, link, paragraphs, refer, stamp, table
from core.reasons import ReasonForm
from metering.admin import find_organization
from ops import approvals
from ops.admin import RIGHTS, SUBJECTS, question_table, questions, second_person
from orgs.admin import actor
from orgs.models import Organization

ROWS_SHOWN = 50

SUBJECTS[refunds.APPROVAL] = ("billing_refund", "refund")
RIGHTS[refunds.APPROVAL] = "billing.add_refund"


class RefundForm(ReasonForm):
    """How much of a payment goes back, and why."""

    field_order = ("amount_usd", "reason")
    amount_usd = forms.DecimalField(label="amount (USD)", max_digits=24, decimal_places=2)


class LimitForm(ReasonForm):
    """Whose limit, and how much."""

    field_order = ("organization", "topup_usd", "daily_usd", "reason")
    organization = forms.CharField(help_text="A slug, an org_ id or a person's e-mail address.")
    topup_usd = forms.DecimalField(label="at once (USD)", max_digits=24, decimal_places=2)
    daily_usd = forms.DecimalField(label="within 24 hours (USD)", max_digits=24, decimal_places=2)

    def clean_organization(self) -> Organization:
        """The one that is meant."""
        found = find_organization(self.cleaned_data["organization"])
        if found is None:
            raise forms.ValidationError("No organization has that name.")
        return found


def _transfers(organization_id: Any, *references: str) -> str:
    """What these causes moved."""
    rows = Transfer.objects.filter(organization_id=organization_id, reference__in=references).order_by("seq")
    shown = [
        (transfer_link(one.organization_id, one.pk), one.get_kind_display(), money.plain(one.amount_usd))
        for one in rows[:ROWS_SHOWN]
    ]
    return table(("transfer", "kind", "amount (USD)"), shown) if shown else NOTHING


def _look(request: HttpRequest, row: Payment, _: dict[str, Any]) -> Done:
    client.connect()
    payments.look_again(payment_id=row.pk, by=actor(request))
    settlement.look(row.pk)
    now = Payment.objects.get(pk=row.pk)
    if now.parked:
        return Done(f"It still does not fit: {now.parked}", level=messages.WARNING)
    return Done(f"Stripe was asked: {now.get_state_display().lower()}.")


def _refund(request: HttpRequest, row: Payment, told: dict[str, Any]) -> Done:
    at = client.connect()
    made = refunds.ask(payment_id=row.pk, amount_usd=told["amount_usd"], reason=told["reason"], by=actor(request))
    if made.state == Refund.State.WAITING:
        return Done(second_person(refunds.APPROVAL, made.pk), level=messages.WARNING)
    refunds.call(made.pk, at=at)
    return _told(made)


def _carry_out(request: HttpRequest, row: Refund, _: dict[str, Any]) -> Done:
    at = client.connect()
    try:
        made = refunds.carry_out(refund_id=row.pk, by=actor(request))
    except approvals.ApprovalNeeded:
        return Done(second_person(refunds.APPROVAL, row.pk), level=messages.WARNING)
    if made.state == Refund.State.REFUSED:
        return Done("A second person refused it: nothing was moved, and it is closed.", level=messages.WARNING)
    refunds.call(made.pk, at=at)
    return _told(made)


def _told(made: Refund) -> Done:
    made.refresh_from_db()
    said = f"{made.get_state_display().capitalize()}: {money.plain(made.amount_usd)} USD."
    failed = made.state == Refund.State.FAILED
    return Done(f"{said} {made.failure}" if failed else said, level=messages.ERROR if failed else messages.SUCCESS)


def _replay(request: HttpRequest, row: StripeEvent, _: dict[str, Any]) -> Done:
    client.connect()
    state = inbox.replay(event_id=row.pk, by=actor(request))
    outcome = StripeEvent.objects.values_list("outcome", flat=True).get(pk=row.pk)
    fine = state in {StripeEvent.State.PROCESSED, StripeEvent.State.IGNORED}
    return Done(
        f"{state.capitalize()}: {outcome or 'it is tried again'}", level=messages.SUCCESS if fine else messages.WARNING
    )


def _limit(request: HttpRequest, _: None, told: dict[str, Any]) -> Done:
    owner = told["organization"]
    topups.set_limits(
        organization_id=owner.pk, topup_usd=told["topup_usd"], daily_usd=told["daily_usd"], reason=told["reason"],
        by=actor(request),
    )  # fmt: skip
    return Done(f"{owner} buys at most {money.plain(told['topup_usd'])} USD at once from now on.")


def _what(row: Payment) -> list[Section]:
    facts = {
        "wallet": wallet_link(row.organization), "for": row.get_purpose_display(),
        "amount (USD)": money.plain(row.amount_usd),
        "received (USD)": money.plain(row.received_usd), "went back (USD)": money.plain(row.refunded_usd),
        "state": row.get_state_display(),
    }  # fmt: skip
    return [Section("The payment", as_facts(facts))]


@admin.register(Payment)
class PaymentAdmin(ActsAdmin[Any]):
    """What customers were asked for, and what came of it."""

    list_display = ("shown_id", "organization", "amount", "state", "purpose", "method", "parked", "created_at")
    list_filter = ("state", "purpose", "method")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug", "intent_id", "session_id", "charge_id")
    search_help_text = "A pay_ id, an organization's slug, or one of Stripe's ids (pi_, cs_, ch_)."
    fields = (
        *("shown_id", "organization", "wallet", "purpose", "subject", "method", "card", "amount", "tax", "state"),
        *("parked", "failure_code", "failure_message", "received", "refunded", "fee", "surplus"),
        *("session_id", "intent_id", "charge_id", "attempts", "called_at", "next_look_at", "deadline_at"),
        *("created_at", "settled_at", "went_back", "contested", "transfers"),
    )
    acts = (
        Act(
            "look", "Look again at Stripe",
            "Stripe is asked how the payment stands, and that is taken in. A parked payment is checked again.",
            _look, facts=_what, possible=lambda row: row.request is not None,
        ),
        Act(
            "refund", "Refund",
            "The money leaves the wallet and goes back to the card. A large amount waits for a second person.",
            _refund, RefundForm, facts=_what,
            possible=lambda row: row.received_usd > row.refunded_usd, right="billing.add_refund",
        ),
    )  # fmt: skip

    @admin.display(description="what for")
    def subject(self, row: Payment) -> str:
        """The top-up or the invoice that it pays."""
        page = "billing_topup" if row.purpose == Payment.Purpose.TOPUP else "billing_invoice"
        return refer(page, ids_of(page), row.subject_id)

    @admin.display(description="wallet")
    def wallet(self, row: Payment) -> SafeString:
        """Whose money it is."""
        return wallet_link(row.organization)

    @admin.display(description="amount (USD)")
    def amount(self, row: Payment) -> str:
        """With tax."""
        return money.plain(row.amount_usd)

    @admin.display(description="of it tax (USD)")
    def tax(self, row: Payment) -> str:
        """Part of the amount."""
        return money.plain(row.tax_usd)

    @admin.display(description="received (USD)")
    def received(self, row: Payment) -> str:
        """All of it or nothing."""
        return money.plain(row.received_usd)

    @admin.display(description="went back (USD)")
    def refunded(self, row: Payment) -> str:
        """Refunds that have not failed."""
        return money.plain(row.refunded_usd)

    @admin.display(description="Stripe's fee (USD)")
    def fee(self, row: Payment) -> str:
        """Once Stripe has said."""
        return NOTHING if row.fee_usd is None else money.plain(row.fee_usd)

    @admin.display(description="refunds")
    def went_back(self, row: Payment) -> str:
        """Each with its state."""
        found = Refund.objects.filter(payment=row).order_by("pk")[:ROWS_SHOWN]
        shown = [
            (link("billing_refund", one.pk, one), money.plain(one.amount_usd), one.get_state_display(), one.reason)
            for one in found
        ]
        return table(("refund", "amount (USD)", "state", "reason"), shown) if shown else NOTHING

    @admin.display(description="disputes")
    def contested(self, row: Payment) -> str:
        """Each with its state."""
        found = Dispute.objects.filter(payment=row).order_by("pk")[:ROWS_SHOWN]
        shown = [
            (link("billing_dispute", one.pk, one), money.plain(one.amount_usd), one.get_state_display())
            for one in found
        ]
        return table(("dispute", "amount (USD)", "state"), shown) if shown else NOTHING

    @admin.display(description="transfers")
    def transfers(self, row: Payment) -> str:
        """What it moved."""
        return _transfers(row.organization_id, payments.reference_of(row), f"payment:{row.pk}")


@admin.register(Refund)
class RefundAdmin(ActsAdmin[Any]):
    """Money that went back to cards, or is to."""

    list_display = ("shown_id", "organization", "amount", "state", "origin", "actor", "reason", "created_at")
    list_filter = ("state", "origin")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug", "stripe_id")
    search_help_text = "A refund_ id, an organization's slug, or Stripe's id (re_)."
    fields = (
        *("shown_id", "organization", "of_payment", "amount", "tax", "origin", "reason", "actor", "state", "failure"),
        *("stripe_id", "attempts", "called_at", "next_look_at", "created_at", "settled_at", "approval", "transfers"),
    )
    acts = (
        Act(
            "carry-out", "Carry out",
            "The money goes back if a second person has agreed. If one has refused, the refund is closed.",
            _carry_out, possible=lambda row: row.state == Refund.State.WAITING, known=lambda row: row.reason,
        ),
    )  # fmt: skip

    @admin.display(description="payment")
    def of_payment(self, row: Refund) -> SafeString:
        """What was paid."""
        return link("billing_payment", row.payment_id, row.payment)

    @admin.display(description="amount (USD)")
    def amount(self, row: Refund) -> str:
        """With tax."""
        return money.plain(row.amount_usd)

    @admin.display(description="of it tax (USD)")
    def tax(self, row: Refund) -> str:
        """Part of the amount."""
        return money.plain(row.tax_usd)

    @admin.display(description="second person")
    def approval(self, row: Refund) -> str:
        """What was asked and decided about it."""
        asked = questions(kind=refunds.APPROVAL, subject_id=row.pk)
        return question_table(asked) if asked else "Nobody was asked."

    @admin.display(description="transfers")
    def transfers(self, row: Refund) -> str:
        """What it moved."""
        own = refunds.reference_of(row)
        return _transfers(row.organization_id, own, f"{own}/failed")


@admin.register(Dispute)
class DisputeAdmin(BooksAdmin[Dispute]):
    """Payments that the card's owner contests. They are answered at Stripe."""

    list_display = ("shown_id", "organization", "amount", "state", "reason", "created_at", "closed_at")
    list_filter = ("state",)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug", "stripe_id")
    search_help_text = "A dispute_ id, an organization's slug, or Stripe's id (du_)."
    fields = (
        *("shown_id", "organization", "of_payment", "stripe_id", "amount", "frozen", "withdrawn", "reinstated", "fee"),
        *("reason", "state", "created_at", "closed_at", "transfers"),
    )

    @admin.display(description="payment")
    def of_payment(self, row: Dispute) -> SafeString:
        """What was paid."""
        return link("billing_payment", row.payment_id, row.payment)

    @admin.display(description="amount (USD)")
    def amount(self, row: Dispute) -> str:
        """What is contested."""
        return money.plain(row.amount_usd)

    @admin.display(description="set aside (USD)")
    def frozen(self, row: Dispute) -> str:
        """What the payment's credit still held."""
        return money.plain(row.frozen_usd)

    @admin.display(description="taken by Stripe (USD)")
    def withdrawn(self, row: Dispute) -> str:
        """While it is open."""
        return money.plain(row.withdrawn_usd)

    @admin.display(description="given back by Stripe (USD)")
    def reinstated(self, row: Dispute) -> str:
        """When it was won."""
        return money.plain(row.reinstated_usd)

    @admin.display(description="Stripe's fee (USD)")
    def fee(self, row: Dispute) -> str:
        """For its trouble."""
        return money.plain(row.fee_usd)

    @admin.display(description="transfers")
    def transfers(self, row: Dispute) -> str:
        """What it moved."""
        caused = Transfer.objects.filter(
            organization_id=row.organization_id, reference__startswith=f"dispute:{row.pk}/"
        ).values_list("reference", flat=True)
        return _transfers(row.organization_id, *caused[:ROWS_SHOWN])


@admin.register(StripeEvent)
class StripeEventAdmin(ActsAdmin[Any]):
    """What Stripe told us, to the byte, and what became of it."""

    list_display = ("stripe_id", "kind", "object_id", "state", "outcome", "attempts", "received_at")
    list_filter = ("state",)
    sortable_by = ()
    search_fields = ("stripe_id", "object_id")
    search_help_text = "Stripe's id of an event (evt_) or of what it is about."
    fields = (
        *("stripe_id", "kind", "object_id", "api_version", "state", "outcome", "attempts", "next_attempt_at"),
        *("happened_at", "received_at", "handled_at", "body"),
    )
    acts = (
        Act(
            "replay", "Replay",
            "It is handled once more, by how things stand at Stripe now. What it asks for is done once all the same.",
            _replay,
        ),
    )  # fmt: skip

    @admin.display(description="as it came")
    def body(self, row: StripeEvent) -> SafeString:
        """The object that it is about."""
        if not row.payload:
            return paragraphs("No longer kept.")
        told = json.loads(row.payload).get("data", {}).get("object", {})
        return paragraphs(json.dumps(told, indent=1, sort_keys=True)[:10_000])


@admin.register(StripeCustomer)
class StripeCustomerAdmin(BooksAdmin[StripeCustomer]):
    """Organizations as Stripe knows them."""

    list_display = ("organization", "stripe_id", "created_at", "synced_at")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug", "stripe_id")
    search_help_text = "An organization's slug, or Stripe's id (cus_)."
    fields = ("organization", "stripe_id", "made", "created_at", "synced_at", "cards")

    @admin.display(description="cards")
    def cards(self, row: StripeCustomer) -> str:
        """Saved now."""
        found = PaymentCard.objects.filter(organization_id=row.pk, removed_at__isnull=True).order_by("-pk")[:ROWS_SHOWN]
        shown = [(str(one), "default" if one.is_default else "", stamp(one.created_at)) for one in found]
        return table(("card", "", "saved (UTC)"), shown) if shown else NOTHING


@admin.register(PaymentCard)
class PaymentCardAdmin(BooksAdmin[PaymentCard]):
    """Saved cards, as far as they may be shown."""

    list_display = ("shown_id", "organization", "brand", "last_four", "is_default", "created_at", "removed_at")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug", "stripe_id")
    search_help_text = "A card_ id, an organization's slug, or Stripe's id (pm_)."
    fields = (
        *("shown_id", "organization", "stripe_id", "brand", "last_four", "expires_month", "expires_year"),
        *("is_default", "created_at", "removed_at"),
    )


@admin.register(TopUpLimit)
class TopUpLimitAdmin(ActsAdmin[Any]):
    """Organizations that may buy less, or more within a day, than others."""

    list_display = ("organization", "at_once", "daily")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "An organization's slug."
    fields = ("organization", "at_once", "daily")
    list_acts = (
        Act(
            "set", "Set a limit", "It holds from the next top-up on. Zero stops an organization from buying.", _limit,
            LimitForm,
        ),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """By name."""
        return super().get_queryset(request).order_by("organization__slug")

    @admin.display(description="at once (USD)")
    def at_once(self, row: TopUpLimit) -> str:
        """In one top-up."""
        return money.plain(row.topup_usd)

    @admin.display(description="within 24 hours (USD)")
    def daily(self, row: TopUpLimit) -> str:
        """All top-ups together."""
        return money.plain(row.daily_usd)


@admin.register(TopUp)
class TopUpAdmin(BooksAdmin[TopUp]):
    """Purchases of credit, and what became of each."""

    list_display = ("shown_id", "organization", "amount", "state", "failure", "created_at", "settled_at")
    list_filter = ("state",)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "A topup_ id, or an organization's slug."
    fields = ("shown_id", "organization", "amount", "state", "failure", "created_at", "settled_at")

    @admin.display(description="amount")
    def amount(self, row: TopUp) -> str:
        """Dollars."""
        return money.plain(row.amount_usd)


@admin.register(Recharge)
class RechargeAdmin(BooksAdmin[Recharge]):
    """Wallets that ask for a top-up by themselves."""

    list_display = ("organization", "threshold", "amount", "monthly_cap", "enabled", "failures", "paused_until")
    list_filter = ("enabled",)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "An organization's slug."
    fields = ("organization", "threshold", "amount", "monthly_cap", "enabled", "failures", "paused_until")

    @admin.display(description="below")
    def threshold(self, row: Recharge) -> str:
        """Dollars."""
        return money.plain(row.threshold_usd)

    @admin.display(description="asks for")
    def amount(self, row: Recharge) -> str:
        """Dollars."""
        return money.plain(row.amount_usd)

    @admin.display(description="a month at most")
    def monthly_cap(self, row: Recharge) -> str:
        """Dollars."""
        return money.plain(row.monthly_cap_usd)
