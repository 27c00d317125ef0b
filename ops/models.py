"""The tables of the machinery."""

from django.db import models


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
