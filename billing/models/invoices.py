"""Periods, the documents that close them, and what was paid."""

from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from billing.models.payments import Dispute, Payment, Refund
from billing.models.profiles import LegalEntity
from billing.models.topups import TopUp
from core import ids, money
from core.fields import IdField, UsdField, within
from orgs.models import Organization


def signed(field: str) -> Q:
    """The condition that keeps an amount of either sign in range; it refuses NaN too."""
    return Q(**{f"{field}__gt": -money.USD_MAX, f"{field}__lt": money.USD_MAX})


class NumberSeries(models.Model):
    """The numbers that a legal entity gave out in a year: 1 to ``last_number``, none missing.

    Written by ``billing.numbers``. A trigger lets ``last_number`` rise by one only.
    """

    undeletable: ClassVar[bool] = True

    pk = models.CompositePrimaryKey("legal_entity_id", "year")
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="+")
    year = models.SmallIntegerField()
    last_number = models.IntegerField(default=0)
    last_issued_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "number_series"
        verbose_name_plural = "number series"

    def __str__(self) -> str:
        return f"{self.legal_entity_id} {self.year}"


class BillingPeriod(models.Model):
    """A stretch of time, half-open, that one document accounts for. An organization's periods tile.

    Written by ``billing.closing``, which makes the next one where one is drafted. ``follows`` is where the
    one before it ended, empty for the first: with unique beginnings and ends that leaves neither gap nor
    overlap. ``zone`` and ``anchor_day`` are what its end was worked out by. ``charged_usd`` is what the ledger
    says was used, ``closing_usd`` the balance at its end and ``overdraft_usd`` what of it was owed,
    ``carried_usd`` what its document left for the next.
    """

    undeletable: ClassVar[bool] = True

    class State(models.TextChoices):
        OPEN = "open", "goes on, or waits to be drafted"
        DRAFTED = "drafted", "drafted, in its grace"
        FINALIZED = "finalized"
        PARKED = "parked", "waits for a person"

    id = IdField("per")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    follows = models.DateTimeField(null=True)
    zone = models.TextField()
    anchor_day = models.SmallIntegerField()
    state = models.TextField(choices=State.choices, default=State.OPEN)
    charged_usd = UsdField(default=0)
    closing_usd = UsdField(default=0)
    overdraft_usd = UsdField(default=0)
    carried_usd = UsdField(default=0)
    parked_for = models.TextField(default="", blank=True, help_text="Why it waits for a person")
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.TextField(default="", blank=True)
    released_for = models.TextField(default="", blank=True, help_text="Why a person let it pass")
    drafted_at = models.DateTimeField(null=True, blank=True)
    finalize_at = models.DateTimeField(null=True, blank=True, help_text="When its grace is over")
    finalized_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "billing_period"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("organization", "starts_at"), name="billing_period_starts_once"),
            models.UniqueConstraint(fields=("organization", "ends_at"), name="billing_period_ends_once"),
            models.UniqueConstraint(
                fields=("organization",), name="billing_period_one_first", condition=Q(follows__isnull=True)
            ),
            models.CheckConstraint(name="billing_period_forward", condition=Q(ends_at__gt=F("starts_at"))),
            models.CheckConstraint(
                name="billing_period_follows", condition=Q(follows__isnull=True) | Q(follows=F("starts_at"))
            ),
            models.CheckConstraint(
                name="billing_period_in_range",
                condition=signed("charged_usd")
                & signed("closing_usd")
                & signed("overdraft_usd")
                & signed("carried_usd"),
            ),
            models.CheckConstraint(
                name="billing_period_state",
                condition=Q(state="open", drafted_at__isnull=True, finalized_at__isnull=True)
                | Q(state="drafted", drafted_at__isnull=False, finalize_at__isnull=False, finalized_at__isnull=True)
                | (Q(state="parked", finalized_at__isnull=True) & ~Q(parked_for=""))
                | Q(state="finalized", finalized_at__isnull=False),
            ),
        )
        indexes = (
            models.Index(fields=("ends_at",), name="billing_period_open", condition=Q(state="open")),
            models.Index(fields=("finalize_at",), name="billing_period_drafted", condition=Q(state="drafted")),
            models.Index(fields=("ends_at",), name="billing_period_parked", condition=Q(state="parked")),
        )

    def __str__(self) -> str:
        return ids.show("per", self.pk)


class Invoice(models.Model):
    """A document about money: invoice, statement, receipt or credit note. Frozen once it is issued.

    Written by ``billing.invoices``. Invoice (postpaid) and statement (prepaid, or postpaid with nothing due)
    close a period; a receipt is of a top-up; a credit note takes back part of the document it ``corrects``: of an
    invoice, or of a receipt by the ``refund`` or the lost ``dispute`` that took the money back. All
    but statements are numbered, in one series for each legal entity and year. Amounts are in cents:
    ``subtotal_usd`` is the sum of the lines, with ``tax_usd`` it is ``total_usd``. A statement's subtotal is how
    the balance changed, so it may be below zero and nothing of it is due. Of an invoice's total, ``open_usd`` (of it
    ``open_tax_usd`` tax) is still to be paid; ``paid_usd`` was paid and not given back since. ``exact_usd`` is the
    sum of the lines before rounding, so ``exact_usd`` − ``subtotal_usd`` is carried to the next document.
    ``seller`` and ``buyer`` are what was known of them when it was issued: name, address, country, vat_id, email;
    of the seller also bank_details.
    """

    undeletable: ClassVar[bool] = True

    class Kind(models.TextChoices):
        INVOICE = "invoice"
        STATEMENT = "statement"
        RECEIPT = "receipt"
        CREDIT_NOTE = "credit_note", "credit note"

    class State(models.TextChoices):
        DRAFT = "draft"
        ISSUED = "issued", "issued, nothing is due"
        OPEN = "open", "to be paid"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    id = IdField("inv")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="+", db_index=False)
    kind = models.TextField(choices=Kind.choices)
    state = models.TextField(choices=State.choices, default=State.DRAFT)
    number = models.TextField(null=True, blank=True, help_text="As printed, such as TB-2026-000001")
    year = models.SmallIntegerField(null=True, blank=True)
    sequence = models.IntegerField(null=True, blank=True)
    period = models.ForeignKey(
        BillingPeriod, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    topup = models.ForeignKey(TopUp, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False)
    corrects = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    refund = models.ForeignKey(
        Refund, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    dispute = models.ForeignKey(
        Dispute, on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    starts_at = models.DateTimeField(null=True, blank=True)
    ends_at = models.DateTimeField(null=True, blank=True)
    zone = models.TextField(default="UTC", help_text="In which its days are shown")
    opening_usd = UsdField(null=True, blank=True, help_text="Of a statement: the balance before, in cents")
    closing_usd = UsdField(null=True, blank=True, help_text="Of a statement: the balance after, in cents")
    exact_usd = UsdField(default=0)
    subtotal_usd = UsdField(default=0)
    tax_usd = UsdField(default=0)
    total_usd = UsdField(default=0)
    tax_percent = models.DecimalField(max_digits=6, decimal_places=3, default=0)
    tax_name = models.TextField(default="", blank=True)
    tax_treatment = models.TextField(default="", blank=True, help_text="Of billing.taxes: why this much")
    open_usd = UsdField(default=0)
    open_tax_usd = UsdField(default=0)
    paid_usd = UsdField(default=0)
    paid_tax_usd = UsdField(default=0)
    seller: models.JSONField[Any, Any] = models.JSONField(default=dict)
    buyer: models.JSONField[Any, Any] = models.JSONField(default=dict)
    reason = models.TextField(default="", blank=True, help_text="Of a credit note: why")
    actor = models.TextField(default="", blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    issued_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True, help_text="The end of the last day on which it may be paid")
    settled_at = models.DateTimeField(null=True, blank=True, help_text="When it was paid, voided or given up")
    reopened_at = models.DateTimeField(null=True, blank=True, help_text="When a payment of it was taken back")

    class Meta:
        db_table = "invoice"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("period",), name="invoice_once_a_period", condition=Q(period__isnull=False)
            ),
            models.UniqueConstraint(fields=("topup",), name="invoice_once_a_topup", condition=Q(topup__isnull=False)),
            models.UniqueConstraint(
                fields=("refund",), name="invoice_once_a_refund", condition=Q(refund__isnull=False)
            ),
            models.UniqueConstraint(
                fields=("dispute",), name="invoice_once_a_dispute", condition=Q(dispute__isnull=False)
            ),
            models.CheckConstraint(
                name="invoice_of_money_back",
                condition=Q(refund__isnull=True, dispute__isnull=True)
                | (Q(kind="credit_note") & (Q(refund__isnull=True) | Q(dispute__isnull=True))),
            ),
            models.UniqueConstraint(
                fields=("legal_entity", "year", "sequence"),
                name="invoice_number_once",
                condition=Q(sequence__isnull=False),
                nulls_distinct=False,
            ),
            models.UniqueConstraint(fields=("number",), name="invoice_shown_once", condition=Q(number__isnull=False)),
            models.CheckConstraint(
                name="invoice_numbered",
                condition=Q(kind="statement", number__isnull=True, year__isnull=True, sequence__isnull=True)
                | Q(state="draft", number__isnull=True, year__isnull=True, sequence__isnull=True)
                | (
                    ~Q(kind="statement")
                    & ~Q(state="draft")
                    & Q(number__isnull=False, year__isnull=False, sequence__gt=0)
                ),
            ),
            models.CheckConstraint(
                name="invoice_issued",
                condition=Q(state="draft", issued_at__isnull=True) | (~Q(state="draft") & Q(issued_at__isnull=False)),
            ),
            models.CheckConstraint(
                name="invoice_state_of_kind",
                condition=Q(state="draft")
                | (Q(kind="invoice", due_at__isnull=False) & ~Q(state="issued"))
                | (~Q(kind="invoice") & Q(state="issued")),
            ),
            models.CheckConstraint(
                name="invoice_cause",
                condition=Q(kind__in=("invoice", "statement"), period__isnull=False, topup__isnull=True)
                | Q(kind="receipt", period__isnull=True, topup__isnull=False)
                | Q(kind="credit_note", period__isnull=True, topup__isnull=True, corrects__isnull=False),
            ),
            models.CheckConstraint(
                name="invoice_adds_up",
                condition=Q(total_usd=F("subtotal_usd") + F("tax_usd")) & within("tax_usd") & signed("subtotal_usd"),
            ),
            models.CheckConstraint(
                name="invoice_amounts_in_range",
                condition=signed("exact_usd")
                & signed("total_usd")
                & (Q(opening_usd__isnull=True) | signed("opening_usd"))
                & (Q(closing_usd__isnull=True) | signed("closing_usd")),
            ),
            models.CheckConstraint(
                name="invoice_positive", condition=Q(kind="statement") | Q(state="draft") | Q(total_usd__gt=0)
            ),
            models.CheckConstraint(
                name="invoice_open",
                condition=within("open_usd")
                & within("open_tax_usd")
                & within("paid_usd")
                & within("paid_tax_usd")
                & Q(open_tax_usd__lte=F("open_usd"), paid_tax_usd__lte=F("paid_usd"))
                & (
                    Q(kind="invoice", state="open", open_usd__gt=0, settled_at__isnull=True)
                    | Q(
                        kind="invoice",
                        state__in=("paid", "void", "uncollectible"),
                        settled_at__isnull=False,
                        open_usd=0,
                    )
                    | Q(state__in=("draft", "issued"), settled_at__isnull=True, open_usd=0)
                ),
            ),
        )
        indexes = (
            models.Index(fields=("organization", "-id"), name="invoice_of_organization"),
            models.Index(fields=("due_at",), name="invoice_unpaid", condition=Q(state="open")),
        )

    def __str__(self) -> str:
        return self.number or ids.show("inv", self.pk)

    @property
    def overdue_from(self) -> datetime | None:
        """From when the days of dunning count: the due date, or when it was opened again after that."""
        if self.due_at is None or self.reopened_at is None:
            return self.due_at
        return max(self.due_at, self.reopened_at)


class InvoiceLine(models.Model):
    """One line of a document: ``amount_usd`` in cents, ``exact_usd`` before rounding. Below zero it takes off.

    Written by ``billing.invoices`` while the document is a draft; a trigger refuses any change afterwards. A line
    of usage sums the payer's records of the period by model, service tier and batch, and by key or project
    where the profile asks for it.
    """

    class Kind(models.TextChoices):
        USAGE = "usage"
        CREDIT = "credit", "paid from credit, and other movements"
        CARRIED = "carried", "carried over"
        TOPUP = "topup", "top-ups"
        GIVEN = "given", "credit given"
        ADJUSTMENT = "adjustment", "adjustments"
        REFUND = "refund", "refunds and payments taken back"
        EXPIRY = "expiry", "credit expired"
        FORGIVEN = "forgiven", "debt forgiven"
        PAYMENT = "payment", "invoices paid"
        CORRECTION = "correction"

    id = IdField("line")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines", db_index=False)
    place = models.IntegerField()
    kind = models.TextField(choices=Kind.choices)
    text = models.TextField(default="", blank=True)
    model = models.TextField(null=True, blank=True)
    service_tier = models.TextField(null=True, blank=True)
    batch = models.BooleanField(null=True, blank=True)
    api_key_id = models.UUIDField(null=True, blank=True)
    project_id = models.UUIDField(null=True, blank=True)
    requests = models.BigIntegerField(null=True, blank=True)
    input_tokens = models.BigIntegerField(null=True, blank=True)
    cached_input_tokens = models.BigIntegerField(null=True, blank=True)
    output_tokens = models.BigIntegerField(null=True, blank=True)
    exact_usd = UsdField()
    amount_usd = UsdField()

    class Meta:
        db_table = "invoice_line"
        ordering = ("invoice", "place")
        constraints = (
            models.UniqueConstraint(fields=("invoice", "place"), name="invoice_line_place_once"),
            models.UniqueConstraint(
                fields=("invoice", "model", "service_tier", "batch", "api_key_id", "project_id"),
                name="invoice_line_once",
                condition=Q(kind="usage"),
                nulls_distinct=False,
            ),
            models.CheckConstraint(name="invoice_line_in_range", condition=signed("exact_usd") & signed("amount_usd")),
            models.CheckConstraint(
                name="invoice_line_usage",
                condition=~Q(kind="usage") | Q(model__isnull=False, batch__isnull=False, requests__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.invoice_id} {self.place}"


class InvoiceSettlement(models.Model):
    """What made an invoice's open amount smaller: ``amount_usd`` of it, of which ``tax_usd`` was tax. For ever.

    Written by ``billing.invoices``. ``reference`` is the cause, so it counts once. Of a payment, ``over_usd`` is
    what came beyond the open amount and became credit; of a credit note, what was paid before and given back.
    A payment that was taken back has all three below zero: it made the open amount larger again. ``payment`` is
    the card's payment that came or went back. ``at`` is what the transfers of the same cause carry as their time.
    """

    append_only: ClassVar[bool] = True

    class Kind(models.TextChoices):
        PAYMENT = "payment"
        CREDIT = "credit", "credit note"
        VOID = "void"
        WRITE_OFF = "write_off", "given up"
        RETURN = "return", "payment taken back"

    id = IdField("set")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="settlements")
    kind = models.TextField(choices=Kind.choices)
    amount_usd = UsdField()
    tax_usd = UsdField()
    over_usd = UsdField(default=0)
    source = models.TextField(default="", blank=True, help_text="The account that the money came from, or went to")
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    reference = models.TextField()
    actor = models.TextField()
    reason = models.TextField(default="", blank=True)
    at = models.DateTimeField()

    class Meta:
        db_table = "invoice_settlement"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("organization", "reference"), name="invoice_settlement_once"),
            models.CheckConstraint(
                name="invoice_settlement_in_range",
                condition=(
                    ~Q(kind="return")
                    & within("amount_usd")
                    & within("tax_usd")
                    & within("over_usd")
                    & Q(tax_usd__lte=F("amount_usd"))
                    & (Q(amount_usd__gt=0) | Q(over_usd__gt=0))
                )
                | (
                    Q(kind="return", payment__isnull=False, amount_usd__lte=0, tax_usd__lte=0, over_usd__lte=0)
                    & signed("amount_usd")
                    & signed("tax_usd")
                    & signed("over_usd")
                    & Q(tax_usd__gte=F("amount_usd"))
                    & (Q(amount_usd__lt=0) | Q(over_usd__lt=0))
                ),
            ),
        )

    def __str__(self) -> str:
        return ids.show("set", self.pk)


class BankTransfer(models.Model):
    """A bank transfer that finance found on an account, for an invoice.

    Written by ``billing.bank``. Its id is the cause of the payment; large ones wait for a second person.
    """

    undeletable: ClassVar[bool] = True

    class State(models.TextChoices):
        WAITING = "waiting", "waits for a second person"
        POSTED = "posted"
        REFUSED = "refused"

    id = IdField("bank")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="+")
    amount_usd = UsdField()
    statement_reference = models.TextField(help_text="What the bank's statement calls it")
    actor = models.TextField()
    reason = models.TextField()
    state = models.TextField(choices=State.choices, default=State.WAITING)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "bank_transfer"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("statement_reference",), name="bank_transfer_once", condition=~Q(state="refused")
            ),
            models.CheckConstraint(name="bank_transfer_positive", condition=within("amount_usd", low="gt")),
        )

    def __str__(self) -> str:
        return ids.show("bank", self.pk)


class DunningStep(models.Model):
    """What was done about an invoice that is overdue, once each. Written by ``billing.dunning``.

    ``before`` keeps the wallet's terms that a stop or a freeze replaced, until they are given back at ``undone_at``.
    What was done before an invoice was opened again is undone too, and may be done once more.
    """

    undeletable: ClassVar[bool] = True

    id = IdField("dun")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="dunning", db_index=False)
    step = models.TextField(help_text="reminder_1, reminder_2 …, stop, freeze")
    before: models.JSONField[Any, Any] = models.JSONField(default=dict)
    at = models.DateTimeField()
    undone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "dunning_step"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("invoice", "step"), name="dunning_step_once", condition=Q(undone_at__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return f"{self.step} of {self.invoice_id}"
