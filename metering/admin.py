"""The desk's pages of how much: the catalog and its prices, usage, failed requests, quarantine. All of it is read only.

Rows whose database key is ``(organization_id, id)`` have pages at ``organization:id`` and lists of
one organization at a time, newest first, so every page is one range of that key.
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from core import clock, ids, money
from core.admin import BooksAdmin
from core.fields import IdField
from metering import catalog, partitions, rating, usage
from metering.models import CatalogModel, Price, Quarantine, RequestLog, UsageClaim, UsageRecord
from orgs.models import Organization

M = TypeVar("M", bound=Model)

ORGANIZATION: Final = "organization"
ORGANIZATIONS_SHOWN = 20
MONTHS_SHOWN = 12
VERSIONS_SHOWN = 100

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})", re.ASCII)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def link(page: str, address: object, text: object) -> SafeString:
    """A link to a row's page; ``page`` is app and model as in ``orgs_apikey``."""
    return format_html('<a href="{}">{}</a>', reverse(f"admin:{page}_change", args=[address]), text)


def refer(page: str, prefix: str, key: UUID | None) -> SafeString | None:
    """A link that shows the id of the row it leads to."""
    return None if key is None else link(page, key, ids.show(prefix, key))


def address(prefix: str, organization_id: UUID, key: UUID) -> str:
    """Where the page of a row with the key (organization, id) is: ``org_…:usage_…``."""
    return f"{ids.show('org', organization_id)}:{ids.show(prefix, key)}"


def list_of(page: str, organization: Organization) -> str:
    """The address of the list of an organization's rows."""
    return f"{reverse(f'admin:{page}_changelist')}?{ORGANIZATION}={organization.slug}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> SafeString:
    """A table; every cell is escaped unless it was made by ``format_html``."""
    cells = ((format_html_join("", "<td>{}</td>", (("-" if cell is None else cell,) for cell in row)),) for row in rows)
    return format_html(
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
        format_html_join("", '<th scope="col">{}</th>', ((head,) for head in heads)),
        format_html_join("", "<tr>{}</tr>", cells),
    )


def as_text(document: object) -> SafeString | None:
    """A JSON document to be read."""
    return (
        None if document is None else format_html("<pre>{}</pre>", json.dumps(document, indent=2, ensure_ascii=False))
    )


def stamp(at: datetime) -> str:
    """An instant to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


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
        """The chosen one and the newest."""
        slugs = list(Organization.objects.order_by("-pk").values_list("slug", flat=True)[:ORGANIZATIONS_SHOWN])
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
        rows = rows.filter(organization_id=self.organization.pk)
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
        self.full_result_count = None
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
    list_filter = (OrganizationFilter, MonthFilter)
    sortable_by = ()
    # The box is shown only with a field named here; what it finds is up to ``find``.
    search_fields = ("pk",)

    @property
    def prefix(self) -> str:
        """Of the rows' ids."""
        key = self.opts.pk
        assert isinstance(key, IdField)
        return key.prefix

    @property
    def page(self) -> str:
        """App and model, as addresses name them."""
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def url_of(self, organization_id: UUID, key: UUID) -> str:
        """Where a row's page is."""
        return reverse(f"admin:{self.page}_change", args=[address(self.prefix, organization_id, key)])

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Nothing but the filters: another condition would read everything."""
        return lookup in {OrganizationFilter.parameter_name, MonthFilter.parameter_name}

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """The list by key."""
        return KeyedList

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
            self.message_user(request, f"Nothing found for “{text}”. {self.search_help_text}", messages.WARNING)
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
        named = find_organization(head)
        return self.find_in(named, rest.strip()) if named and rest.strip() else None

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

    search_help_text = (
        "A slug lists an organization's rows. For an event: the slug and the event id, such as "
        "“acme-labs evt_1”; with an organization chosen the event id alone."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[M]:
        """Without the gateway's metadata, which only a row's own page shows."""
        return super().get_queryset(request).defer("metadata")

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

    @admin.display(description="recorded")
    def recorded(self, row: UsageRecord | RequestLog) -> str:
        """When it was charged or logged."""
        return stamp(row.recorded_at)

    @admin.display(description="key")
    def key(self, row: UsageRecord | RequestLog) -> SafeString | None:
        """The key that was used."""
        return refer("orgs_apikey", "key", row.api_key_id)

    @admin.display(description="member")
    def member(self, row: UsageRecord | RequestLog) -> SafeString | None:
        """Whose request it was."""
        return refer("orgs_member", "mem", row.member_id)

    @admin.display(description="project")
    def project(self, row: UsageRecord | RequestLog) -> SafeString | None:
        """Of the key."""
        return refer("orgs_project", "proj", row.project_id)

    @admin.display(description="reported by")
    def reporter(self, row: UsageRecord | RequestLog) -> SafeString | None:
        """The gateway's key."""
        return refer("orgs_apikey", "key", row.reported_by)

    @admin.display(description="provider's own cost (USD)")
    def provider_cost(self, row: UsageRecord | RequestLog) -> str | None:
        """What the gateway says it paid."""
        return None if row.provider_cost_usd is None else money.plain(row.provider_cost_usd)

    @admin.display(description="metadata")
    def metadata_text(self, row: UsageRecord | RequestLog) -> SafeString | None:
        """What the gateway attached."""
        return as_text(row.metadata)

    @admin.display(description="claim")
    def claim(self, row: UsageRecord | RequestLog) -> str | None:
        """What stands under the event id, against sending it twice."""
        found = usage.standing([(row.organization_id, row.event_id)]).get((row.organization_id, row.event_id))
        if found is None:
            return None
        same = "" if found.record_id == row.pk else " for another row"
        return f"{found.state}{same}, {money.plain(found.cost_usd)} USD, fingerprint {found.fingerprint.hex()}"


WHO = ("shown_id", "organization", "key", "member", "project", "end_user", "source", "event_id", "reporter")
ROUTE = ("model", "routed_model", "provider", "channel", "endpoint", "attempts", "request_id")
ANSWER = ("status", "outcome", "finish_reason", "stream", "ttft_ms", "latency_ms", "occurred_at", "recorded_at")


@admin.register(UsageRecord)
class UsageRecordAdmin(UsageAdmin[UsageRecord]):
    """Usage records of an organization."""

    list_display = (
        *("shown_id", "recorded", "model", "input_tokens", "output_tokens", "cost"),
        *("key", "end_user", "status", "event_id"),
    )
    fieldsets: ClassVar[Any] = (
        (None, {"fields": WHO}),
        ("Money", {"fields": ("cost", "price", "rule_id", "usage_source", "corrects", "claim")}),
        ("Tokens", {"fields": ("tokens", "units_text", "service_tier", "batch")}),
        ("Route", {"fields": (*ROUTE, "provider_cost")}),
        ("Answer", {"fields": ANSWER}),
        ("Metadata", {"fields": ("metadata_text",)}),
    )

    @admin.display(description="cost (USD)")
    def cost(self, row: UsageRecord) -> str:
        """Exact."""
        return money.plain(row.cost_usd)

    @admin.display(description="price version")
    def price(self, row: UsageRecord) -> SafeString:
        """The version that it was rated with."""
        return link("metering_price", row.price_id, ids.show("price", row.price_id))

    @admin.display(description="corrects")
    def corrects(self, row: UsageRecord) -> SafeString | None:
        """The record that this one corrects."""
        if row.corrects_id is None:
            return None
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

    @admin.display(description="units")
    def units_text(self, row: UsageRecord) -> SafeString | None:
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
    return ", ".join(said) or "otherwise"


def hours(window: rating.Window) -> str:
    """A stretch of the day in words."""
    days = "daily" if len(window.days) == len(_DAYS) else " ".join(_DAYS[day] for day in sorted(window.days))
    return f"{days} {window.start:%H:%M}-{window.end:%H:%M} {window.zone}"


def rate_card(document: dict[str, Any]) -> SafeString:
    """A price as rating reads it: a row for each condition, a column for each pool that it prices."""
    card = rating.read_card(document)
    used = [
        name for name in rating.Rates._fields if any(getattr(terms.rates, name) is not None for terms in card.terms)
    ]
    heads = ("USD per 1M tokens", *(name.replace("_", " ") for name in used))
    rows = [(conditions(terms), *(rate(getattr(terms.rates, name)) for name in used)) for terms in reversed(card.terms)]
    fees = [(name.replace("_", " "), money.plain(money.from_pico(pico))) for name, pico in card.units.items()]
    if card.request:
        fees.append(("request", money.plain(money.from_pico(card.request))))
    return format_html("{}{}", table(heads, rows), table(("fee", "USD each"), fees) if fees else "")


def base_rates(card: rating.RateCard) -> str:
    """The ordinary input and output rates, for a list."""
    rates = next(filter(rating.is_base, card.terms)).rates
    return f"{rate(rates.input)} / {rate(rates.output) or '-'}"


@admin.register(Price)
class PriceAdmin(BooksAdmin[Price]):
    """Published prices. New ones come with ``manage.py load_prices``."""

    list_display = ("shown_id", "model", "effective_from", "effective_to", "rates_shown", "source")
    list_select_related = ("model",)
    ordering: ClassVar[Any] = ("model__slug", "-effective_from")
    sortable_by = ()
    search_fields = ("model__slug",)
    search_help_text = "A price_ id, or part of a model's id."
    fields = ("shown_id", "model", "effective_from", "effective_to", "source", "card", "document", "created_at")

    @admin.display(description="input / output (USD per 1M)")
    def rates_shown(self, row: Price) -> str:
        """The ordinary rates."""
        return base_rates(rating.read_card(row.rates))

    @admin.display(description="rate card")
    def card(self, row: Price) -> SafeString:
        """All rates."""
        return rate_card(row.rates)

    @admin.display(description="as published")
    def document(self, row: Price) -> SafeString | None:
        """The stored document."""
        return as_text(row.rates)


@admin.register(CatalogModel)
class CatalogModelAdmin(BooksAdmin[CatalogModel]):
    """Models, with the price in force and those before and after."""

    list_display = ("slug", "name", "vendor", "provider", "kind", "price_now", "context_window", "retired_at")
    list_filter = ("kind", "vendor", ("retired_at", admin.EmptyFieldListFilter))
    ordering = ("slug",)
    search_fields = ("slug", "name", "aliases")
    search_help_text = "Part of an id, a name or an alias."
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "slug", "name", "vendor", "brand", "provider", "owned_by", "kind", "aliases")}),
        ("Prices", {"fields": ("card_now", "history")}),
        (
            "What it can do",
            {"fields": ("categories", "capabilities", "context_window", "max_output_tokens", "max_stop_sequences")},
        ),
        ("More", {"fields": ("encoding", "released_at", "retired_at")}),
    )

    @admin.display(description="input / output (USD per 1M)")
    def price_now(self, row: CatalogModel) -> str | None:
        """The ordinary rates in force."""
        version = catalog.listing().price_at(row.slug, clock.now())
        return None if version is None else base_rates(version.card)

    @admin.display(description="rate card in force")
    def card_now(self, row: CatalogModel) -> SafeString | None:
        """All rates in force."""
        prices = self._prices(row)
        now = _in_force(prices)
        return None if now is None else rate_card(now.rates)

    @admin.display(description="price history")
    def history(self, row: CatalogModel) -> SafeString | None:
        """Every version, the latest first."""
        prices = self._prices(row)
        now = _in_force(prices)
        rows = [
            (
                refer("metering_price", "price", price.pk),
                stamp(price.effective_from),
                None if price.effective_to is None else stamp(price.effective_to),
                "in force" if price is now else None,
                base_rates(rating.read_card(price.rates)),
                price.source,
            )
            for price in reversed(prices)
        ]
        return table(("version", "from", "to", "", "input / output (USD per 1M)", "source"), rows) if rows else None

    def _prices(self, row: CatalogModel) -> list[Price]:
        """A model's latest versions, rising by start."""
        return list(Price.objects.filter(model=row).order_by("-effective_from")[:VERSIONS_SHOWN])[::-1]


def _in_force(prices: Sequence[Price]) -> Price | None:
    """The one of a model's versions that holds now."""
    versions = [catalog.Version(p.pk, p.effective_from, p.effective_to, rating.read_card(p.rates)) for p in prices]
    now = catalog.in_force(versions, clock.now())
    return None if now is None else next(price for price in prices if price.pk == now.id)


@admin.register(Quarantine)
class QuarantineAdmin(BooksAdmin[Quarantine]):
    """Events that could not be charged."""

    list_display = ("shown_id", "reason", "model", "organization_link", "age", "event_id", "resolved_at")
    list_filter = ("reason", ("resolved_at", admin.EmptyFieldListFilter))
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A quar_ id, an organization's slug, “slug event-id”, or a model's id."
    fields = (
        *("shown_id", "reason", "detail", "organization", "scope", "model", "event_id", "age"),
        *("occurred_at", "recorded_at", "resolved_at", "reporter", "print_text", "event_text"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Quarantine]:
        """The event itself is shown on its own page."""
        return super().get_queryset(request).defer("event")

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

    @admin.display(description="reported by")
    def reporter(self, row: Quarantine) -> SafeString | None:
        """The gateway's key."""
        return refer("orgs_apikey", "key", row.reported_by)

    @admin.display(description="fingerprint")
    def print_text(self, row: Quarantine) -> str:
        """Of its billing fields."""
        return bytes(row.fingerprint).hex()

    @admin.display(description="event")
    def event_text(self, row: Quarantine) -> SafeString | None:
        """What was received."""
        return as_text(row.event)
