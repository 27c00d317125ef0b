"""Money promised to requests that have not finished."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from core import ids
from core.fields import IdField, UsdField, within
from orgs.models import Organization


class Hold(models.Model):
    """What a request may cost at most, set aside until its event arrives.

    Written by ``billing.holds``. In the database the key is ``(organization_id, id)``, and
    ``organization`` is whom the request belongs to; ``payer_id`` names the wallet that holds the
    amount. It ends once: captured by ``record_id``, released, or expired.
    """

    undeletable: ClassVar[bool] = True

    class State(models.TextChoices):
        OPEN = "open"
        CAPTURED = "captured"
        RELEASED = "released"
        EXPIRED = "expired"

    id = IdField("auth")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    payer_id = models.UUIDField()
    api_key_id = models.UUIDField(null=True)
    member_id = models.UUIDField(null=True)
    project_id = models.UUIDField(null=True)
    placed_by = models.UUIDField(null=True, help_text="The service key that asked")
    model = models.TextField()
    amount_usd = UsdField()
    tokens = models.BigIntegerField(help_text="Input and output at most, for ceilings in tokens")
    max_output_tokens = models.IntegerField()
    budget_ids = ArrayField(models.UUIDField(), default=list, help_text="The ceilings that count it")
    state = models.TextField(choices=State.choices, default=State.OPEN)
    record_id = models.UUIDField(null=True, help_text="The usage record that captured it")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "hold"
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(name="hold_in_range", condition=within("amount_usd")),
            models.CheckConstraint(name="hold_tokens_in_range", condition=Q(tokens__gte=0)),
            models.CheckConstraint(
                name="hold_settled_when_not_open",
                condition=Q(state="open", settled_at__isnull=True) | (~Q(state="open") & Q(settled_at__isnull=False)),
            ),
            models.CheckConstraint(
                name="hold_captured_by_a_record", condition=Q(record_id__isnull=True) | Q(state="captured")
            ),
        )

    def __str__(self) -> str:
        return ids.show("auth", self.pk)
