"""Wallets and the transfers that explain them."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from orgs.models import Organization


class Account(models.TextChoices):
    """The accounts of an organization's books. An account is (organization, kind).

    Only the wallet keeps a stored balance; every other one is the sum of its transfers.
    """

    WALLET = "wallet"
    OVERDRAFT = "overdraft", "overdraft receivable"
    REVENUE = "revenue"
    PROMOTIONS = "promotions"
    STRIPE_CLEARING = "stripe_clearing"
    BREAKAGE = "breakage"
    WRITE_OFFS = "write_offs"
    ADJUSTMENTS = "adjustments"
    RECEIVABLES = "receivables"
    TAXES = "taxes"
    PAYMENT_FEES = "payment_fees"
    DISPUTES = "disputes"
    BANK = "bank"


class TransferKind(models.TextChoices):
    """Why money moved."""

    CHARGE = "charge"
    DRAW = "draw", "overdraft drawn"
    REPAYMENT = "repayment", "overdraft repaid"
    GRANT = "grant", "promotional grant"
    TOPUP = "topup", "top-up"
    ADJUSTMENT = "adjustment"
    REFUND = "refund"
    WRITE_OFF = "write_off"
    EXPIRY = "expiry", "credit expired"
    VOID = "void"
    RERATE_UP = "rerate_up", "re-rated upwards"
    RERATE_DOWN = "rerate_down", "re-rated downwards"
    INVOICE = "invoice", "invoice paid"
    TAX = "tax"
    FEE = "fee", "payment fee"
    CLAWBACK = "clawback", "payment taken back"
    DISPUTE = "dispute", "payment disputed"


class Wallet(models.Model):
    """An organization's money: the one stored balance, and the mutex of everything it owns.

    Written by ``billing.ledger``. ``posted_usd`` is what the wallet account holds, ``held_usd``
    what open holds reserve, ``overdraft_usd`` what usage took beyond it. A trigger refuses any
    change of posted or overdraft that no transfer of the same ``seq`` explains. ``head`` is the
    digest of that transfer. ``has_scoped`` and ``next_change`` say when the grants must be looked
    at before money is promised: some pay for certain models only, or one ends (or begins) then.
    """

    class Mode(models.TextChoices):
        STRICT = "strict", "empty means refused"
        FALLBACK = "fallback", "empty means the caller's personal wallet pays"

    class Enforcement(models.TextChoices):
        STRICT = "strict", "a hold must be covered"
        SOFT = "soft", "the balance must be above its floor"
        OFF = "off", "never refused"

    class Level(models.TextChoices):
        """What the last alert said."""

        ACTIVE = "active"
        LOW = "low"
        EMPTY = "empty"

    undeletable: ClassVar[bool] = True

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    posted_usd = UsdField(default=0)
    held_usd = UsdField(default=0)
    overdraft_usd = UsdField(default=0)
    spent_usd = UsdField(default=0, help_text="All charges ever, so credits ever = balance + spent")
    credit_limit_usd = UsdField(default=0, help_text="How far usage may go below zero before calls are refused")
    low_usd = UsdField(default=5, help_text="Below this the wallet counts as low")
    seq = models.BigIntegerField(default=0, help_text="Of the last transfer that touched it")
    head = models.BinaryField(default=b"", help_text="Digest of that transfer")
    frozen_at = models.DateTimeField(null=True, blank=True)
    mode = models.TextField(choices=Mode.choices, default=Mode.STRICT)
    enforcement = models.TextField(choices=Enforcement.choices, default=Enforcement.STRICT)
    level = models.TextField(choices=Level.choices, default=Level.ACTIVE, help_text="What the last alert said")
    has_scoped = models.BooleanField(default=False, help_text="Some credit pays for certain models only")
    has_budgets = models.BooleanField(default=False)
    next_change = models.DateTimeField(null=True, help_text="When the next credit ends or begins")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "wallet"
        constraints = (
            models.CheckConstraint(name="wallet_posted_in_range", condition=within("posted_usd")),
            models.CheckConstraint(name="wallet_held_in_range", condition=within("held_usd")),
            models.CheckConstraint(name="wallet_overdraft_in_range", condition=within("overdraft_usd")),
            models.CheckConstraint(name="wallet_spent_in_range", condition=within("spent_usd")),
            models.CheckConstraint(name="wallet_credit_limit_in_range", condition=within("credit_limit_usd")),
            models.CheckConstraint(name="wallet_low_in_range", condition=within("low_usd")),
        )

    def __str__(self) -> str:
        return f"wallet of {self.organization}"


class Transfer(models.Model):
    """One movement of money inside an organization, for ever.

    Written by ``billing.ledger``. ``amount_usd`` > 0, from ``debit`` to ``credit``.
    ``reference`` is the cause, unique within organization and kind, so posting is idempotent.
    ``seq`` counts the organization's transfers without a gap, those that pass its wallet by too, and
    ``balance_after_usd`` is the wallet's posted minus overdraft after it.
    """

    append_only: ClassVar[bool] = True

    id = IdField("tr")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    kind = models.TextField(choices=TransferKind.choices)
    debit = models.TextField(choices=Account.choices)
    credit = models.TextField(choices=Account.choices)
    amount_usd = UsdField()
    reference = models.TextField()
    seq = models.BigIntegerField(null=True)
    balance_after_usd = UsdField(null=True)
    actor = models.TextField(default="")
    reason = models.TextField(default="")
    created_at = models.DateTimeField()
    digest = models.BinaryField(help_text="SHA-256 over the wallet's transfer before this one and this one")

    class Meta:
        db_table = "transfer"
        ordering = ("-id",)
        # What moved money at Stripe is little beside usage, and is looked at as a whole.
        indexes = (
            models.Index(
                fields=("organization", "id"),
                name="transfer_of_clearing",
                condition=Q(debit="stripe_clearing") | Q(credit="stripe_clearing"),
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=("reference", "kind", "organization"), name="transfer_once"),
            models.UniqueConstraint(
                fields=("organization", "seq"), name="transfer_seq_once", condition=Q(seq__isnull=False)
            ),
            models.CheckConstraint(name="transfer_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(name="transfer_between_two", condition=~Q(debit=F("credit"))),
            models.CheckConstraint(
                name="transfer_wallet_has_seq",
                condition=Q(seq__isnull=False, balance_after_usd__isnull=False)
                | (Q(seq__isnull=True, balance_after_usd__isnull=True) & ~Q(debit="wallet") & ~Q(credit="wallet")),
            ),
        )

    def __str__(self) -> str:
        return ids.show("tr", self.pk)


class LedgerHead(models.Model):
    """Where a wallet stood when a day (UTC) was sealed: the anchor of the daily export and of later checks.

    Written by ``billing.seals``.
    """

    append_only: ClassVar[bool] = True

    pk = models.CompositePrimaryKey("organization_id", "day")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    day = models.DateField()
    seq = models.BigIntegerField()
    digest = models.BinaryField()
    posted_usd = UsdField()
    overdraft_usd = UsdField()
    spent_usd = UsdField()
    sealed_at = models.DateTimeField()

    class Meta:
        db_table = "ledger_head"
        constraints = (
            models.CheckConstraint(name="ledger_head_posted_in_range", condition=within("posted_usd")),
            models.CheckConstraint(name="ledger_head_overdraft_in_range", condition=within("overdraft_usd")),
            models.CheckConstraint(name="ledger_head_spent_in_range", condition=within("spent_usd")),
        )

    def __str__(self) -> str:
        return f"{self.organization_id} {self.day}"
