"""The desk's pages of the machinery: scheduled jobs and how their last run went, and what waits for a second person."""

from functools import partial
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.timesince import timesince

from core import clock, ids
from core.admin import BooksAdmin
from ops.models import Approval, JobRun


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
    def took(self, row: JobRun) -> str:
        """Seconds from start to end."""
        return "-" if row.finished_at is None else f"{(row.finished_at - row.started_at).total_seconds():.1f} s"


@admin.register(Approval)
class ApprovalAdmin(BooksAdmin[Approval]):
    """What was asked for and decided."""

    list_display = ("shown_id", "kind", "subject_id", "asked_by", "asked_at", "granted", "decided_by", "decided_at")
    list_filter = ("granted",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An appr_ id, or the id of what it is about."
    fields = (
        *("shown_id", "kind", "subject_id", "details", "asked_by", "asked_at"),
        *("granted", "decided_by", "decided_at"),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Approval], search_term: str
    ) -> tuple[QuerySet[Approval], bool]:
        """By its own id or its subject's."""
        text = search_term.strip()
        if not text:
            return queryset, False
        for read in (partial(ids.read, "appr"), UUID):
            try:
                key = read(text)
            except ValueError:
                continue
            return queryset.filter(Q(pk=key) | Q(subject_id=key)), False
        return queryset.none(), False
