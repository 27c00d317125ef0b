"""The desk's pages of how much: the catalog and its prices, usage, failed requests, quarantine.

All of it is read only; drafts of prices have buttons for the verbs of ``metering.pricebook``. Rules on prices are in
``metering.rule_admin``.

Rows whose database key is ``(organization_id, id)`` have pages at ``organization:id`` and lists of
one organization at a time, newest first, so every page is one range of that key.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR, ChangeList
from django.core.paginator import Paginator
from django.db import DatabaseError, transaction
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from core import clock, ids, money
from core.admin import Act, ActsAdmin, BooksAdmin, Done, QuickList, Section, presence
from core.errors import ApiError
from core.fields import IdField
from core.http import from_exception
from core.markup import (
    NOTHING,
    as_text,
    link,
    link_to,
    paragraphs,
    percent,
    refer,
    signed,
    stamp,
    table,
    verbatim,
)
from metering import catalog, partitions, pricebook, quarantine, rating, usage
from metering.models import (
    ArchivedMonth,
    ArchivedSum,
    CatalogModel,
    Price,
    PriceDraft,
    PriceDraftLine,
    Quarantine,
    RequestLog,
    UsageClaim,
    UsageRecord,
)
from ops import approvals
from ops.admin import RIGHTS, SUBJECTS, question_table, questions, second_person
from orgs.admin import actor
from orgs.models import Organization

M = TypeVar("M", bound=Model)

ORGANIZATION: Final = "organization"
ORGANIZATIONS_SHOWN = 20
MONTHS_SHOWN = 12
SUMS_SHOWN = 200
VERSIONS_SHOWN = 100
CHANGES_SHOWN = 200
TOUCHED_SHOWN = 100
# About ten seconds' worth.
TOUCHED_RECORDS_MAX = 250_000
REPORT_SHOWN = 20_000
# In the address of a draft's page: work out what it would have cost.
TOUCHED: Final = "touched"
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})", re.ASCII)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def address(prefix: str, organization_id: UUID, key: UUID) -> str:
    """Where the page of a row with the key (organization, id) is: ``org_…:usage_…``."""
    return f"{ids.show('org', organization_id)}:{ids.show(prefix, key)}"


def list_of(page: str, organization: Organization) -> str:
    """The address of the list of an organization's rows."""
    return f"{reverse(f'admin:{page}_changelist')}?{ORGANIZATION}={organization.slug}"


def find_organization(text: str) -> Organization | None:
    """The organization of a slug, an ``org_`` id, or a person's e-mail address (their personal one)."""
    text = text.strip()
    if not text or "\x00" in text:
        return None
    if "@" in text:
        return Organization.objects.filter(personal_of__email=text.lower()).first()
    try:
        return Organization.objects.filter(pk=ids.read("org", text)).first()
    except ValueError:
        return Organization.objects.filter(slug=text.lower()).first()


class OrganizationFilter(admin.SimpleListFilter):
    """Whose rows; the list itself applies it, because without one it shows nothing."""

    title = "organization"
    parameter_name = ORGANIZATION

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The chosen one and the newest that are not personal."""
        shared = Organization.objects.filter(personal_of__isnull=True).order_by("-pk")
        slugs = list(shared.values_list("slug", flat=True)[:ORGANIZATIONS_SHOWN])
        chosen = self.value()
        if chosen and chosen not in slugs:
            slugs.insert(0, chosen)
        return [(slug, slug) for slug in slugs]

    def choices(self, changelist: Any) -> Any:
        """All but "All"."""
        choices = super().choices(changelist)
        next(choices)
        return choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """As it is."""
        return queryset


class MonthFilter(admin.SimpleListFilter):
    """A month (UTC) of recording, as a range of ids; the address takes older ones than are shown."""

    title = "month"
    parameter_name = "month"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The last months."""
        months = [f"{partitions.month_start(clock.now(), plus=-ago):%Y-%m}" for ago in range(MONTHS_SHOWN)]
        return [(month, month) for month in months]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Ids made in that month."""
        value = self.value()
        if value is None:
            return queryset
        match = _MONTH.fullmatch(value)
        try:
            if match is None:
                raise ValueError("a month looks like 2026-11")
            start = datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC)
            low, high = ids.floor(start), ids.floor(partitions.month_start(start, plus=1))
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error
        return queryset.filter(pk__gte=low, pk__lt=high)


class KeyedList(ChangeList):
    """One organization's rows, newest first, a page at a time after the last id of the page before."""

    model_admin: "KeyedAdmin[Any]"
    organization: Organization | None
    newest: str | None
    older: str | None

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """The rows older than the id in the address; none without an organization or for a search without result."""
        rows = super().get_queryset(request, exclude_parameters)
        self.organization = find_organization(request.GET.get(ORGANIZATION, ""))
        if self.organization is None or self.query:
            return rows.none()
        rows = rows.filter(organization_id=self.organization.pk).defer(*self.model_admin.not_listed)
        after = request.GET.get(PAGE_VAR)
        if not after:
            return rows
        try:
            return rows.filter(pk__lt=ids.read(self.model_admin.prefix, after))
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """The key's order, whatever the address asks for: any other reads everything."""
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        """Read a page and one row more, which says whether there are older ones."""
        rows = list(self.queryset[: self.list_per_page + 1])
        self.result_list = rows[: self.list_per_page]
        self.result_count = len(self.result_list)
        self.full_result_count = self.result_count
        self.show_full_result_count = self.can_show_all = self.multi_page = self.show_admin_actions = False
        self.paginator = Paginator(self.result_list, self.list_per_page)
        self.older = self.newest = None
        if len(rows) > self.list_per_page:
            self.older = self.get_query_string({PAGE_VAR: ids.show(self.model_admin.prefix, self.result_list[-1].pk)})
        if request.GET.get(PAGE_VAR):
            self.newest = self.get_query_string()

    def url_for_result(self, result: Any) -> str:
        """The row's page."""
        return self.model_admin.url_of(result.organization_id, result.pk)


class KeyedAdmin(BooksAdmin[M]):
    """Rows whose key in the database is (organization, id).

    A search is a jump: an id opens its page, a slug its list, a slug with something else the row
    that ``find_in`` knows by it.
    """

    change_list_template = "admin/of_organization.html"
    # Columns that lists do without.
    not_listed: tuple[str, ...] = ()
    list_filter: ClassVar[Any] = (OrganizationFilter, MonthFilter)
    sortable_by = ()
    # The box is shown only with a field named here; what it finds is up to ``find``.
    search_fields = ("pk",)

    @property
    def prefix(self) -> str:
        """Of the rows' ids."""
        key = self.opts.pk
        assert isinstance(key, IdField)
        return key.prefix

    def address_of(self, row: Any) -> str:
        """By both columns of the key."""
        return address(self.prefix, row.organization_id, row.pk)

    def url_of(self, organization_id: UUID, key: UUID) -> str:
        """Where a row's page is."""
        return reverse(f"admin:{self.page}_change", args=[address(self.prefix, organization_id, key)])

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Nothing but the filters: another condition would read everything."""
        return lookup in {OrganizationFilter.parameter_name, MonthFilter.parameter_name}

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """The list by key."""
        return KeyedList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """The list, with whose it is for a title."""
        rows = super().get_changelist_instance(request)
        assert isinstance(rows, KeyedList)
        names = str(self.opts.verbose_name_plural).capitalize()
        rows.title = f"{names} of {rows.organization}" if rows.organization else names
        return rows

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> M | None:
        """The row at ``organization:id``, by both columns of its key."""
        organization, _, key = object_id.partition(":")
        try:
            found = {"organization_id": ids.read("org", organization), "pk": ids.read(self.prefix, key)}
        except ValueError:
            return None
        return self.get_queryset(request).select_related("organization").filter(**found).first()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[M], search_term: str
    ) -> tuple[QuerySet[M], bool]:
        """What the list holds; ``changelist_view`` has searched before."""
        return queryset, False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, or where a search leads."""
        text = request.GET.get(SEARCH_VAR, "").strip()
        if text and self.has_view_permission(request):
            place = self.find(text, organization=find_organization(request.GET.get(ORGANIZATION, "")))
            if place is not None:
                return HttpResponseRedirect(place)
            self.message_user(request, f"Nothing found for “{text}”.", messages.WARNING)
        return super().changelist_view(request, extra_context)

    def find(self, text: str, *, organization: Organization | None) -> str | None:
        """Where a search leads."""
        if "\x00" in text:
            return None
        try:
            return self.find_id(ids.read(self.prefix, text))
        except ValueError:
            pass
        if organization is not None and (place := self.find_in(organization, text)):
            return place
        if named := find_organization(text):
            return list_of(self.page, named)
        head, _, rest = re.sub(r"[\s:]", " ", text, count=1).partition(" ")
        named, rest = find_organization(head), rest.strip()
        if named is None or not rest:
            return None
        try:
            return self.url_of(named.pk, ids.read(self.prefix, rest))
        except ValueError:
            return self.find_in(named, rest)

    def find_id(self, key: UUID) -> str | None:
        """The page of an id whose organization is not known.

        The database probes the key for each organization, or reads the key of the id's month if that is less.
        """
        found = self.model._default_manager.filter(pk=key, organization_id__in=Organization.objects.values("pk"))
        owner = found.order_by().values_list("organization_id", flat=True).first()
        return None if owner is None else self.url_of(owner, key)

    def find_in(self, organization: Organization, text: str) -> str | None:
        """The page of what an organization has under that name."""
        raise NotImplementedError


class UsageAdmin(KeyedAdmin[M]):
    """What records and failed requests share."""

    not_listed = ("metadata",)
    search_help_text = (
        "An id opens its row, a slug lists an organization's. For an event: the slug and the event id, such as "
        "“acme-labs evt_1”; with an organization chosen the event id alone."
    )

    def find_in(self, organization: Organization, text: str) -> str | None:
        """Where an event went, by its claim; failing that, its row in quarantine."""
        claim = usage.standing([(organization.pk, text)]).get((organization.pk, text))
        if claim is None:
            held = Quarantine.objects.filter(organization_id=organization.pk, event_id=text).first()
            return reverse("admin:metering_quarantine_change", args=[held.pk]) if held else None
        if claim.state == UsageClaim.State.QUARANTINED:
            return reverse("admin:metering_quarantine_change", args=[claim.record_id])
        recorded = claim.state == UsageClaim.State.RECORDED
        page, prefix = ("metering_usagerecord", "usage") if recorded else ("metering_requestlog", "log")
        return reverse(f"admin:{page}_change", args=[address(prefix, organization.pk, claim.record_id)])

    @admin.display(description="recorded (UTC)")
    def recorded(self, row: UsageRecord | RequestLog) -> str:
        """When it was charged or logged."""
        return stamp(row.recorded_at)

    @admin.display(description="key")
    def key(self, row: UsageRecord | RequestLog) -> str:
        """The key that was used."""
        return refer("orgs_apikey", "key", row.api_key_id)

    @admin.display(description="member")
    def member(self, row: UsageRecord | RequestLog) -> str:
        """Whose request it was."""
        return refer("orgs_member", "mem", row.member_id)

    @admin.display(description="project")
    def project(self, row: UsageRecord | RequestLog) -> str:
        """Of the key."""
        return refer("orgs_project", "proj", row.project_id)

    @admin.display(description="reported by")
    def reporter(self, row: UsageRecord | RequestLog) -> str:
        """The gateway's key."""
        return refer("orgs_apikey", "key", row.reported_by)

    @admin.display(description="provider's own cost (USD)")
    def provider_cost(self, row: UsageRecord | RequestLog) -> str:
        """What the gateway says it paid."""
        return NOTHING if row.provider_cost_usd is None else money.plain(row.provider_cost_usd)

    @admin.display(description="stream")
    def streamed(self, row: UsageRecord | RequestLog) -> str:
        """Whether the answer was streamed."""
        return {None: NOTHING, True: "yes", False: "no"}[row.stream]

    @admin.display(description="metadata")
    def metadata_text(self, row: UsageRecord | RequestLog) -> str:
        """What the gateway attached."""
        return as_text(row.metadata)

    @admin.display(description="claim")
    def claim(self, row: UsageRecord | RequestLog) -> str:
        """What stands under the event id, against sending it twice."""
        found = usage.standing([(row.organization_id, row.event_id)]).get((row.organization_id, row.event_id))
        if found is None:
            return NOTHING
        same = "" if found.record_id == row.pk else " for another row"
        return f"{found.state}{same}, {money.plain(found.cost_usd)} USD, fingerprint {found.fingerprint.hex()}"


WHO = ("shown_id", "organization", "key", "member", "project", "end_user", "source", "event_id", "reporter")
ROUTE = ("model", "routed_model", "provider", "channel", "endpoint", "attempts", "request_id")
ANSWER = ("status", "outcome", "finish_reason", "streamed", "ttft_ms", "latency_ms", "occurred_at", "recorded_at")


@admin.register(UsageRecord)
class UsageRecordAdmin(UsageAdmin[UsageRecord]):
    """Usage records of an organization."""

    list_display = ("shown_id", "recorded", "model", "cost", "in_and_out", "status", "end_user", "event_id", "key")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": WHO}),
        ("Money", {"fields": ("cost", "price", "rule", "usage_source", "corrects", "claim")}),
        ("Tokens", {"fields": ("tokens",)}),
        ("Units and tier", {"fields": ("units_text", "service_tier", "batched")}),
        ("Route", {"fields": (*ROUTE, "provider_cost")}),
        ("Answer", {"fields": ANSWER}),
        ("Metadata", {"fields": ("metadata_text",)}),
    )

    @admin.display(description="cost (USD)")
    def cost(self, row: UsageRecord) -> str:
        """Exact."""
        return money.plain(row.cost_usd)

    @admin.display(description="tokens in / out")
    def in_and_out(self, row: UsageRecord) -> str:
        """Both totals."""
        return f"{row.input_tokens:,} / {row.output_tokens:,}"

    @admin.display(description="price version")
    def price(self, row: UsageRecord) -> SafeString:
        """The version that it was rated with."""
        return link("metering_price", row.price_id, ids.show("price", row.price_id))

    @admin.display(description="price rule")
    def rule(self, row: UsageRecord) -> str:
        """The markup, discount or contract that applied to the price."""
        return refer("metering_pricerule", "rule", row.rule_id)

    @admin.display(description="corrects")
    def corrects(self, row: UsageRecord) -> str:
        """The record that this one corrects."""
        if row.corrects_id is None:
            return NOTHING
        place = address("usage", row.organization_id, row.corrects_id)
        return link("metering_usagerecord", place, ids.show("usage", row.corrects_id))

    @admin.display(description="tokens")
    def tokens(self, row: UsageRecord) -> SafeString:
        """The reported counts; parts are part of the input or the output."""
        counts = [field.name for field in UsageRecord._meta.fields if field.name.endswith("_tokens")]
        wholes = ("input_tokens", "output_tokens")
        rows = [(name, f"{getattr(row, name):,}") for name in counts if name in wholes or getattr(row, name)]
        return table(
            ("count", "tokens"), [(name.removesuffix("_tokens").replace("_", " "), count) for name, count in rows]
        )

    @admin.display(description="batch")
    def batched(self, row: UsageRecord) -> str:
        """Whether it went through a vendor's batch interface."""
        return "yes" if row.batch else "no"

    @admin.display(description="units")
    def units_text(self, row: UsageRecord) -> str:
        """Uses that are charged each."""
        return as_text(row.units)


@admin.register(RequestLog)
class RequestLogAdmin(UsageAdmin[RequestLog]):
    """Failed requests of an organization, at no cost."""

    list_display = ("shown_id", "recorded", "model", "status", "outcome", "provider", "key", "end_user", "event_id")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": (*WHO, "claim")}),
        ("Route", {"fields": (*ROUTE, "provider_cost")}),
        ("Answer", {"fields": (*ANSWER, "input_tokens", "output_tokens")}),
        ("Metadata", {"fields": ("metadata_text",)}),
    )


@admin.register(ArchivedMonth)
class ArchivedMonthAdmin(BooksAdmin[ArchivedMonth]):
    """Months that are in files, and what they came to."""

    list_display = ("book", "when", "rows", "file", "detached_at", "dropped_at")
    list_filter = ("book",)
    ordering = ("-month", "book")
    sortable_by = ()
    fields = ("book", "when", "rows", "file", "sha256", "detached_at", "dropped_at", "sums")

    @admin.display(description="month")
    def when(self, row: ArchivedMonth) -> str:
        """The month, UTC."""
        return f"{row.month:%Y-%m}"

    @admin.display(description="by organization")
    def sums(self, row: ArchivedMonth) -> SafeString:
        """Rows and dollars of those that used most."""
        most = ArchivedSum.objects.filter(archived=row).select_related("organization").order_by("-cost_usd", "pk")
        shown = [(one.organization.slug, f"{one.rows:,}", money.plain(one.cost_usd)) for one in most[:SUMS_SHOWN]]
        return table(("organization", "rows", "USD"), shown)


def rate(pico: int | None) -> str | None:
    """USD per 1,000,000 tokens in plain digits."""
    return None if pico is None else money.plain(rating.per_million(pico))


def conditions(terms: rating.Terms) -> str:
    """When an entry of a rate card holds, in words."""
    said = []
    if terms.service_tier is not None:
        said.append(f"tier {terms.service_tier}")
    if terms.batch:
        said.append("batch")
    if terms.above_input_tokens:
        said.append(f"more than {terms.above_input_tokens:,} input tokens")
    if terms.windows:
        said.append(" or ".join(map(hours, terms.windows)))
    return ", ".join(said) or "ordinary"


def hours(window: rating.Window) -> str:
    """A stretch of the day in words."""
    days = sorted(window.days)
    if len(days) == len(_DAYS):
        names = "daily"
    elif len(days) > 2 and days[-1] - days[0] == len(days) - 1:
        names = f"{_DAYS[days[0]]}-{_DAYS[days[-1]]}"
    else:
        names = " ".join(_DAYS[day] for day in days)
    return f"{names} {window.start:%H:%M}-{window.end:%H:%M} {window.zone}"


def rate_card(card: rating.RateCard) -> SafeString:
    """A price as rating reads it: a row for each condition, a column for each pool that it prices."""
    entries = sorted(card.terms, key=lambda t: (t.above_input_tokens, len(t.windows), t.batch, t.service_tier or ""))
    used = [
        name for name in rating.Rates._fields if any(getattr(terms.rates, name) is not None for terms in card.terms)
    ]
    heads = ("USD per 1M tokens", *(name.replace("_", " ") for name in used))
    rows = [(conditions(terms), *(rate(getattr(terms.rates, name)) for name in used)) for terms in entries]
    fees = [(name.replace("_", " "), money.plain(money.from_pico(pico))) for name, pico in card.units.items()]
    if card.request:
        fees.append(("request", money.plain(money.from_pico(card.request))))
    return format_html("{}{}", table(heads, rows), table(("fee", "USD each"), fees) if fees else "")


def base_rates(card: rating.RateCard) -> str:
    """The ordinary input and output rates, for a list."""
    rates = next(filter(rating.is_base, card.terms)).rates
    return f"{rate(rates.input)} / {rate(rates.output) or '-'}"


def version_now(slug: str, listing: catalog.Listing | None = None) -> catalog.Version | None:
    """The version that events of now are rated with."""
    return (listing or catalog.listing()).price_at(slug, clock.now())


class PricedList(QuickList):
    """A list that asks once which prices are in force."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page, and the catalog."""
        super().get_results(request)
        listing = catalog.listing()
        self.result_list = list(self.result_list)
        for row in self.result_list:
            model = row.model if isinstance(row, Price) else row
            row.now = version_now(model.slug, listing)


@admin.register(Price)
class PriceAdmin(BooksAdmin[Price]):
    """Published prices. New ones come with ``manage.py load_prices``."""

    list_display = ("shown_id", "model", "effective_from", "effective_to", "in_force", "rates_shown", "source")
    list_select_related = ("model",)
    ordering: ClassVar[Any] = ("model__slug", "-effective_from", "-revision")
    sortable_by = ()
    search_fields = ("model__slug",)
    search_help_text = "A price_ id, or part of a model's id."
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "model", "effective_from", "effective_to", "in_force")}),
        ("Published", {"fields": ("source", "created_at", "revision", "active_from")}),
        ("Rate card", {"fields": ("card",)}),
        ("As published", {"fields": ("document",)}),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """With the prices in force."""
        return PricedList

    @admin.display(description="in force")
    def in_force(self, row: Price) -> str:
        """Whether events of now are rated with it."""
        version = row.now if hasattr(row, "now") else version_now(row.model.slug)
        return "yes" if version is not None and version.id == row.pk else NOTHING

    @admin.display(description="input / output (USD per 1M)")
    def rates_shown(self, row: Price) -> str:
        """The ordinary rates."""
        return base_rates(rating.read_card(row.rates))

    @admin.display(description="rate card")
    def card(self, row: Price) -> SafeString:
        """All rates."""
        return rate_card(rating.read_card(row.rates))

    @admin.display(description="as published")
    def document(self, row: Price) -> str:
        """The stored document."""
        return as_text(row.rates)


SUBJECTS[pricebook.APPROVAL] = ("metering_pricedraft", "draft")
RIGHTS[pricebook.APPROVAL] = "metering.change_pricedraft"


def change_table(changes: Sequence[pricebook.Change]) -> SafeString:
    """What a draft changes against what is in force; what takes a second person stands first and says so."""
    if not changes:
        return paragraphs("Nothing: these prices are those in force.")
    limit = settings.PRICE_APPROVAL_PERCENT
    beyond = set(pricebook.beyond_limit(changes))
    ordered = sorted(changes, key=lambda one: one not in beyond)
    shown = ordered[:CHANGES_SHOWN]
    rows = [
        (
            one.model,
            one.where.replace("_", " "),
            None if one.before is None else money.plain(one.before),
            None if one.after is None else money.plain(one.after),
            None if one.difference is None else signed(one.difference),
            None if one.percent is None else f"{signed(one.percent)} %",
            judgement(one, beyond=one in beyond),
        )
        for one in shown
    ]
    models = len({one.model for one in changes})
    told = f"{len(changes):,} rate{'s' * (len(changes) != 1)} of {models:,} model{'s' * (models != 1)} change."
    if beyond:
        told += f" {len(beyond):,} of them by more than {limit} %, or from or to nothing: a second person has to agree."
    else:
        told += f" None by more than {limit} %: one person may publish them."
    heads = ("model", "rate", "in force (USD)", "draft (USD)", "difference (USD)", "change", "what that means")
    more = "" if len(ordered) <= CHANGES_SHOWN else paragraphs(f"The first {CHANGES_SHOWN}; there are more.")
    marked = [place for place, one in enumerate(shown) if one in beyond]
    rates = paragraphs(told, "Rates are per 1M tokens, fees each.")
    return format_html("{}{}{}", rates, table(heads, rows, marked=marked), more)


def judgement(change: pricebook.Change, *, beyond: bool) -> str:
    """A change in words."""
    if change.before is None:
        said = "new"
    elif change.after is None:
        said = "no price any more"
    elif not change.before:
        said = "was free"
    elif not change.after:
        said = "becomes free"
    else:
        said = "dearer" if change.after > change.before else "cheaper"
    return f"{said}, beyond the limit" if beyond else said


def touched_table(rows: Sequence[pricebook.Touched]) -> SafeString:
    """What organizations paid last month and would have paid, those with the greatest difference first."""
    if not rows:
        return paragraphs("Nobody used these models last month.")
    place = reverse("admin:metering_usagerecord_changelist")
    lines = [
        (
            link_to(f"{place}?{urlencode({ORGANIZATION: one.organization})}", one.organization),
            f"{one.records:,}",
            money.plain(one.before_usd),
            money.plain(one.after_usd),
            signed(one.after_usd - one.before_usd),
            percent(one.after_usd - one.before_usd, one.before_usd, sign=True),
        )
        for one in rows[:TOUCHED_SHOWN]
    ]
    before = sum((one.before_usd for one in rows), money.ZERO)
    after = sum((one.after_usd for one in rows), money.ZERO)
    records = sum(one.records for one in rows)
    foot = (
        f"all {len(rows):,}", f"{records:,}", money.plain(before), money.plain(after),
        signed(after - before), percent(after - before, before, sign=True),
    )  # fmt: skip
    heads = ("organization", "records", "paid (USD)", "under the draft (USD)", "difference (USD)", "change")
    more = "" if len(rows) <= TOUCHED_SHOWN else paragraphs(f"The first {TOUCHED_SHOWN}; the last line counts all.")
    return format_html("{}{}", table(heads, lines, foot=foot), more)


class When(forms.DateTimeField):
    """An instant in UTC, to the minute."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local", "step": 60}, format="%Y-%m-%dT%H:%M")

    def validate(self, value: Any) -> None:
        """Nothing that an id cannot carry."""
        super().validate(value)
        if value is not None and value < clock.from_unix(0):
            raise forms.ValidationError("That is before anything was recorded.")


class ScheduleForm(forms.Form):
    """When a draft is to be published."""

    at = When(label="publish at (UTC)", help_text="Its prices still start at the times that stand in its lines.")


def is_open(row: PriceDraft) -> bool:
    """Whether a draft can still be published or given up."""
    return row.state in {PriceDraft.State.OPEN, PriceDraft.State.SCHEDULED}


def _publish(request: HttpRequest, row: PriceDraft, _: dict[str, Any]) -> Done:
    try:
        prices = pricebook.publish(row, by=actor(request))
    except (approvals.ApprovalNeeded, approvals.Refused):
        return Done(second_person(pricebook.APPROVAL, row.pk), level=messages.WARNING)
    return Done(f"Published: {len(prices):,} price{'s' * (len(prices) != 1)}.")


def _schedule(request: HttpRequest, row: PriceDraft, told: dict[str, Any]) -> Done:
    pricebook.schedule(row, at=told["at"], by=actor(request))
    scheduled = f"It will be published at {stamp(told['at'])} UTC."
    if any(asked.decided_at is None for asked in questions(kind=pricebook.APPROVAL, subject_id=row.pk)):
        told_why = second_person(pricebook.APPROVAL, row.pk)
        return Done(format_html("{} But: {}", scheduled, told_why), level=messages.WARNING)
    return Done(scheduled)


def _discard(request: HttpRequest, row: PriceDraft, _: dict[str, Any]) -> Done:
    pricebook.discard(row, by=actor(request))
    return Done("Discarded.")


def _changes(row: PriceDraft) -> list[Section]:
    return [Section("What it changes", change_table(pricebook.diff(row)))]


class DraftList(QuickList):
    """Drafts with how many prices each has: one query more for the page."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page and count the lines of its drafts."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        lines = PriceDraftLine.objects.filter(draft__in=[row.pk for row in self.result_list]).order_by()
        counts = dict(lines.values_list("draft_id").annotate(Count("pk")))
        for row in self.result_list:
            row.line_count = counts.get(row.pk, 0)


@admin.register(PriceDraft)
class PriceDraftAdmin(ActsAdmin[PriceDraft]):
    """Prices that somebody means to publish: what they would change, for whom, and the buttons for it."""

    list_display = (
        *("shown_id", "state", "source", "prices", "created_by", "created_at"),
        *("publish_at", "settled_by"),
    )
    list_filter = ("state",)
    sortable_by = ()
    search_fields = ("source",)
    search_help_text = "A draft_ id, or part of the source."
    acts = (
        Act(
            "publish",
            "Publish",
            "All of its prices are published, for ever: a price can later be corrected, but never taken away.",
            _publish,
            facts=_changes,
            possible=is_open,
        ),
        Act(
            "schedule",
            "Schedule",
            "It is published by itself at that time, if by then it needs no second person or one has agreed.",
            _schedule,
            form=ScheduleForm,
            facts=_changes,
            possible=is_open,
        ),
        Act(
            "discard",
            "Discard",
            "It will never be published. Nothing that is in force changes.",
            _discard,
            possible=is_open,
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: PriceDraft | None = None) -> Any:
        """What it would change and whom it touches, as long as it can be published."""
        shown = [
            (None, {"fields": ("shown_id", "state", "source", "prices", "created_by", "created_at")}),
            ("Publication", {"fields": ("publish_at", "settled_by", "settled_at", "approval")}),
            ("Report", {"fields": ("report_text",)}),
        ]
        if obj is not None and is_open(obj):
            touched = "touched" if TOUCHED in request.GET else "touched_link"
            shown += [
                ("What it changes", {"fields": ("changes",)}),
                ("Whom it touches: last month under these prices", {"fields": (touched,)}),
            ]
        return [*shown, ("Prices", {"fields": ("lines",)})]

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """With the number of prices."""
        return DraftList

    @admin.display(description="prices")
    def prices(self, row: PriceDraft) -> str:
        """How many."""
        known: int | None = getattr(row, "line_count", None)
        return f"{PriceDraftLine.objects.filter(draft=row).count() if known is None else known:,}"

    @admin.display(description="second person")
    def approval(self, row: PriceDraft) -> str:
        """What was asked and decided about it."""
        asked = questions(kind=pricebook.APPROVAL, subject_id=row.pk)
        return question_table(asked) if asked else "Nobody was asked."

    @admin.display(description="report")
    def report_text(self, row: PriceDraft) -> str:
        """What the importer did not take, and why it was not published."""
        if len(row.report) <= REPORT_SHOWN:
            return verbatim(row.report) if row.report else NOTHING
        return format_html("{}{}", verbatim(row.report[:REPORT_SHOWN]), paragraphs("It goes on."))

    @admin.display(description="changes")
    def changes(self, row: PriceDraft) -> str:
        """Against what is in force where its prices begin."""
        return change_table(pricebook.diff(row))

    @admin.display(description="last month")
    def touched_link(self, row: PriceDraft) -> str:
        """It reads a month of records, so only who asks for it gets it."""
        place = f"{self.place_of(row)}?{TOUCHED}=1"
        return format_html("{} (reads last month's records of its models)", link_to(place, "Work it out"))

    @admin.display(description="last month")
    def touched(self, row: PriceDraft) -> str:
        """What it would have cost whom."""
        try:
            with transaction.atomic():
                return touched_table(pricebook.touched(row, records_max=TOUCHED_RECORDS_MAX))
        except (ApiError, DatabaseError) as error:
            return paragraphs(f"It could not be worked out here: {from_exception(error)}")

    @admin.display(description="lines")
    def lines(self, row: PriceDraft) -> str:
        """Its first prices, by model."""
        lines = (
            PriceDraftLine.objects.filter(draft=row).select_related("model").order_by("model__slug", "effective_from")
        )
        found = list(lines[: VERSIONS_SHOWN + 1])
        rows = [
            (
                link("metering_catalogmodel", line.model_id, line.model),
                stamp(line.effective_from),
                None if line.effective_to is None else stamp(line.effective_to),
                base_rates(rating.read_card(line.rates)),
                refer("metering_price", "price", line.corrects_id),
                line.source,
            )
            for line in found[:VERSIONS_SHOWN]
        ]
        heads = ("model", "from (UTC)", "to (UTC)", "input / output (USD per 1M)", "corrects", "source")
        more = "" if len(found) <= VERSIONS_SHOWN else paragraphs(f"The first {VERSIONS_SHOWN}; there are more.")
        return format_html("{}{}", table(heads, rows), more) if rows else NOTHING


@admin.register(CatalogModel)
class CatalogModelAdmin(BooksAdmin[CatalogModel]):
    """Models, with the price in force and those before and after."""

    list_display = ("slug", "name", "vendor", "kind", "price_now", "context", "retired_at")
    list_filter = ("kind", "vendor", ("retired_at", presence("state", absent="Offered", present="Retired")))
    sortable_by = ("slug", "name", "vendor")
    ordering = ("slug",)
    search_fields = ("slug", "name", "aliases")
    search_help_text = "Part of an id, a name or an alias."
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "slug", "name", "vendor", "brand", "provider", "owned_by", "kind", "aliases")}),
        ("Rate card in force", {"fields": ("card_now",)}),
        ("Price history", {"fields": ("history",)}),
        (
            "What it can do",
            {"fields": ("categories", "capabilities", "context", "output_max", "max_stop_sequences")},
        ),
        ("More", {"fields": ("encoding", "released_at", "retired_at")}),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """With the prices in force."""
        return PricedList

    @admin.display(description="input / output (USD per 1M)")
    def price_now(self, row: CatalogModel) -> str | None:
        """The ordinary rates in force."""
        version = row.now if hasattr(row, "now") else version_now(row.slug)
        return None if version is None else base_rates(version.card)

    @admin.display(description="context window (tokens)", ordering="context_window")
    def context(self, row: CatalogModel) -> str:
        """Input and output together."""
        return NOTHING if row.context_window is None else f"{row.context_window:,}"

    @admin.display(description="longest output (tokens)")
    def output_max(self, row: CatalogModel) -> str:
        """Of one answer."""
        return NOTHING if row.max_output_tokens is None else f"{row.max_output_tokens:,}"

    @admin.display(description="rate card in force")
    def card_now(self, row: CatalogModel) -> str:
        """All rates in force."""
        now = version_now(row.slug)
        return "No price is in force." if now is None else rate_card(now.card)

    @admin.display(description="price history")
    def history(self, row: CatalogModel) -> str:
        """Every version, the latest first; each ends where the next begins, if not before."""
        prices = list(Price.objects.filter(model=row).order_by("-effective_from", "-revision")[:VERSIONS_SHOWN])
        now = version_now(row.slug)
        rows = [
            (
                refer("metering_price", "price", price.pk),
                stamp(price.effective_from),
                None if end is None else stamp(end),
                "in force" if now is not None and price.pk == now.id else None,
                base_rates(rating.read_card(price.rates)),
                price.source,
            )
            for price, end in zip(prices, _ends(prices), strict=True)
        ]
        heads = ("version", "from (UTC)", "to (UTC)", "", "input / output (USD per 1M)", "source")
        return table(heads, rows) if rows else "It has never had a price."


def _ends(prices: Sequence[Price]) -> list[datetime | None]:
    """When each of a model's versions ceases to hold, the latest first; a correction ends with what it corrects."""
    ends: list[datetime | None] = []
    later: datetime | None = None
    for place, price in enumerate(prices):
        if place and prices[place - 1].effective_from > price.effective_from:
            later = prices[place - 1].effective_from
        ends.append(min((end for end in (price.effective_to, later) if end is not None), default=None))
    return ends


@admin.register(Quarantine)
class QuarantineAdmin(BooksAdmin[Quarantine]):
    """Events that could not be charged."""

    list_display = ("shown_id", "reason", "age", "model", "organization_link", "event_id", "resolved_at")
    list_filter = ("reason", ("resolved_at", presence("state", absent="Open", present="Resolved")))
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A quar_ id, an organization's slug, “slug event-id”, or a model's id."
    fields = (
        *("shown_id", "reason", "detail", "organization", "reported_for", "model", "event_id", "age"),
        *("occurred_at", "recorded_at", "resolved_at", "reporter", "print_text", "event_text"),
    )

    def summary(self, request: HttpRequest) -> str:
        """The models that open events wait for, the longest wait first."""
        waits = sorted(quarantine.waits(), key=lambda wait: (wait.oldest, -wait.events))
        if not waits:
            return paragraphs("No event waits.")
        place, now = reverse("admin:metering_quarantine_changelist"), clock.now()
        rows = [
            (
                link_to(f"{place}?{urlencode({'model': wait.model, 'resolved_at__isempty': '1'})}", wait.model),
                f"{wait.events:,}{' or more' * wait.more}",
                timesince(wait.oldest, now),
            )
            for wait in waits
        ]
        more = (
            paragraphs(f"The first {len(waits)} models; there may be more.")
            if len(waits) >= quarantine.WAITS_MAX
            else ""
        )
        backlog = quarantine.backlog(most=quarantine.COUNTED_MAX)
        first = f"Of the first {backlog.rows:,}, " if backlog.rows == quarantine.COUNTED_MAX else ""
        said = [f"{first}{backlog.told(now)}."]
        limit = settings.QUARANTINE_ALERT_DAYS
        if min(wait.oldest for wait in waits) < now - timedelta(days=limit):
            said.append(f"Usage has waited for more than {limit} days: give it a price or an owner, or withdraw it.")
        return format_html("{}{}{}", paragraphs(*said), table(("open, by model", "events", "the oldest"), rows), more)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Quarantine], search_term: str
    ) -> tuple[QuerySet[Quarantine], bool]:
        """By id, organization, organization and event, or model: each through an index."""
        text = search_term.strip()
        try:
            return queryset.filter(pk=ids.read("quar", text)), False
        except ValueError:
            pass
        if not text or (named := find_organization(text)):
            return (queryset.filter(organization_id=named.pk) if text and named else queryset), False
        head, _, rest = re.sub(r"[\s:]", " ", text, count=1).partition(" ")
        if rest.strip() and (named := find_organization(head)):
            return queryset.filter(organization_id=named.pk, event_id=rest.strip()), False
        return queryset.filter(model=text), False

    @admin.display(description="organization")
    def organization_link(self, row: Quarantine) -> SafeString | None:
        """Whose event, if that is known."""
        return None if row.organization is None else link("orgs_organization", row.organization_id, row.organization)

    @admin.display(description="age")
    def age(self, row: Quarantine) -> str:
        """Since it was received."""
        return timesince(row.recorded_at, clock.now())

    @admin.display(description="reported for")
    def reported_for(self, row: Quarantine) -> str:
        """What the event named, as it was told apart by: an organization of ours by its id."""
        try:
            return ids.show("org", UUID(row.scope))
        except ValueError:
            return row.scope

    @admin.display(description="reported by")
    def reporter(self, row: Quarantine) -> str:
        """The gateway's key."""
        return refer("orgs_apikey", "key", row.reported_by)

    @admin.display(description="fingerprint")
    def print_text(self, row: Quarantine) -> str:
        """Of its billing fields."""
        return bytes(row.fingerprint).hex()

    @admin.display(description="event")
    def event_text(self, row: Quarantine) -> str:
        """What was received."""
        return as_text(row.event)


# It reads this module, so it comes last.
from metering import rule_admin  # noqa: E402, F401
