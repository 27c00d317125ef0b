"""Money that finance moves by hand."""

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from orgs.models import Organization


class Adjustment(models.Model):
    """An act of finance on a wallet: why, by whom, and whether a second person still has to agree.

    Written by ``billing.adjustments``.
    """

    undeletable: ClassVar[bool] = True

    class Kind(models.TextChoices):
        GRANT = "grant", "promotional credit"
        CREDIT = "credit", "correction in the customer's favour"
        DEBIT = "debit", "correction to the customer's debit"
        REFUND = "refund", "purchased credit paid back"
        WRITE_OFF = "write_off", "overdraft forgiven"

    class State(models.TextChoices):
        WAITING = "waiting", "waits for a second person"
        POSTED = "posted"
        REFUSED = "refused"

    id = IdField("adj")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    kind = models.TextField(choices=Kind.choices)
    amount_usd = UsdField()
    terms: models.JSONField[Any, Any] = models.JSONField(default=dict, help_text="Of a grant: priority, end, models")
    reason = models.TextField()
    actor = models.TextField()
    state = models.TextField(choices=State.choices, default=State.WAITING)
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "adjustment"
        ordering = ("-id",)
        constraints = (models.CheckConstraint(name="adjustment_positive", condition=within("amount_usd", low="gt")),)

    def __str__(self) -> str:
        return ids.show("adj", self.pk)
