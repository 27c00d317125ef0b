"""The admin's shape: lists that stay fast on a million rows, books that are read and never typed into.

What can be done about a row is an ``Act``: a button, a page that asks what and why, and a verb. What is done is in the
audit trail with the reason (``core.reasons``).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import label_for_field, lookup_field, quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import DatabaseError
from django.db.models import Model, QuerySet, TextField
from django.forms import BaseInlineFormSet, ModelForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import cached_property

from core import ids, reasons, submissions
from core.errors import ApiError
from core.exports import ExportedAdmin
from core.fields import IdField
from core.http import from_exception
from core.markup import as_facts, stamp, table

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin, TabularInline
    from django.contrib.admin.widgets import AdminTextInputWidget as UnfoldAdminTextInputWidget
else:
    # Unfold has no types; what it adds to Django's own is looks.
    from unfold.admin import ModelAdmin, TabularInline
    from unfold.widgets import UnfoldAdminTextInputWidget

M = TypeVar("M", bound=Model)
T = TypeVar("T")

ROWS_MAX = 1000
INLINE_ROWS_MAX = 100
# In what a page about chosen rows sends: it has been answered.
ANSWERED = "answered"
# In what a page sends that shows what an act would change: for which answers it was shown.
FORESEEN = "foreseen"
# Of the page and not of the answers.
_MARKS = {FORESEEN, submissions.FIELD, "csrfmiddlewaretoken"}


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


class Tool(NamedTuple):
    """A button above a list or a row: what it says and where it leads."""

    label: str
    place: str


class Section(NamedTuple):
    """A part of a page: a heading and what ``core.markup`` made."""

    heading: str
    content: str


class QuickAdmin(ExportedAdmin, ModelAdmin[M]):
    """Newest first, without COUNT(*), found by the id that customers see."""

    change_list_template = "admin/quick_list.html"
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)

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

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What was done about a row; who may not see such rows is not told whether there is one."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        return super().history_view(request, object_id, extra_context)

    @property
    def page(self) -> str:
        """App and model, as addresses name them."""
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def address_of(self, row: M) -> str:
        """How the addresses of a row's pages name it."""
        return quote(row.pk)

    def place_of(self, row: M | None, page: str = "change") -> str:
        """The address of one of a row's pages, or of the list."""
        if row is None:
            return reverse(f"admin:{self.page}_changelist")
        return reverse(f"admin:{self.page}_{page}", args=[self.address_of(row)])

    def tools(self, request: HttpRequest, row: M) -> list[Tool]:
        """Buttons above a row."""
        return []

    def list_tools(self, request: HttpRequest) -> list[Tool]:
        """Buttons above the list."""
        return []

    def summary(self, request: HttpRequest) -> str:
        """What the list comes to, shown above it."""
        return ""

    def refresh(self, row: M) -> int | None:
        """After how many seconds a row's page is read again by itself, if what it shows is moving."""
        return None

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list; what stands above it is asked for only if it is shown."""
        above = {"tools": partial(self.list_tools, request), "summary": partial(self.summary, request)}
        return super().changelist_view(request, {**above, **(extra_context or {})})

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: M | None = None,
    ) -> HttpResponse:
        """A row's page, with its buttons."""
        if obj is not None:
            context = {**context, "tools": self.tools(request, obj), "refresh": self.refresh(obj)}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def show(
        self,
        request: HttpRequest,
        title: str,
        sections: Sequence[Section],
        *,
        row: M | None = None,
        template: str = "admin/page.html",
        **more: Any,
    ) -> HttpResponse:
        """A page of sections about a row, or about the list."""
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "sections": sections,
            "original": row,
            "back": self.place_of(row),
            "media": self.media,
            **more,
        }
        return TemplateResponse(request, template, context)

    @admin.display(description="id")
    def shown_id(self, row: M) -> str:
        """The id as customers see it."""
        key = self.opts.pk
        assert isinstance(key, IdField)
        return ids.show(key.prefix, row.pk)


def presence(title: str, *, absent: str, present: str) -> type[admin.EmptyFieldListFilter]:
    """A filter by whether a column holds anything, in the words of what that means."""

    class Presence(admin.EmptyFieldListFilter):
        """Named choices."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.title = title

        def choices(self, changelist: ChangeList) -> Any:
            """All, absent, present."""
            for choice, text in zip(super().choices(changelist), ("All", absent, present), strict=True):
                yield {**choice, "display": text}

    return Presence


class BooksAdmin(QuickAdmin[M]):
    """Rows that are read here and never added, changed or deleted; a correction is an act that calls a verb."""

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


class Done(NamedTuple):
    """What an act came to: what to say, and where to go (to the row, if nowhere else)."""

    message: str
    place: str = ""
    level: int = messages.SUCCESS


class Act(NamedTuple):
    """What can be done about a row, or about the list: a button, a page that asks, and a verb.

    ``do`` gets the request, the row (``None`` for the list) and the form's answers, and calls the
    verb; what that refuses is shown. ``warning`` is what to know before. ``facts`` show what it is
    about; the row as its list has it, unless they are given. Only rows for which it is ``possible`` have
    the button. ``right`` is one such as ``billing.add_budget``, for what takes another right than
    changing such rows.

    Every act asks for a reason, which goes into the audit trail: ``why`` is the field of the form that
    says it, added where the form has none; ``known`` is one that was given before, offered again. With
    ``many`` it can be done about several rows of the list at once.

    ``foresee`` says from the row and the answers what would change. The page then shows that first, and the act is
    done when the same answers are sent once more.
    """

    name: str
    label: str
    warning: str
    do: Callable[[HttpRequest, Any, dict[str, Any]], Done]
    form: type[forms.Form] = reasons.ReasonForm
    facts: Callable[[Any], Sequence[Section]] = lambda _: ()
    possible: Callable[[Any], bool] = lambda _: True
    right: str = ""
    why: str = "reason"
    known: Callable[[Any], str] = lambda _: ""
    many: bool = False
    foresee: Callable[[Any, dict[str, Any]], Sequence[Section]] | None = None

    @property
    def asks(self) -> type[forms.Form]:
        """Its form, with the reason."""
        return reasons.asking(self.form) if self.why not in self.form.base_fields else self.form


class Acting(QuickAdmin[M]):
    """Pages about whose rows something can be done, by who may change such rows (Django's ``change`` right) or
    has the right that the act names.

    Each act has a page that asks; only a POST to it does anything.
    """

    acts: Sequence[Act] = ()
    list_acts: Sequence[Act] = ()
    # Rows are chosen one by one, so that the page that asks can name them.
    list_disable_select_all = True

    def get_urls(self) -> list[URLPattern]:
        """With a page for each act."""
        of_rows = [self._url(f"<path:object_id>/{act.name}/", act) for act in self.acts]
        return [*(self._url(f"{act.name}/", act) for act in self.list_acts), *of_rows, *super().get_urls()]

    def _url(self, place: str, act: Act) -> URLPattern:
        view = self.admin_site.admin_view(partial(self.act_view, act=act))
        return path(place, view, name=f"{self.page}_{act.name}")

    def may_act(self, request: HttpRequest, act: Act) -> bool:
        """Whether the person at the desk may do it."""
        right = act.right or f"{self.opts.app_label}.{get_permission_codename('change', self.opts)}"
        return bool(request.user.has_perm(right))

    def tools(self, request: HttpRequest, row: M) -> list[Tool]:
        """What can be done about the row now."""
        acts = [act for act in self.acts if self.may_act(request, act) and act.possible(row)]
        return [Tool(act.label, self.place_of(row, act.name)) for act in acts]

    def list_tools(self, request: HttpRequest) -> list[Tool]:
        """What can be done from the list."""
        acts = [act for act in self.list_acts if self.may_act(request, act)]
        return [Tool(act.label, reverse(f"admin:{self.page}_{act.name}")) for act in acts]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """With what can be done about several rows at once."""
        acts = [act for act in self.acts if act.many and self.may_act(request, act)]
        return {**super().get_actions(request), **{act.name: (_asking(act), act.name, act.label) for act in acts}}

    def act_view(self, request: HttpRequest, object_id: str | None = None, *, act: Act) -> HttpResponse:
        """Ask, or do it. Raises Django's ``PermissionDenied`` or ``Http404``."""
        if not self.may_act(request, act):
            raise PermissionDenied
        row: M | None = None
        if object_id is not None:
            row = self.get_object(request, unquote(object_id))
            if row is None:
                raise Http404
        asked = request.method != "POST"
        form = act.asks(initial={act.why: act.known(row)}) if asked else act.asks(request.POST, request.FILES)
        facts = act.facts(row) or ([] if row is None else [self._about(request, row)])
        if not asked and form.is_valid():
            seen = _digest(request.POST)
            if act.foresee is not None and request.POST.get(FORESEEN) != seen:
                return self._foresee(request, act, form, facts, row=row, seen=seen)
            if answer := self._do(request, row, act, form):
                return answer
        return self._ask(request, act, form, facts, row=row)

    def _foresee(
        self, request: HttpRequest, act: Act, form: forms.Form, facts: Sequence[Section], *, row: M | None, seen: str
    ) -> HttpResponse:
        """Ask again, with what the answers would change; or say what is wrong with them."""
        assert act.foresee is not None
        try:
            changes = act.foresee(row, form.cleaned_data)
        except ApiError as error:
            form.add_error(error.param if error.param in form.fields else None, str(error))
            return self._ask(request, act, form, facts, row=row)
        return self._ask(request, act, form, [*changes, *facts], row=row, again=[(FORESEEN, seen)], foreseen=True)

    def act_on(self, request: HttpRequest, rows: QuerySet[M], act: Act) -> HttpResponse | None:
        """Ask about the rows that were chosen in the list, or do it for each; a refusal stops none of the others."""
        asked = ANSWERED not in request.POST
        form = act.asks() if asked else act.asks(request.POST)
        if asked or not form.is_valid():
            rows, shown = rows[:ROWS_MAX], list(map(str, self.get_list_display(request)))
            lines = [[self._cell(row, name) for name in shown] for row in rows]
            chosen = Section("Chosen", table(list(map(self._head, shown)), lines))
            again = [("action", act.name), *(("_selected_action", str(row.pk)) for row in rows), (ANSWERED, "1")]
            return self._ask(request, act, form, [chosen], again=again)
        done = 0
        for row in rows:
            try:
                with reasons.given(form.cleaned_data[act.why]):
                    act.do(request, row, form.cleaned_data)
            except ApiError as error:
                self.message_user(request, f"{row}: {error}", messages.ERROR)
            else:
                done += 1
        if done:
            self.message_user(request, f"Done for {done}.", messages.SUCCESS)
        return None

    def _about(self, request: HttpRequest, row: M) -> Section:
        """A row as its list has it."""
        shown = list(map(str, self.get_list_display(request)))
        if "organization" not in shown and any(field.name == "organization" for field in self.opts.fields):
            shown.insert(0, "organization")
        return Section("What it is about", as_facts({self._head(name): self._cell(row, name) for name in shown}))

    def _head(self, name: str) -> str:
        return str(label_for_field(name, self.model, model_admin=self))

    def _cell(self, row: M, name: str) -> object:
        field, _, value = lookup_field(name, row, self)
        if isinstance(value, datetime):
            return f"{stamp(value)} UTC"
        choices = dict(getattr(field, "flatchoices", None) or ())
        return choices.get(value, value) if isinstance(value, str) else value

    def _ask(
        self, request: HttpRequest, act: Act, form: forms.Form, facts: Sequence[Section], **more: Any
    ) -> HttpResponse:
        more |= {"form": form, "warning": act.warning, "mark": submissions.mark(), "foresees": act.foresee is not None}
        return self.show(request, act.label, facts, template="admin/act.html", **more)

    def _do(self, request: HttpRequest, row: M | None, act: Act, form: forms.Form) -> HttpResponse | None:
        """Call the verb; none if what it refuses is something in the form, which then says so."""
        if not submissions.take(request.POST.get(submissions.FIELD, "")):
            self.message_user(request, "This was sent before. It is done once; see what came of it.", messages.WARNING)
            return HttpResponseRedirect(self.place_of(row))
        try:
            with reasons.given(form.cleaned_data[act.why]):
                done = act.do(request, row, form.cleaned_data)
        except ApiError as error:
            if error.param in form.fields:
                form.add_error(error.param, str(error))
                return None
            said = str(error)
            # Django begins every message with a capital, which a model's id has not.
            done = Done(f"Refused: {said}" if said[:1].islower() else said, level=messages.ERROR)
        except DatabaseError as error:
            # Locked out or cut off for a moment; anything else is logged as the bug it is.
            done = Done(str(from_exception(error)), level=messages.ERROR)
        self.message_user(request, done.message, done.level)
        return HttpResponseRedirect(done.place or self.place_of(row))


def _digest(told: QueryDict) -> str:
    """What was answered, in short; without the marks of the page that was sent."""
    answers = sorted((name, told.getlist(name)) for name in told if name not in _MARKS)
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()


def _asking(act: Act) -> Callable[[Any, HttpRequest, QuerySet[Any]], HttpResponse | None]:
    """An act as Django's lists know actions."""
    return lambda page, request, rows: page.act_on(request, rows, act)


class ActsAdmin(Acting[M], BooksAdmin[M]):
    """Books about which something can be done."""


class VerbAdmin(Acting[M]):
    """Forms that save by a verb (``keep``), ask why, and show what the verb refuses. Nothing is deleted here."""

    change_form_template = "admin/verb.html"
    # Texts that people type here are names.
    formfield_overrides: ClassVar[Any] = {TextField: {"widget": UnfoldAdminTextInputWidget}}

    def keep(self, request: HttpRequest, row: M, *, form: ModelForm[M], new: bool) -> M:
        """Call the verb; the row it answers. Raises ``ApiError``."""
        raise NotImplementedError

    def get_fields(self, request: HttpRequest, obj: M | None = None) -> Any:
        """Those of the row."""
        return [name for name in super().get_fields(request, obj) if name != "reason"]

    def get_fieldsets(self, request: HttpRequest, obj: M | None = None) -> Any:
        """The reason last, where there is something to save."""
        shown = super().get_fieldsets(request, obj)
        return [*shown, ("Why", {"fields": ("reason",)})] if self._may_save(request, obj) else shown

    def get_form(self, request: HttpRequest, obj: M | None = None, change: bool = False, **options: Any) -> Any:
        """With the reason."""
        form = options.pop("form", self.form)
        return super().get_form(
            request, obj, change=change, form=reasons.asking(form) if self._may_save(request, obj) else form, **options
        )

    def _may_save(self, request: HttpRequest, obj: M | None) -> bool:
        return self.has_add_permission(request) if obj is None else self.has_change_permission(request, obj)

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
            # Without a reason the form is not valid, and nothing is done.
            with reasons.given(request.POST.get("reason", "")):
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


class ReadInline(TabularInline[Any, Any]):
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
