"""What the scheduled checks of the books last found."""

from django.db import models


class CheckRun(models.Model):
    """The last run of one check of ``manage.py verify`` from the schedule. Written by ``billing.verification``."""

    name = models.TextField(primary_key=True)
    ok = models.BooleanField()
    seen = models.BigIntegerField(help_text="How many rows were looked at")
    detail = models.TextField(default="")
    began_at = models.DateTimeField(help_text="When the run began, and so the moment of the books that it saw")
    took_ms = models.IntegerField()
    everything = models.BooleanField(help_text="Not only what is new since the last sealed day")

    class Meta:
        db_table = "check_run"
        ordering = ("ok", "name")

    def __str__(self) -> str:
        return self.name
