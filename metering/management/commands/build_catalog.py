"""Build ``metering/seed/catalog.json``: a development command.

Two inputs. genai-prices, a development dependency that the running product never imports, has
the public prices. ``metering/seed/models.json`` names the models to take and tells what price
data does not: labels, limits, release dates, aliases, and rates that are not in genai-prices or
are this product's own. Every difference between the two is refused, not smoothed over.
"""

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from django.core.management.base import BaseCommand, CommandError

from core import clock, money
from metering import catalog, rating

SEED = Path(__file__).resolve().parents[2] / "seed"
MANIFEST = SEED / "models.json"
CATALOG = SEED / "catalog.json"
MANIFEST_FORMAT = "tollbook/models-1"

# genai-prices' price keys and our pools. A key in neither table is something a rate card cannot say.
POOLS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "input_image_mtok": "image_input",
    "input_audio_mtok": "audio_input",
    "cache_image_read_mtok": "cached_image_input",
    "cache_audio_read_mtok": "cached_audio_input",
    "output_image_mtok": "image_output",
    "output_audio_mtok": "audio_output",
}
# Priced per thousand uses there, per use here.
UNITS = {
    "web_searches_kcount": "web_search_requests",
    "storage_searches_kcount": "file_search_requests",
}
# A modality without a rate of its own is billed at the plain rate of its direction.
MODALITIES = {
    "image": (("image_input", "input"), ("cached_image_input", "cached_input")),
    "audio": (("audio_input", "input"), ("cached_audio_input", "cached_input")),
}
EVERY_DAY = [0, 1, 2, 3, 4, 5, 6]
FAST_WORDS = (
    "mini",
    "nano",
    "haiku",
    "flash",
    "lite",
    "luna",
    "fast",
    "highspeed",
    "instant",
    "small",
    "3b",
    "8b",
    "r7b",
)


class BadData(CommandError):
    """What cannot be built, named by model; every fault found is listed, not only the first."""


class Vendor(NamedTuple):
    """How a provider of genai-prices is labelled."""

    provider: str
    vendor: str
    owned_by: str
    brand: str


VENDORS = {
    "anthropic": Vendor("Anthropic", "Anthropic", "anthropic", "Claude"),
    "cohere": Vendor("Cohere", "Cohere", "cohere", "Command"),
    "deepseek": Vendor("DeepSeek", "DeepSeek", "deepseek", "DeepSeek"),
    "google": Vendor("Google", "Google", "google", "Gemini"),
    "groq": Vendor("Groq", "Meta", "meta", "Llama"),
    "meta": Vendor("Meta", "Meta", "meta", "Muse"),
    "minimax": Vendor("MiniMax", "MiniMax", "minimax", "MiniMax"),
    "mistral": Vendor("Mistral", "Mistral AI", "mistralai", "Mistral"),
    "moonshotai": Vendor("Moonshot AI", "Moonshot AI", "moonshotai", "Kimi"),
    "openai": Vendor("OpenAI", "OpenAI", "openai", "OpenAI"),
    "voyageai": Vendor("Voyage AI", "Voyage AI", "voyageai", "Voyage"),
    "x-ai": Vendor("xAI", "xAI", "xai", "Grok"),
    "zai": Vendor("Z.ai", "Z.ai", "zai", "GLM"),
}


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """A price version that the manifest states in full."""

    effective_from: datetime
    source: str
    rates: dict[str, Any]


class Row(msgspec.Struct, forbid_unknown_fields=True, rename={"taken_from": "from"}):
    """A model of the manifest. ``taken_from`` is ``provider/id`` in genai-prices."""

    id: str
    name: str
    released: date
    taken_from: str = ""
    kind: str = "vendor_model"
    vendor: str = ""
    brand: str = ""
    provider: str = ""
    owned_by: str = ""
    categories: list[str] = []
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: list[str] = []
    max_stop_sequences: int = 4
    accepts: list[str] = []
    produces: list[str] = []
    aliases: list[str] = []
    prices: list[Told] = []


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """``models.json``."""

    format: str
    source: str
    models: list[Row]


class Tiers(NamedTuple):
    """A rate that steps up with the request's total input: base, then (threshold, rate) rising."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...]

    def at(self, threshold: int) -> Decimal:
        """The rate for requests above ``threshold`` tokens."""
        rate = self.base
        for start, price in self.steps:
            if start <= threshold:
                rate = price
        return rate


Prices = Mapping[str, Tiers]


def build() -> dict[str, Any]:
    """The catalog document, without its date. Raises ``BadData`` with everything that is wrong."""
    manifest = msgspec.json.decode(MANIFEST.read_bytes(), type=Manifest)
    if manifest.format != MANIFEST_FORMAT:
        raise BadData(f"{MANIFEST.name}: the format is not {MANIFEST_FORMAT}")
    source = f"genai-prices {version('genai-prices')}"
    faults: list[str] = []
    models = []
    for row in sorted(manifest.models, key=lambda row: row.id):
        try:
            models.append(_model(row, source))
        except ValueError as fault:
            faults.append(f"{row.id}: {fault}")
    faults += _clashes(models)
    if faults:
        raise BadData("the catalog cannot be built:\n  " + "\n  ".join(faults))
    return {"format": catalog.FORMAT, "source": f"{source}; {manifest.source}", "models": models}


def _clashes(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Ids and aliases that name two models."""
    owners: dict[str, str] = {}
    for model in models:
        for name in (model["id"], *model["aliases"]):
            if name in owners:
                yield f"{name}: names {owners[name]} and {model['id']}"
            owners[name] = model["id"]


def _model(row: Row, source: str) -> dict[str, Any]:
    """A row's entry. Raises ``ValueError``."""
    provider, _, entry = row.taken_from.partition("/")
    vendor = VENDORS[provider] if provider else Vendor(row.provider, row.vendor, row.owned_by, row.brand)
    derived = _derive(row, provider, entry, source) if provider else []
    prices = [_stated(told) for told in row.prices]
    if derived and prices and _without_weekdays(derived[-1]) != _without_weekdays(prices[-1]):
        raise ValueError("the last stated price is not what genai-prices now says; look at both")
    return {
        "id": row.id,
        "name": row.name,
        "vendor": vendor.vendor,
        "brand": row.brand or _brand(row.id, vendor.brand),
        "provider": vendor.provider,
        "owned_by": vendor.owned_by,
        "kind": row.kind,
        "categories": row.categories or [_category(row)],
        "context_window": row.context_window,
        "max_output_tokens": row.max_output_tokens,
        "capabilities": row.capabilities,
        "max_stop_sequences": row.max_stop_sequences,
        "encoding": _encoding(row.id),
        "aliases": sorted(row.aliases),
        "released_at": _midnight(row.released),
        "prices": _checked(prices or derived),
    }


def _brand(model: str, brand: str) -> str:
    """Families that their vendor sells under a name of their own."""
    if model.startswith("gpt-"):
        return "GPT"
    return "Gemma" if model.startswith("gemma-") else brand


def _category(row: Row) -> str:
    """A shelf for models that the manifest puts on none."""
    words = row.id.lower().replace(".", "-").split("-")
    if "embed" in row.id or row.taken_from.startswith("voyageai/"):
        return "Vendor embedding"
    if "image" in row.produces:
        return "Vendor image"
    if "audio" in row.produces or "transcribe" in words:
        return "Vendor audio"
    if any(word in words for word in FAST_WORDS):
        return "Vendor fast path"
    return "Vendor reasoning" if "reasoning" in row.capabilities else "Vendor general"


def _encoding(model: str) -> str:
    """tiktoken's table: exact for OpenAI, an estimate for others."""
    former = ("gpt-3.5", "gpt-4-", "text-embedding")
    return "cl100k_base" if model == "gpt-4" or model.startswith(former) else "o200k_base"


def _midnight(day: date) -> int:
    """Unix seconds of a day's start in UTC."""
    return (day - date(1970, 1, 1)).days * 86_400


def _stated(told: Told) -> dict[str, Any]:
    if told.effective_from.tzinfo is None:
        raise ValueError("a price's start needs a zone")
    return _price(told.effective_from.strftime("%Y-%m-%dT%H:%M:%SZ"), told.source, told.rates)


def _price(start: str, source: str, rates: Mapping[str, Any]) -> dict[str, Any]:
    """A version. It never says when it ends: the next one's start does, so that it need not change."""
    return {"effective_from": start, "effective_to": None, "source": source, "rates": rates}


def _without_weekdays(price: Mapping[str, Any]) -> dict[str, Any]:
    """A version's rates as genai-prices could say them, which knows hours but no weekdays."""
    rates: dict[str, Any] = json.loads(json.dumps(price["rates"]))
    for term in rates["terms"]:
        for window in term["when"].get("windows", ()):
            window["days"] = EVERY_DAY
    return rates


def _checked(prices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The versions, if their starts rise and every card can be read. Raises ``ValueError``."""
    starts = [price["effective_from"] for price in prices]
    if starts != sorted(set(starts)):
        raise ValueError("two prices start together, or they are out of order")
    for price in prices:
        rating.read_card(price["rates"])
    return prices


def _derive(row: Row, provider: str, entry: str, source: str) -> list[dict[str, Any]]:
    """A model's dated history from genai-prices. Raises ``ValueError``."""
    from genai_prices.data import providers

    seller = next(found for found in providers if found.id == provider)
    model = next((found for found in seller.models if found.id == entry), None)
    if model is None:
        raise ValueError(f"genai-prices has no {row.taken_from}")
    # A name priced apart from its model would be billed wrongly; one that nothing matches is ours to give.
    for name in (row.id, *row.aliases):
        other = seller.find_model(name)
        if other is not None and other is not model:
            raise ValueError(f"{name} is priced as {other.id}, not as {entry}")
    if not any(model.is_match(name) for name in (row.id, *row.aliases)):
        raise ValueError(f"neither it nor an alias is a name of {row.taken_from}")
    url = (seller.pricing_urls or [""])[0]
    versions: list[dict[str, Any]] = []
    for day in _days(model, row.released):
        rates = _card(model, day, row)
        if not versions or versions[-1]["rates"] != rates:
            versions.append(_price(f"{day.isoformat()}T00:00:00Z", f"{source}, {url}", rates))
    return versions


def _conditional(model: Any) -> list[tuple[Any, Any]]:
    """(constraint, prices) in rising precedence."""
    if isinstance(model.prices, list):
        return [(price.constraint, price.prices) for price in model.prices]
    return [(None, model.prices)]


def _days(model: Any, released: date) -> list[date]:
    """The days on which something about a model's price changes, the release first."""
    constraints = [constraint for constraint, _ in _conditional(model)]
    constraints += [variant.constraint for variant in model.price_variants or ()]
    starts = {found.start_date for found in constraints if hasattr(found, "start_date")}
    return [released, *sorted(start for start in starts if start > released)]


def _holds(constraint: Any, day: date) -> bool:
    return constraint is None or (hasattr(constraint, "start_date") and day >= constraint.start_date)


def _card(model: Any, day: date, row: Row) -> dict[str, Any]:
    """The rate card in force on a day. Raises ``ValueError`` for what a card cannot say."""
    conditional = _conditional(model)
    place = max((place for place, (constraint, _) in enumerate(conditional) if _holds(constraint, day)), default=0)
    standard = conditional[place][1]
    hours = [
        (constraint, prices) for constraint, prices in conditional[place + 1 :] if hasattr(constraint, "start_time")
    ]
    variants = _variants(model, day)
    if hours and variants:
        raise ValueError("rates by hour and by tier at once: decide how they combine")
    base = _read(standard)
    terms = [*_steps({}, base, row)]
    for windows, prices in _windows(hours):
        terms += _steps({"windows": windows}, _read(prices), row)
    for when, overrides in variants:
        terms += _steps(when, {**base, **overrides}, row)
    units = {
        name: money.plain(prices.base.scaleb(-3))
        for key, name in UNITS.items()
        if (prices := base.get(key)) is not None
    }
    return {"terms": terms, "units": units, "request": "0"}


def _windows(hours: Sequence[tuple[Any, Any]]) -> list[tuple[list[dict[str, Any]], Any]]:
    """Hours of the day grouped by what they cost."""
    groups: list[tuple[list[dict[str, Any]], Any]] = []
    for constraint, prices in hours:
        window = {
            "zone": "UTC",
            "days": EVERY_DAY,
            "start": _hour(constraint.start_time),
            "end": _hour(constraint.end_time),
        }
        group = next((found for found in groups if found[1] == prices), None)
        if group is None:
            groups.append(([window], prices))
        else:
            group[0].append(window)
    return groups


def _hour(at: time) -> str:
    if at.utcoffset():
        raise ValueError("an hour in another zone than UTC")
    return at.strftime("%H:%M")


def _variants(model: Any, day: date) -> list[tuple[dict[str, Any], Prices]]:
    """Rates that replace the standard ones for a served tier or for batches; the first listed wins."""
    found: dict[tuple[str, str], dict[str, Tiers]] = {}
    for variant in model.price_variants or ():
        if not _holds(variant.constraint, day):
            continue
        if len(variant.when) != 1:
            raise ValueError(f"rates that depend on several things at once: {variant.when}")
        ((axis, value),) = variant.when.items()
        overrides = found.setdefault((axis, value), {})
        for key, price in _read(variant.prices).items():
            overrides.setdefault(key, price)
    return [(when, prices) for chosen, prices in found.items() if (when := _when(*chosen)) is not None]


def _when(axis: str, value: str) -> dict[str, Any] | None:
    """A selector of genai-prices as our condition; ``None`` for the ordinary tier."""
    if axis == "processing" and value == "batch":
        return {"batch": True}
    # Anthropic's fast mode is a request's speed there; gateways report it as the served tier.
    if axis == "service_tier" or (axis == "speed" and value == "fast"):
        return None if rating.ordinary(value) is None else {"service_tier": value}
    raise ValueError(f"rates that depend on {axis}")


def _read(prices: Any) -> dict[str, Tiers]:
    """A price set of genai-prices. Raises ``ValueError`` for keys a card has no place for."""
    read = {}
    for key, value in vars(prices).items():
        if value is None:
            continue
        if key not in POOLS and key not in UNITS:
            raise ValueError(f"{key} has no place in a rate card")
        if isinstance(value, Decimal):
            read[key] = Tiers(value, ())
        else:
            read[key] = Tiers(value.base, tuple((tier.start, tier.price) for tier in value.tiers))
    return read


def _steps(when: Mapping[str, Any], prices: Prices, row: Row) -> Iterator[dict[str, Any]]:
    """Entries for one condition: the base, then each long-context threshold, each complete."""
    thresholds = sorted({start for tiers in prices.values() for start, _ in tiers.steps})
    for threshold in (0, *thresholds):
        above = {"above_input_tokens": threshold} if threshold else {}
        yield {"when": {**when, **above}, "rates": _rates(prices, threshold, row)}


def _rates(prices: Prices, threshold: int, row: Row) -> dict[str, str]:
    """Complete rates above a threshold. A model without any price key is free, which is a price of 0."""
    rates = {pool: prices[key].at(threshold) for key, pool in POOLS.items() if key in prices}
    if not rates:
        rates = {"input": Decimal(0), "output": Decimal(0)}
    for modality, pairs in MODALITIES.items():
        for pool, plain in pairs:
            # A rate of its own for the modality says nothing about that modality from cache.
            if modality in row.accepts and plain in rates and f"{modality}_input" not in _own(prices):
                rates.setdefault(pool, rates[plain])
        if modality in row.produces and "output" in rates:
            rates.setdefault(f"{modality}_output", rates["output"])
    fine = [
        f"{pool} {rate:f}"
        for pool, rate in rates.items()
        if rate.as_tuple().exponent < -rating.RATE_DECIMALS  # type: ignore[operator]
    ]
    if fine:
        raise ValueError(f"more than {rating.RATE_DECIMALS} decimals: {', '.join(fine)}")
    return {pool: money.plain(rates[pool]) for pool in POOLS.values() if pool in rates}


def _own(prices: Prices) -> set[str]:
    """The pools that a price set names itself."""
    return {POOLS[key] for key in prices if key in POOLS}


def write(document: Mapping[str, Any]) -> str:
    """JSON text with a model to a block and a version's entry to a line, so that differences read well."""

    def line(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    blocks = []
    for model in document["models"]:
        fields = [f"   {line(name)}: {line(value)}" for name, value in model.items() if name != "prices"]
        versions = []
        for price in model["prices"]:
            head = ", ".join(
                f"{line(name)}: {line(price[name])}" for name in ("effective_from", "effective_to", "source")
            )
            terms = ",\n".join(f"      {line(term)}" for term in price["rates"]["terms"])
            rates = price["rates"]
            rest = f'"units": {line(rates.get("units", {}))}, "request": {line(rates.get("request", "0"))}'
            versions.append(f'    {{{head},\n     "rates": {{"terms": [\n{terms}],\n      {rest}}}}}')
        listed = "[\n" + ",\n".join(versions) + "]" if versions else "[]"
        blocks.append("  {\n" + ",\n".join([*fields, f'   "prices": {listed}']) + "}")
    head = ",\n".join(f" {line(name)}: {line(document[name])}" for name in ("format", "source", "date"))
    return f'{{\n{head},\n "models": [\n' + ",\n".join(blocks) + "\n ]}\n"


class Command(BaseCommand):
    """``manage.py build_catalog``."""

    help = "Rebuild metering/seed/catalog.json from genai-prices and metering/seed/models.json (development only)."
    requires_system_checks = ()  # it reads files and writes one

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--check`` writes nothing and fails if the file is not what would be written."""
        parser.add_argument("--check", action="store_true", help="fail if the checked-in file is out of date")

    def handle(self, *args: Any, **options: Any) -> None:
        """Build, compare, write; the date stays what it was while nothing else changes."""
        try:
            document = build()
        except ImportError as error:
            raise CommandError("genai-prices is not installed; it is a development dependency.") from error
        before = json.loads(CATALOG.read_text()) if CATALOG.is_file() else {}
        same = {name: value for name, value in before.items() if name != "date"} == document
        if options["check"]:
            if not same:
                raise CommandError(f"{CATALOG.name} is out of date; run manage.py build_catalog")
            return
        document["date"] = before["date"] if same else clock.now().date().isoformat()
        CATALOG.write_text(write(document))
        models = document["models"]
        vendors = {model["vendor"] for model in models}
        versions = sum(len(model["prices"]) for model in models)
        unpriced = [model["id"] for model in models if not model["prices"]]
        self.stdout.write(
            f"{CATALOG.name}: {len(models)} models of {len(vendors)} vendors, {versions} price versions;"
            f" without a price: {', '.join(unpriced) or 'none'}"
        )
        if options["verbosity"] > 1:
            self._show_left_out(models)

    def _show_left_out(self, models: Sequence[Mapping[str, Any]]) -> None:
        """What genai-prices has of our providers and the manifest does not take."""
        from genai_prices.data import providers

        manifest = msgspec.json.decode(MANIFEST.read_bytes(), type=Manifest)
        taken = {row.taken_from for row in manifest.models}
        names = {name for model in models for name in (model["id"], *model["aliases"])}
        for seller in providers:
            for model in seller.models if seller.id in VENDORS else ():
                if f"{seller.id}/{model.id}" not in taken and model.id not in names:
                    self.stdout.write(f"not taken: {seller.id}/{model.id}")
