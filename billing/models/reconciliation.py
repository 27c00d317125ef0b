"""What others say of our money: Stripe's balance, providers' bills, and where they and the books differ."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids, money
from core.fields import IdField, UsdField, within
from orgs.models import Organization


def _signed(field: str) -> Q:
    """An amount that may be below zero, or nothing at all; not NaN."""
    return Q(**{f"{field}__isnull": True}) | Q(**{f"{field}__gt": -money.USD_MAX, f"{field}__lt": money.USD_MAX})


class BalanceTransaction(models.Model):
    """One movement of our balance at Stripe, as Stripe tells it; it never changes.

    Written by ``billing.processor.reconciliation``. Amounts are in hundredths of ``currency`` and have a sign: what
    comes to us is positive. ``net_cents`` is ``amount_cents`` without Stripe's ``fee_cents``. ``source_id`` is what
    moved: a charge, a refund, a dispute, a payout.
    """

    append_only: ClassVar[bool] = True

    id = IdField("txn")
    stripe_id = models.TextField(unique=True)
    kind = models.TextField(help_text="Stripe's type")
    category = models.TextField(default="", help_text="Stripe's reporting category")
    source_id = models.TextField(default="")
    description = models.TextField(default="")
    currency = models.TextField()
    amount_cents = models.BigIntegerField()
    fee_cents = models.BigIntegerField()
    net_cents = models.BigIntegerField()
    happened_at = models.DateTimeField(help_text="By Stripe's clock")
    available_at = models.DateTimeField(help_text="When it can be paid out")
    fetched_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "balance_transaction"
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("source_id",), name="balance_transaction_of_source"),
            models.Index(fields=("happened_at",), name="balance_transaction_by_time"),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.stripe_id}"


class ReconciliationMark(models.Model):
    """How far Stripe's balance transactions have been fetched; there is one row.

    Written by ``billing.processor.reconciliation``. Nothing from before ``began_at`` is compared.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    began_at = models.DateTimeField()
    fetched_until = models.DateTimeField()

    class Meta:
        db_table = "reconciliation_mark"
        constraints = (
            models.CheckConstraint(name="reconciliation_mark_once", condition=Q(id=1)),
            models.CheckConstraint(name="reconciliation_mark_goes_on", condition=Q(fetched_until__gte=F("began_at"))),
        )

    def __str__(self) -> str:
        return f"fetched until {self.fetched_until}"


class Difference(models.Model):
    """Where the books and somebody else do not say the same, until they do or finance has said why.

    Written by ``billing.differences``. ``subject`` names what it is about: ``payment:…``, ``refund:…``,
    ``dispute:…``, ``transfer:…``, an id of Stripe's, or ``bill:provider/model/month``. ``ours_usd`` is what the books
    say, ``theirs_usd`` what the other side says; nothing where one of them does not know it at all. An explanation is
    of these two amounts: with another amount it is open again.
    """

    undeletable: ClassVar[bool] = True

    class Side(models.TextChoices):
        STRIPE = "stripe"
        PROVIDER = "provider"

    class State(models.TextChoices):
        OPEN = "open"
        EXPLAINED = "explained"
        OVER = "over", "no difference any more"

    id = IdField("diff")
    side = models.TextField(choices=Side.choices)
    subject = models.TextField()
    organization = models.ForeignKey(Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    ours_usd = UsdField(null=True, blank=True)
    theirs_usd = UsdField(null=True, blank=True)
    detail = models.TextField(default="")
    state = models.TextField(choices=State.choices, default=State.OPEN)
    reason = models.TextField(default="", help_text="What finance says of it")
    explained_by = models.TextField(default="")
    found_at = models.DateTimeField(default=timezone.now)
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "difference"
        ordering = ("-id",)
        indexes = (models.Index(fields=("state",), name="difference_open", condition=Q(state="open")),)
        constraints = (
            models.UniqueConstraint(fields=("side", "subject"), name="difference_once"),
            models.CheckConstraint(name="difference_ours_in_range", condition=_signed("ours_usd")),
            models.CheckConstraint(name="difference_theirs_in_range", condition=_signed("theirs_usd")),
            models.CheckConstraint(
                name="difference_is_explained",
                condition=~Q(state="explained") | (~Q(reason="") & ~Q(explained_by="")),
            ),
        )

    def __str__(self) -> str:
        return ids.show("diff", self.pk)


class ProviderBill(models.Model):
    """A provider's invoice or report, as a file that was read. The same file is read once.

    Written by ``billing.provider_bills``. One that should not count is withdrawn with a reason.
    """

    undeletable: ClassVar[bool] = True

    id = IdField("bill")
    name = models.TextField(help_text="Of the file")
    digest = models.BinaryField(unique=True, help_text="SHA-256 of the file")
    actor = models.TextField()
    loaded_at = models.DateTimeField(default=timezone.now)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    reason = models.TextField(default="", help_text="Why it was withdrawn")

    class Meta:
        db_table = "provider_bill"
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                name="provider_bill_withdrawn_for_a_reason", condition=Q(withdrawn_at__isnull=True) | ~Q(reason="")
            ),
        )

    def __str__(self) -> str:
        return self.name


class ProviderBillLine(models.Model):
    """What a provider asks for one model in one month (UTC). Written by ``billing.provider_bills``."""

    append_only: ClassVar[bool] = True

    id = IdField("billline")
    bill = models.ForeignKey(ProviderBill, on_delete=models.PROTECT, related_name="+")
    line = models.IntegerField(help_text="In the file")
    provider = models.TextField()
    model = models.TextField()
    month = models.DateField(help_text="Its first day")
    cost_usd = UsdField()

    class Meta:
        db_table = "provider_bill_line"
        ordering = ("line",)
        constraints = (
            models.UniqueConstraint(fields=("bill", "provider", "model", "month"), name="provider_bill_line_once"),
            models.CheckConstraint(name="provider_bill_line_in_range", condition=within("cost_usd")),
            models.CheckConstraint(name="provider_bill_line_of_a_month", condition=Q(month__day=1)),
        )

    def __str__(self) -> str:
        return f"{self.provider} {self.model} {self.month}"
