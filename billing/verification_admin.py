"""The desk's page of the checks of the books, and what each last found."""

from typing import Final

from django.contrib import admin
from django.utils.text import Truncator

from billing.models import CheckRun
from core.admin import BooksAdmin
from core.markup import NOTHING

DETAIL_SHOWN: Final = 200


@admin.register(CheckRun)
class CheckRunAdmin(BooksAdmin[CheckRun]):
    """What each check of the books last found, run from the schedule; those that fail come first."""

    list_display = ("name", "ok", "seen", "what", "scope", "began_at", "took")
    list_filter = ("ok",)
    ordering = ("ok", "name")
    sortable_by = ()
    search_fields = ("name",)
    search_help_text = "An id such as V09, or what is checked."
    fields = ("name", "ok", "seen", "detail", "scope", "began_at", "took")

    @admin.display(description="what it says")
    def what(self, row: CheckRun) -> str:
        """The beginning of the detail."""
        return Truncator(row.detail).chars(DETAIL_SHOWN) or NOTHING

    @admin.display(description="looked at")
    def scope(self, row: CheckRun) -> str:
        """How far back it went."""
        return "everything" if row.everything else "what is new since the last sealed day"

    @admin.display(description="took")
    def took(self, row: CheckRun) -> str:
        """Milliseconds."""
        return f"{row.took_ms:,} ms"
