"""The desk's page of the machinery: scheduled jobs and how their last run went."""

from django.contrib import admin
from django.utils.timesince import timesince

from core import clock
from core.admin import BooksAdmin
from ops.models import JobRun


@admin.register(JobRun)
class JobRunAdmin(BooksAdmin[JobRun]):
    """The last run of each scheduled job."""

    list_display = ("name", "ok", "age", "started_at", "took", "result")
    list_filter = ("ok",)
    ordering = ("name",)
    search_fields = ("name",)
    fields = ("name", "ok", "started_at", "finished_at", "took", "result")

    @admin.display(description="age")
    def age(self, row: JobRun) -> str:
        """Since it began."""
        return timesince(row.started_at, clock.now())

    @admin.display(description="took")
    def took(self, row: JobRun) -> str | None:
        """Seconds from start to end."""
        return None if row.finished_at is None else f"{(row.finished_at - row.started_at).total_seconds():.1f} s"
