"""The tables of billing. Each is written by one module, named in its docstring."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from core.money import USD_MAX
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


class TransferKind(models.TextChoices):
    """Why money moved."""

    CHARGE = "charge"
    DRAW = "draw", "overdraft drawn"
    REPAYMENT = "repayment", "overdraft repaid"
    GRANT = "grant", "promotional grant"
    VOID = "void"
    RERATE_UP = "rerate_up", "re-rated upwards"
    RERATE_DOWN = "rerate_down", "re-rated downwards"


class Wallet(models.Model):
    """An organization's money: the one stored balance, and the mutex of everything it owns.

    Written by ``billing.ledger``. ``posted_usd`` is what the wallet account holds, ``held_usd``
    what open holds reserve, ``overdraft_usd`` what usage took beyond it. A trigger refuses any
    change of posted or overdraft that no transfer of the same ``seq`` explains.
    """

    undeletable: ClassVar[bool] = True

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    posted_usd = UsdField(default=0)
    held_usd = UsdField(default=0)
    overdraft_usd = UsdField(default=0)
    spent_usd = UsdField(default=0, help_text="All charges ever, so credits ever = balance + spent")
    credit_limit_usd = UsdField(default=0, help_text="How far usage may go below zero before calls are refused")
    low_usd = UsdField(default=5, help_text="Below this the wallet counts as low")
    seq = models.BigIntegerField(default=0, help_text="Of the last transfer that touched it")
    frozen_at = models.DateTimeField(null=True, blank=True)
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
    Where it touches the wallet, ``seq`` counts the wallet's transfers without a gap and
    ``balance_after_usd`` is posted minus overdraft after it.
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

    class Meta:
        db_table = "transfer"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("organization", "kind", "reference"), name="transfer_once"),
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


class Correction(models.Model):
    """What was posted about a usage record afterwards: a void, or the difference of a re-rating. For ever.

    Written by ``billing.corrections``. ``id`` is the correcting usage record's; ``cause`` makes it
    happen once. A record's cost today is its own plus its corrections'.
    """

    append_only: ClassVar[bool] = True

    class Kind(models.TextChoices):
        VOID = "void"
        RERATING = "rerating", "re-rating"

    id = IdField("usage")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    record_id = models.UUIDField(help_text="The record that is corrected")
    kind = models.TextField(choices=Kind.choices)
    cause = models.TextField()
    cost_usd = UsdField(help_text="The difference: negative gives back")
    transfer_id = models.UUIDField(null=True)
    actor = models.TextField()
    reason = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "correction"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("organization", "record_id", "cause"), name="correction_once"),
            models.CheckConstraint(
                name="correction_in_range", condition=Q(cost_usd__gt=-USD_MAX, cost_usd__lt=USD_MAX)
            ),
        )

    def __str__(self) -> str:
        return ids.show("usage", self.pk)


class Rerating(models.Model):
    """One act of re-rating a period by today's price book: what, why, by whom, how far it got.

    Written by ``billing.rerating``. ``undoes`` names the act whose differences it takes back.
    """

    class State(models.TextChoices):
        PLANNED = "planned"
        APPLYING = "applying"
        APPLIED = "applied"

    id = IdField("rerate")
    start = models.DateTimeField(help_text="Of created_at, inclusive")
    end = models.DateTimeField(help_text="Exclusive")
    model_slugs = ArrayField(models.TextField(), default=list, blank=True, help_text="Empty means all")
    organization_ids = ArrayField(models.UUIDField(), default=list, blank=True, help_text="Empty means all")
    undoes = models.OneToOneField("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    reason = models.TextField()
    actor = models.TextField()
    state = models.TextField(choices=State.choices, default=State.PLANNED)
    created_at = models.DateTimeField(default=timezone.now)
    applied_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "rerating"
        ordering = ("-id",)

    def __str__(self) -> str:
        return ids.show("rerate", self.pk)


class ReratingShare(models.Model):
    """What an act means for one organization, and the last record it has dealt with there.

    Written by ``billing.rerating``.
    """

    rerating = models.ForeignKey(Rerating, on_delete=models.PROTECT, related_name="+")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    last_record_id = models.UUIDField(null=True)
    records = models.BigIntegerField(default=0, help_text="Records whose cost changes")
    before_usd = UsdField(default=0)
    after_usd = UsdField(default=0)
    unpriced = models.BigIntegerField(default=0, help_text="Records that today's book cannot price; left alone")
    finished = models.BooleanField(default=False)

    class Meta:
        db_table = "rerating_share"
        constraints = (
            models.UniqueConstraint(fields=("rerating", "organization"), name="rerating_share_once"),
            models.CheckConstraint(
                name="rerating_share_in_range",
                condition=Q(
                    before_usd__gt=-USD_MAX, before_usd__lt=USD_MAX, after_usd__gt=-USD_MAX, after_usd__lt=USD_MAX
                ),
            ),
        )
