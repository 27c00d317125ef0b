"""Models: what an organization pays for each, what it will pay soon, and what a month of requests would cost it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from billing import quotes
from billing.quotes import Quote
from billing.serializers import show_window
from core import clock, errors, money
from metering import catalog, pricing, rating
from metering.models import CatalogModel
from metering.pricing import Book, Offer
from metering.rules import Scope
from orgs.models import Organization
from portal import desk
from portal.accounts import fault
from portal.desk import Desk

MODELS: Final = 50
REQUESTS_MAX: Final = 1_000_000_000


class Prices(NamedTuple):
    """Ordinary rates in USD per 1M tokens; none where a model has no such use."""

    input: Decimal | None
    cached_input: Decimal | None
    output: Decimal | None


class Change(NamedTuple):
    """Other prices from an instant on; ``prices`` is none where there is no price any more."""

    at: datetime
    prices: Prices | None


class Row(NamedTuple):
    """A model as an organization sees it. ``listed`` is what others pay, where that is something else."""

    model: CatalogModel
    prices: Prices | None
    listed: Prices | None
    change: Change | None


@dataclass(frozen=True, slots=True)
class Whose:
    """Who pays, and the books of this moment."""

    organization_id: UUID
    group: str
    book: Book

    @classmethod
    def of(cls, organization: Organization) -> "Whose":
        """An organization and its price group."""
        return cls(organization.pk, organization.price_group, pricing.book())

    def offer(self, model: CatalogModel, at: datetime) -> Offer | None:
        """What they pay for a model at an instant."""
        return self.book.offer(model, organization_id=self.organization_id, group=self.group, at=at)


class Search(forms.Form):
    """Which models a list shows."""

    q = forms.CharField(
        label="Search", max_length=100, required=False,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Id, name or maker", "autocomplete": "off"}),
    )  # fmt: skip
    provider = forms.ChoiceField(label="Provider", required=False)
    can = forms.ChoiceField(label="Capability", required=False)

    def __init__(self, *, models: Sequence[CatalogModel], data: object = None) -> None:
        super().__init__(data)  # type: ignore[arg-type]
        providers = sorted({model.provider for model in models}, key=str.casefold)
        abilities = sorted({word for model in models for word in model.capabilities})
        for name, words in (("provider", providers), ("can", abilities)):
            field = self.fields[name]
            assert isinstance(field, forms.ChoiceField)
            field.choices = [("", "Any"), *((word, word.replace("_", " ")) for word in words)]

    def keeps(self, model: CatalogModel) -> bool:
        """Whether a model is one of those that are looked for."""
        told = self.cleaned_data
        text = told.get("q", "").casefold()
        return (
            (not told.get("provider") or model.provider == told["provider"])
            and (not told.get("can") or told["can"] in model.capabilities)
            and any(text in word.casefold() for word in (model.slug, model.name, model.vendor, *model.aliases))
        )


def _count(label: str, **more: object) -> forms.IntegerField:
    widget = forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off"})
    return forms.IntegerField(label=label, min_value=0, max_value=rating.COUNT_MAX, widget=widget, **more)  # type: ignore[arg-type]


class Calculation(forms.Form):
    """A request, and how many of them."""

    model = forms.CharField(max_length=200, widget=forms.TextInput(attrs={"list": "models", "autocomplete": "off"}))
    input_tokens = _count("Input tokens")
    cached_input_tokens = _count("of them cached", required=False)
    output_tokens = _count("Output tokens")
    requests = forms.IntegerField(
        label="Requests a month", min_value=1, max_value=REQUESTS_MAX,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off"}),
    )  # fmt: skip
    batch = forms.BooleanField(label="as batch", required=False)


class Cost(NamedTuple):
    """What one request costs, and a month of them."""

    quote: Quote
    requests: int
    month_usd: Decimal


@require_safe
@desk.page()
def show(request: HttpRequest, here: Desk) -> HttpResponse:
    """``/portal/{slug}/models``: the models on offer to this organization, at its prices."""
    whose = Whose.of(here.organization)
    offered, now = catalog.offered(group=whose.group), clock.now()
    form = Search(models=offered, data=request.GET)
    found = [model for model in offered if form.keeps(model)] if form.is_valid() else []
    after = request.GET.get("after", "")
    # By name as people sort, where capitals are no other letters.
    found.sort(key=lambda model: (model.slug.casefold(), model.slug))
    rest = [model for model in found if (model.slug.casefold(), model.slug) > (after.casefold(), after)]
    chosen = {name: value for name, value in form.cleaned_data.items() if value}
    context = {
        "form": form, "count": len(found), "rows": [_row(model, whose, now) for model in rest[:MODELS]],
        "older": rest[MODELS - 1].slug if len(rest) > MODELS else "", "after": after,
        "query": f"{urlencode(chosen)}&" if chosen else "", "changes": _changes(found, whose, now),
    }  # fmt: skip
    return desk.render(request, "models", context)


@require_safe
@desk.page()
def one(request: HttpRequest, here: Desk, model: str) -> HttpResponse:
    """``…/models/{id}``: all of its rates."""
    whose, now = Whose.of(here.organization), clock.now()
    found = whose.book.listing.find(model)
    if found is None or not catalog.is_offered(found, group=whose.group):
        raise errors.NotFound
    offer = whose.offer(found, now)
    context = {
        "model": found, "row": _row(found, whose, now),
        "conditions": [] if offer is None else [_when(terms) for terms in _ordered(offer.card)],
        "rates": [] if offer is None else _rates(_ordered(offer.card)),
        "units": [] if offer is None else [(name, money.from_pico(fee)) for name, fee in offer.card.units.items()],
        "request_usd": money.from_pico(offer.card.request) if offer is not None and offer.card.request else None,
        "since": offer.version.effective_from if offer is not None else None,
    }  # fmt: skip
    return desk.render(request, "model", context)


@require_safe
@desk.page()
def calculator(request: HttpRequest, here: Desk) -> HttpResponse:
    """``…/models/calculator``: by the code that debits."""
    whose = Whose.of(here.organization)
    asked = "input_tokens" in request.GET
    first = {"input_tokens": 1000, "cached_input_tokens": 0, "output_tokens": 500, "requests": 10_000}
    form = Calculation(request.GET if asked else None, initial={**first, "model": request.GET.get("model", "")})
    cost = None
    if asked and form.is_valid():
        try:
            cost = _cost(form, here.organization.pk)
        except errors.ApiError as error:
            fault(form, error)
    context = {"form": form, "cost": cost, "offered": catalog.offered(group=whose.group)}
    return desk.render(request, "calculator", context)


def _cost(form: Calculation, organization_id: UUID) -> Cost:
    told = form.cleaned_data
    counts = rating.Counts(
        input_tokens=told["input_tokens"], cached_input_tokens=told["cached_input_tokens"] or 0,
        output_tokens=told["output_tokens"], batch=told["batch"],
    )  # fmt: skip
    found = quotes.quote(model=told["model"].strip(), counts=counts, organization_id=organization_id)
    # In whole pico-dollars, so that no digit is lost on the way to a month.
    month = money.from_pico(money.to_pico(found.cost_usd) * told["requests"])
    return Cost(found, told["requests"], month)


def _row(model: CatalogModel, whose: Whose, now: datetime) -> Row:
    offer = whose.offer(model, now)
    prices = None if offer is None else _prices(offer.card)
    listed = None if offer is None or offer.rule is None else _prices(offer.version.card)
    return Row(model, prices, None if listed == prices else listed, _change(model, whose, now))


def _prices(card: rating.RateCard) -> Prices:
    rates = next(terms for terms in card.terms if rating.is_base(terms)).rates
    return Prices(*map(_per_million, (rates.input, rates.cached_input, rates.output)))


def _per_million(rate: int | None) -> Decimal | None:
    return None if rate is None else rating.per_million(rate)


def _changes(models: Sequence[CatalogModel], whose: Whose, now: datetime) -> list[tuple[CatalogModel, Change]]:
    """What is announced, the nearest first."""
    found = [(model, change) for model in models if (change := _change(model, whose, now)) is not None]
    return sorted(found, key=lambda each: (each[1].at, each[0].slug))


def _change(model: CatalogModel, whose: Whose, now: datetime) -> Change | None:
    """The next instant at which an organization pays something else for a model, if that is known."""
    offer = whose.offer(model, now)
    for at in sorted({each for each in _instants(model, whose) if each > now}):
        later = whose.offer(model, at)
        if (None if offer is None else offer.card) != (None if later is None else later.card):
            return Change(at, None if later is None else _prices(later.card))
    return None


def _instants(model: CatalogModel, whose: Whose) -> Iterator[datetime]:
    """When prices of a model, or rules that may be for this organization, begin and end."""
    for version in whose.book.listing.versions.get(model.slug, ()):
        yield version.effective_from
        if version.effective_to is not None:
            yield version.effective_to
    for owner, group in ((whose.organization_id, None), (None, whose.group), (None, None)):
        for provider, slug in ((None, model.slug), (model.provider, None), (None, None)):
            for rule in whose.book.rulebook.by_scope.get(Scope(owner, group, provider, slug), ()):
                yield rule.effective_from
                if rule.effective_to is not None:
                    yield rule.effective_to


def _ordered(card: rating.RateCard) -> list[rating.Terms]:
    """Entries of a card: the ordinary one first, then larger inputs, tiers, hours and batches."""
    return sorted(
        card.terms,
        key=lambda terms: (terms.batch, bool(terms.windows), terms.service_tier or "", terms.above_input_tokens),
    )


def _when(terms: rating.Terms) -> str:
    """The conditions of an entry in words."""
    when = [
        *([f"{terms.service_tier} tier"] if terms.service_tier else []),
        *(["batch"] if terms.batch else []),
        *([f"more than {terms.above_input_tokens:,} input tokens"] if terms.above_input_tokens else []),
        *map(show_window, terms.windows),
    ]
    return ", ".join(when) or "ordinarily"


# A rate that is the same as another's in every entry says nothing of its own.
_AS: Final = {
    "cached_input": "input", "cache_write": "input", "cache_write_1h": "input", "cached_image_input": "image_input",
    "cached_audio_input": "audio_input",
}  # fmt: skip


def _rates(entries: Sequence[rating.Terms]) -> list[tuple[str, list[Decimal | None]]]:
    """Rates by kind of token, one for each entry."""
    columns = {name: [_per_million(getattr(terms.rates, name)) for terms in entries] for name in rating.Rates._fields}
    return [
        (name.replace("_", " "), rates)
        for name, rates in columns.items()
        if any(rate is not None for rate in rates) and rates != columns.get(_AS.get(name, ""))
    ]
