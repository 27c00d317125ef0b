"""The admin's shape: lists that stay fast on a million rows, books that are read and never typed into."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property

from core import ids
from core.errors import ApiError
from core.fields import IdField

M = TypeVar("M", bound=Model)
T = TypeVar("T")

ROWS_MAX = 1000
INLINE_ROWS_MAX = 100

admin.site.site_header = admin.site.site_title = "Tollbook"
admin.site.index_title = "The desk"
# There is no site beside the API to view.
admin.site.site_url = None


class BoundedPaginator(Paginator[T]):
    """Pages over the first ``ROWS_MAX`` rows; who looks further back searches or filters.

    Django's own counts every row of the table for each page shown.
    """

    @cached_property
    def count(self) -> int:
        """The number of rows, at most ``ROWS_MAX``; reads no more than that many."""
        rows = self.object_list
        if not isinstance(rows, QuerySet):
            return min(len(rows), ROWS_MAX)
        return len(rows.order_by().values_list("pk", flat=True)[:ROWS_MAX])


class QuickList(ChangeList):
    """A list that says so when it does not go to the end."""

    bounded = False

    def get_results(self, request: HttpRequest) -> None:
        """Read the page; with no total to compare with, the number found says nothing beside the search box."""
        super().get_results(request)
        self.full_result_count = self.result_count
        self.bounded = self.result_count >= ROWS_MAX


class QuickAdmin(admin.ModelAdmin[M]):
    """Newest first, without COUNT(*), found by the id that customers see."""

    change_list_template = "admin/quick_list.html"
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    ordering = ("-pk",)

    class Media:
        css = {"all": ("core/desk.css",)}

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """Bounded."""
        return QuickList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[M], search_term: str
    ) -> tuple[QuerySet[M], bool]:
        """One row for a whole id such as ``key_01K6Z7…``, else Django's search."""
        key = self.opts.pk
        if isinstance(key, IdField):
            try:
                return queryset.filter(pk=ids.read(key.prefix, search_term.strip())), False
            except ValueError:
                pass
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="id")
    def shown_id(self, row: M) -> str:
        """The id as customers see it."""
        key = self.opts.pk
        assert isinstance(key, IdField)
        return ids.show(key.prefix, row.pk)


class BooksAdmin(QuickAdmin[M]):
    """Rows that are read here and never added, changed or deleted; a correction is an action that calls a verb."""

    # Without "History": what is never typed into leaves no entries there.
    change_form_template = "admin/read.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        """Never."""
        return False


class VerbAdmin(QuickAdmin[M]):
    """Forms that save by a verb (``keep``) and show what it refuses. Nothing is deleted here."""

    def keep(self, request: HttpRequest, row: M, *, form: ModelForm[M], new: bool) -> M:
        """Call the verb; the row it answers. Raises ``ApiError``."""
        raise NotImplementedError

    def save_model(self, request: HttpRequest, obj: M, form: Any, change: bool) -> None:
        """Django's hook: hand the filled form to the verb."""
        obj.pk = self.keep(request, obj, form=form, new=not change).pk

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The form; a refusal is a message above it and nothing is stored."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except ApiError as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        """Never: history stays."""
        return False


class FirstRows(BaseInlineFormSet[Any, Any, Any]):
    """No more than ``INLINE_ROWS_MAX`` rows of what belongs to a page."""

    _first: QuerySet[Any] | None = None

    def get_queryset(self) -> QuerySet[Any]:
        """The first rows, read once; Django asks again for every row."""
        if self._first is None:
            self._first = super().get_queryset()[:INLINE_ROWS_MAX]
        return self._first


class ReadInline(admin.TabularInline[Any, Any]):
    """Rows shown on their owner's page, read-only."""

    extra = 0
    formset = FirstRows
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


def for_each(page: admin.ModelAdmin[M], request: HttpRequest, rows: QuerySet[M], verb: Callable[[M], object]) -> None:
    """Run a verb for each chosen row and say how it went; a refusal stops none of the others."""
    done = 0
    for row in rows:
        try:
            verb(row)
        except ApiError as error:
            page.message_user(request, f"{row}: {error}", messages.ERROR)
        else:
            done += 1
    if done:
        page.message_user(request, f"Done for {done}.", messages.SUCCESS)
