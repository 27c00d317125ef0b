"""What was posted about usage records afterwards, and the acts of re-rating."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField
from core.money import USD_MAX
from orgs.models import Organization


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
        verbose_name = "re-rating"
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
