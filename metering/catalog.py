"""The catalog: models, their aliases and their dated prices. The only module that writes either table.

Prices are appended and never changed. The version in force at an instant is the one that began
last, unless it has ended; so a later version closes an earlier one without touching its row. Each
is kept with a digest of all that it says, so a row that was changed behind its trigger is found.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import transaction

from core import clock, errors
from metering import rating, tokens
from metering.models import CatalogModel, Price
from orgs import caches

FORMAT = "tollbook/catalog-1"
# What a model's columns hold, and what can be meant.
TOKENS_MAX = 2**53
STOPS_MAX = 1000
UNIX_MAX = clock.to_unix(datetime(2200, 1, 1, tzinfo=UTC))


class BadCatalog(ValueError):
    """A catalog document is wrong; the message says where."""


class Version(NamedTuple):
    """A price version as rating uses it."""

    id: UUID
    effective_from: datetime
    effective_to: datetime | None
    card: rating.RateCard
    active_from: datetime | None = None


class Listing:
    """The whole catalog in memory: a few hundred models, read together and replaced together."""

    def __init__(self, models: Sequence[CatalogModel], prices: Sequence[Price]) -> None:
        self.models = {model.slug: model for model in models}
        self.names = {alias: model.slug for model in models for alias in model.aliases}
        self.names.update({slug: slug for slug in self.models})
        slugs = {model.id: model.slug for model in models}
        self.versions: dict[str, list[Version]] = {slug: [] for slug in self.models}
        for price in prices:
            card = rating.read_card(price.rates)
            version = Version(price.id, price.effective_from, price.effective_to, card, price.active_from)
            self.versions[slugs[price.model_id]].append(version)
        for versions in self.versions.values():
            # Of one start the rows come by revision, and sorting keeps that.
            versions.sort(key=lambda version: version.effective_from)

    def find(self, name: str) -> CatalogModel | None:
        """The model that an id or alias names."""
        slug = self.names.get(name)
        return None if slug is None else self.models[slug]

    def price_at(self, slug: str, at: datetime) -> Version | None:
        """The version of a model's price in force at an instant: start inclusive, end exclusive."""
        return in_force(self.versions.get(slug, ()), at)


def in_force(versions: Sequence[Version], at: datetime) -> Version | None:
    """The version that began last at or before ``at``, if it has not ended; ``versions`` rise by start.

    A correction stands behind what it corrects and goes before it as soon as it is active.
    """
    for version in reversed(versions):
        if version.effective_from <= at and (version.active_from is None or version.active_from <= clock.now()):
            return version if version.effective_to is None or at < version.effective_to else None
    return None


def earliest_start() -> datetime:
    """From when a change can hold that is chosen by when a request happened: prices, and rules on them.

    Two cache lives from now, so that every process knows it by then (decisions 5), and beyond what
    may already have been charged, since events may carry a time somewhat ahead of ours.
    """
    return caches.earliest_change() + timedelta(seconds=settings.EVENT_AHEAD_MAX_SECONDS)


def _load(keys: Collection[str]) -> Mapping[str, Listing]:
    listing = Listing(list(CatalogModel.objects.all()), list(Price.objects.order_by("revision")))
    return dict.fromkeys(keys, listing)


_listings: caches.Cached[str, Listing] = caches.Cached(_load)


def listing() -> Listing:
    """The catalog as this process knows it, at most half a second behind a change elsewhere."""
    found = _listings.get("catalog")
    assert found is not None
    return found


class Loaded(NamedTuple):
    """What loading a document did, or would have done; ``added`` are the prices themselves."""

    models_added: int
    models_changed: int
    prices_added: int
    prices_known: int
    late: Sequence[str]
    added: Sequence[Price]


@transaction.atomic
def load(document: Mapping[str, Any], *, publish: bool = True, skip_late: bool = False) -> Loaded:
    """Bring in a catalog document (``tollbook/catalog-1``): models are updated, prices appended.

    All or nothing; without ``publish`` everything is checked and nothing kept. Raises
    ``BadCatalog``: a malformed entry; a published price told differently; a new price that would
    change what is already in force or could already have been charged. With ``skip_late`` the
    last is left out and named instead: what a newer release knows of the past is for finance to judge.
    """
    if document.get("format") != FORMAT or not isinstance(document.get("models"), list):
        raise BadCatalog(f'the document needs "format": "{FORMAT}" and a list of models')
    known = {model.slug: model for model in CatalogModel.objects.select_for_update(no_key=True)}
    names = {alias: slug for slug, model in known.items() for alias in (slug, *model.aliases)}
    published: dict[UUID, list[Price]] = {}
    for price in Price.objects.order_by("effective_from", "revision"):
        published.setdefault(price.model_id, []).append(price)
    added = changed = prices_known = 0
    prices: list[Price] = []
    late = []
    told: set[str] = set()
    for entry in document["models"]:
        fields = _read_model(entry)
        slug = fields["slug"]
        if slug in told:
            raise BadCatalog(f"{slug}: it stands in the document twice")
        told.add(slug)
        if names.get(slug, slug) != slug or any(names.get(alias, slug) != slug for alias in fields["aliases"]):
            raise BadCatalog(f"{slug}: it or one of its aliases is a name of another model")
        model = known.get(slug)
        if model is None:
            model = CatalogModel.objects.create(**fields)
            known[slug] = model
            added += 1
        elif any(getattr(model, name) != value for name, value in fields.items()):
            CatalogModel.objects.filter(pk=model.pk).update(**fields)
            changed += 1
        names.update(dict.fromkeys((slug, *fields["aliases"]), slug))
        for price in _read_prices(entry, model):
            try:
                new = _is_new(slug, price, published.get(model.id, []))
            except BadCatalog as refusal:
                if not skip_late:
                    raise
                late.append(str(refusal))
                continue
            if new:
                _insert(price)
                prices.append(price)
            prices_known += not new
    if not publish:
        transaction.set_rollback(True)
    elif added or changed or prices:
        caches.bump()
    return Loaded(added, changed, len(prices), prices_known, late, prices)


def _is_new(slug: str, price: Price, published: Sequence[Price]) -> bool:
    """Whether a price is to be added; a known one is told again.

    A new one may begin where none is in force, or at the earliest start. Raises ``BadCatalog``.
    """
    told = next((known for known in published if known.effective_from == price.effective_from), None)
    if told is not None:
        if (told.rates, told.effective_to) != (price.rates, price.effective_to):
            raise BadCatalog(f"{slug}: the price from {price.effective_from} is published and never changes")
        return False
    versions = [
        Version(known.id, known.effective_from, known.effective_to, rating.RateCard((), {}, 0)) for known in published
    ]
    soonest = earliest_start()
    if in_force(versions, price.effective_from) is not None and price.effective_from < soonest:
        raise BadCatalog(f"{slug}: a price is in force at {price.effective_from}; a new one starts after {soonest}")
    return True


def append(price: Price) -> None:
    """Publish one more version, inside the caller's transaction. Raises ``BadCatalog``.

    A correction (``revision`` above 1) is in use two cache lives from now; any other version must not
    change what is in force before then.
    """
    published = list(Price.objects.filter(model_id=price.model_id).order_by("effective_from", "revision"))
    if price.revision > 1:
        same = [known for known in published if known.effective_from == price.effective_from]
        if len(same) != price.revision - 1:
            raise BadCatalog(f"{price.model.slug}: the version to correct was corrected meanwhile")
        price.active_from = caches.earliest_change()
    elif not _is_new(price.model.slug, price, published):
        raise BadCatalog(f"{price.model.slug}: this price is published already")
    _insert(price)
    caches.bump()


def _insert(price: Price) -> None:
    price.digest = digest(price)
    price.save(force_insert=True)


def digest(price: Price) -> bytes:
    """SHA-256 of all that a version says, in one spelling; what its row kept when it was published.

    Rate cards hold no fractions (rates are strings), so the database gives them back as they were.
    """
    told = {
        "format": "tollbook/price-1",
        "id": str(price.id),
        "model": str(price.model_id),
        "effective_from": _spelled(price.effective_from),
        "effective_to": _spelled(price.effective_to),
        "revision": price.revision,
        "active_from": _spelled(price.active_from),
        "rates": price.rates,
        "source": price.source,
        "created_at": _spelled(price.created_at),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).digest()


def _spelled(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="microseconds")


def altered() -> list[Price]:
    """Published versions that no longer say what they said when they were published."""
    versions = Price.objects.select_related("model").order_by("id")
    return [price for price in versions if bytes(price.digest) != digest(price)]


def _read_model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a model. Raises ``BadCatalog``."""
    if not isinstance(entry, Mapping):
        raise BadCatalog(f"a model is an object, not {type(entry).__name__}")
    try:
        return {
            "slug": _text(entry, "id"),
            "name": _text(entry, "name"),
            "vendor": _text(entry, "vendor"),
            "brand": _text(entry, "brand"),
            "provider": _text(entry, "provider"),
            "owned_by": _text(entry, "owned_by"),
            "kind": CatalogModel.Kind(entry.get("kind", "vendor_model")),
            "categories": _texts(entry, "categories"),
            "capabilities": _texts(entry, "capabilities"),
            "aliases": _texts(entry, "aliases"),
            "context_window": _limit(entry, "context_window"),
            "max_output_tokens": _limit(entry, "max_output_tokens"),
            "max_stop_sequences": _whole(entry.get("max_stop_sequences", 4), "max_stop_sequences", STOPS_MAX),
            "encoding": _encoding(entry.get("encoding", tokens.DEFAULT_ENCODING)),
            "released_at": clock.from_unix(_whole(entry["released_at"], "released_at", UNIX_MAX)),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BadCatalog(f"{entry.get('id', 'a model without an id')}: {error!r}") from error


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry[name]
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{name} must be a non-empty string of printable characters")
    return value


def _limit(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return None if value is None else _whole(value, name, TOKENS_MAX)


def _whole(value: object, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} must be a whole number up to {most}, not {str(value)[:50]!r}")
    return value


def _encoding(name: object) -> str:
    if not isinstance(name, str) or name not in tokens.TABLES:
        raise ValueError(f"encoding must be one of {', '.join(tokens.TABLES)}")
    return name


def _texts(entry: Mapping[str, Any], name: str) -> list[str]:
    values = entry.get(name, [])
    if not isinstance(values, list) or not all(
        isinstance(value, str) and value and value.isprintable() for value in values
    ):
        raise ValueError(f"{name} must be a list of non-empty strings of printable characters")
    return list(values)


def _read_prices(entry: Mapping[str, Any], model: CatalogModel) -> list[Price]:
    """Unsaved price rows of an entry. Raises ``BadCatalog``."""
    prices: list[Price] = []
    for told in entry.get("prices", ()):
        try:
            rating.check_card(told["rates"])
            end = told.get("effective_to")
            price = Price(
                model=model,
                effective_from=datetime.fromisoformat(told["effective_from"]),
                effective_to=None if end is None else datetime.fromisoformat(end),
                rates=told["rates"],
                source=_text(told, "source"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadCatalog(f"{model.slug}: {error!r}") from error
        ends = (price.effective_from,) if price.effective_to is None else (price.effective_from, price.effective_to)
        if any(end.tzinfo is None for end in ends) or ends[-1] < ends[0] or len(set(ends)) < len(ends):
            raise BadCatalog(f"{model.slug}: a price needs a start with a zone, before its end")
        if any(other.effective_from == price.effective_from for other in prices):
            raise BadCatalog(f"{model.slug}: two prices start at {price.effective_from}")
        prices.append(price)
    return prices


def strangers(names: Collection[str]) -> list[str]:
    """Those names, in order, that are neither the id nor an alias of a model, retired ones included."""
    return sorted(set(names) - listing().names.keys())


def allows(names: Collection[str], model: CatalogModel) -> bool:
    """Whether a key's list of ids and aliases (empty: all) lets it call a model."""
    return not names or any(name in names for name in (model.slug, *model.aliases))


def check_allowed(names: Collection[str], model: CatalogModel) -> None:
    """Raise ``ModelNotAllowed`` for a model that a key's list leaves out."""
    if not allows(names, model):
        raise errors.ModelNotAllowed(f"This key may not call {model.slug}.", param="model")


# Which models somebody of a price group can be led to; None: all, for whoever routes is elsewhere.
Routable = Callable[[str], frozenset[str] | None]
_routable: list[Routable] = [lambda _: None]


def learn_routes(routable: Routable) -> None:
    """From now on only what these routes lead to is on offer: told by whoever routes, when the process starts."""
    _routable[0] = routable


def is_offered(model: CatalogModel, *, group: str) -> bool:
    """Whether a price group can call a model now."""
    routed = _routable[0](group)
    return model.retired_at is None and (routed is None or model.slug in routed)


def offered(*, group: str = "") -> list[CatalogModel]:
    """The models on offer to a price group, by id."""
    routed = _routable[0](group)
    return sorted(
        (
            model
            for model in listing().models.values()
            if model.retired_at is None and (routed is None or model.slug in routed)
        ),
        key=lambda model: model.slug,
    )


def price(price_id: UUID) -> Price:
    """A published price version by id, for ever."""
    return Price.objects.select_related("model").get(pk=price_id)
