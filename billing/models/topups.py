"""Purchases of credit, and when a wallet asks for one by itself."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from orgs.models import Organization


class TopUp(models.Model):
    """A purchase of credit: meant before anybody is asked for money, settled once the answer is known.

    Written by ``billing.topups``. Its id is the cause of the grant that it becomes. A wallet has at
    most one that is open, so however often it asks, nobody pays twice for the same gap.
    """

    undeletable: ClassVar[bool] = True

    class State(models.TextChoices):
        PENDING = "pending", "nobody has been asked for money yet"
        PROCESSING = "processing", "the payment is under way"
        REQUIRES_ACTION = "requires_action", "waits for the customer"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    id = IdField("topup")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    amount_usd = UsdField()
    tax_usd = UsdField(default=0, db_default=0)
    automatic = models.BooleanField(default=True, db_default=True, help_text="The wallet asked by itself")
    state = models.TextField(choices=State.choices, default=State.PENDING)
    failure = models.TextField(default="")
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "topup"
        verbose_name = "top-up"
        ordering = ("-id",)
        indexes = (models.Index(fields=("organization", "-id"), name="topup_of_organization"),)
        constraints = (
            models.UniqueConstraint(
                fields=("organization",),
                name="topup_one_open",
                condition=Q(state__in=("pending", "processing", "requires_action")),
            ),
            models.CheckConstraint(name="topup_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(name="topup_tax_in_range", condition=within("tax_usd")),
            models.CheckConstraint(
                name="topup_settled",
                condition=Q(state__in=("pending", "processing", "requires_action"), settled_at__isnull=True)
                | Q(state__in=("succeeded", "failed", "canceled"), settled_at__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return ids.show("topup", self.pk)


class Recharge(models.Model):
    """When a wallet asks for a top-up by itself, and how the last attempts went.

    Written by ``billing.topups``. Below ``threshold_usd`` it asks for ``amount_usd``, or for what
    brings it back to the line where that is more; in a calendar month of the organization's zone
    for at most ``monthly_cap_usd`` in all.
    """

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    threshold_usd = UsdField()
    amount_usd = UsdField()
    monthly_cap_usd = UsdField()
    enabled = models.BooleanField(default=True)
    failures = models.IntegerField(default=0, help_text="Declines in a row")
    paused_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "recharge"
        constraints = (
            models.CheckConstraint(name="recharge_threshold_in_range", condition=within("threshold_usd")),
            models.CheckConstraint(name="recharge_amount_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(
                name="recharge_cap_in_range",
                condition=within("monthly_cap_usd") & Q(monthly_cap_usd__gte=F("amount_usd")),
            ),
        )

    def __str__(self) -> str:
        return f"recharge of {self.organization}"


class TopUpLimit(models.Model):
    """How much an organization may buy at once and within a day, where finance has set it.

    Written by ``billing.topups``.
    """

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    topup_usd = UsdField()
    daily_usd = UsdField()

    class Meta:
        db_table = "topup_limit"
        verbose_name = "limit of top-ups"
        verbose_name_plural = "limits of top-ups"
        constraints = (
            models.CheckConstraint(name="topup_limit_in_range", condition=within("topup_usd")),
            models.CheckConstraint(name="topup_limit_daily_in_range", condition=within("daily_usd")),
        )

    def __str__(self) -> str:
        return f"limit of {self.organization}"
