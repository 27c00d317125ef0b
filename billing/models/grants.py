"""Credit in lots, and what each transfer took from them."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from billing import books
from core import ids
from core.fields import IdField, UsdField, within
from core.money import USD_MAX
from orgs.models import Organization


class Grant(models.Model):
    """A lot of credit in a wallet: what was given or paid for, and what is left of it.

    Written by ``billing.lots``. In the database the key is ``(organization_id, id)``. One that
    begins later has no ``transfer_id`` yet; from then on ``remaining_usd`` is part of the wallet.
    """

    undeletable: ClassVar[bool] = True

    class Kind(models.TextChoices):
        PROMOTIONAL = books.PROMOTIONAL
        ADJUSTMENT = books.ADJUSTMENT
        PURCHASED = books.PURCHASED

    id = IdField("grant")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    kind = models.TextField(choices=Kind.choices)
    amount_usd = UsdField()
    remaining_usd = UsdField()
    priority = models.SmallIntegerField(default=0, help_text="Lower is spent first")
    effective_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    model_slugs = ArrayField(models.TextField(), default=list, blank=True, help_text="Empty: pays for any model")
    reference = models.TextField(help_text="Its cause, once per organization")
    source = models.TextField(help_text="The account that the money came from")
    transfer_id = models.UUIDField(null=True, help_text="Empty until it begins")
    actor = models.TextField()
    reason = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "credit_grant"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("reference", "organization"), name="credit_grant_once"),
            models.CheckConstraint(name="credit_grant_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(
                name="credit_grant_remaining_in_range",
                condition=Q(remaining_usd__gte=0, remaining_usd__lte=F("amount_usd")),
            ),
            models.CheckConstraint(
                name="credit_grant_ends_after_it_begins",
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("effective_at")),
            ),
        )

    def __str__(self) -> str:
        return ids.show("grant", self.pk)


class GrantUse(models.Model):
    """What one transfer took from a grant, or gave back to it (negative). For ever.

    Written by ``billing.lots``. A charge has one row for each grant, from its first record that
    this grant paid for (in part or whole) to the last; a correction has a row for each record and
    grant, both ends naming the record corrected.
    """

    append_only: ClassVar[bool] = True

    id = IdField("use")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    transfer_id = models.UUIDField()
    grant_id = models.UUIDField()
    amount_usd = UsdField()
    first_record_id = models.UUIDField(null=True)
    last_record_id = models.UUIDField(null=True)

    class Meta:
        db_table = "grant_use"
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                name="grant_use_in_range",
                condition=Q(amount_usd__gt=-USD_MAX, amount_usd__lt=USD_MAX) & ~Q(amount_usd=0),
            ),
        )

    def __str__(self) -> str:
        return ids.show("use", self.pk)
