"""The tables of the machinery."""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids
from core.fields import IdField


class JobRun(models.Model):
    """The last run of a scheduled job. Written by ``ops.jobs``."""

    name = models.TextField(primary_key=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    ok = models.BooleanField(null=True, help_text="Empty while it runs")
    result = models.TextField(default="")

    class Meta:
        db_table = "job_run"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Approval(models.Model):
    """What one person asked for and another decided. Written by ``ops.approvals``."""

    id = IdField("appr")
    kind = models.TextField()
    subject_id = models.UUIDField()
    details: models.JSONField[Any, Any] = models.JSONField(default=dict)
    asked_by = models.TextField()
    asked_at = models.DateTimeField(default=timezone.now)
    decided_by = models.TextField(default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    granted = models.BooleanField(null=True)

    class Meta:
        db_table = "approval"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("kind", "subject_id"), condition=Q(decided_at__isnull=True), name="approval_open_once"
            ),
            models.CheckConstraint(
                name="approval_second_person", condition=Q(decided_at__isnull=True) | ~Q(asked_by=F("decided_by"))
            ),
        )

    def __str__(self) -> str:
        return ids.show("appr", self.pk)
