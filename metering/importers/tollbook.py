"""Our own file, ``tollbook/catalog-1``: models with dated rate cards, as ``metering/seed/catalog.json`` has them.

Only the prices are read here, and each as it stands; what a model is called and can do, the
catalog reads for itself. Versions of a model belong together: if one of them is wrong, none is taken.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from metering import names, rating
from metering.importers import document
from metering.importers.document import Members, Odd
from metering.importers.drafted import BadSource, Drafted, DraftPrice, Findings, Refusal, as_model, kind, shown

FORMAT = "tollbook/catalog-1"
SOURCE_LENGTH_MAX = 1000
YEARS = range(2000, 2201)


def read(raw: bytes | str) -> Drafted:
    """Drafts from the file's content, each with its times and its source. Raises ``BadSource``."""
    body = document.read(raw)
    if not isinstance(body, Members) or body.get("format") != FORMAT or not isinstance(body.get("models"), list):
        raise BadSource(f'the document needs "format": "{FORMAT}" and a list of models')
    if body.doubled:
        raise BadSource(f"{shown(min(body.doubled))} stands in the document more than once")
    prices: list[DraftPrice] = []
    refused: list[Refusal] = []
    ignored: list[Refusal] = []
    seen: set[str] = set()
    again: set[str] = set()
    for entry in body["models"]:
        model = entry.get("id") if isinstance(entry, Members) else None
        if isinstance(model, str):
            (again if model in seen else seen).add(model)
    for index, entry in enumerate(body["models"]):
        if not isinstance(entry, Members):
            refused.append(Refusal(f"models[{index}]", f"an object is needed, not {kind(entry)}"))
            continue
        try:
            model = as_model(entry.get("id"))
        except ValueError as error:
            refused.append(Refusal(f"models[{index}].id", str(error)))
            continue
        findings = Findings(model)
        if model in again:
            findings.refuse("", f"models[{index}] is one of several with this id")
        if entry.get("prices", []) == [] and not findings.refused:
            ignored.append(Refusal(findings.model, "it has no price"))
            continue
        found = _draft(findings, model, entry)
        if not findings.refused:
            prices += found
        refused += findings.refused
    return Drafted(tuple(prices), tuple(refused), tuple(ignored))


def _draft(findings: Findings, model: str, entry: Members) -> list[DraftPrice]:
    for key in sorted(entry.doubled):
        findings.refuse(key, "it stands there more than once")
    told = entry["prices"]
    if not isinstance(told, list):
        findings.refuse("prices", f"a list is needed, not {kind(told)}")
        return []
    drafts: list[DraftPrice] = []
    vendor = entry.get("owned_by")
    name = names.parse(model)
    name = name._replace(vendor=vendor) if isinstance(vendor, str) and not name.vendor else name
    for index, price in enumerate(told):
        place = f"prices[{index}]"
        try:
            if not isinstance(price, Members):
                raise ValueError(f"an object is needed, not {kind(price)}")
            plain = _plain(price)
            start, end = _instant(plain, "effective_from"), None
            if plain.get("effective_to") is not None:
                end = _instant(plain, "effective_to")
                if end <= start:
                    raise ValueError("it ends before it starts")
            if any(draft.effective_from == start for draft in drafts):
                raise ValueError(f"another price starts at {start.isoformat()}")
            rates = plain.get("rates")
            if not isinstance(rates, dict):
                raise ValueError(f"rates: an object is needed, not {kind(rates)}")
            source = _source(plain)
        except ValueError as error:
            findings.refuse(place, error)
            continue
        drafts += findings.draft(
            model,
            rates,
            source=source,
            part=f"{place}.rates",
            check=rating.check_card,
            name=name,
            effective_from=start,
            effective_to=end,
        )
    return drafts


def _plain(value: Any) -> Any:
    """A value as JSON writes it again. Raises ``ValueError`` for what a card cannot hold."""
    if isinstance(value, Members):
        if value.doubled:
            raise ValueError(f"{shown(min(value.doubled))} stands in one object more than once")
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal | Odd):
        text = value.text if isinstance(value, Odd) else value
        raise ValueError(f"{shown(text)} is a number: amounts are strings, and everything else is whole")
    return value


def _instant(price: dict[str, Any], key: str) -> datetime:
    """A time with its zone. Raises ``ValueError``."""
    text = price.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{key}: a time is a string, not {kind(text)}")
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{key}: {shown(text)} is not a time") from error
    if at.tzinfo is None or at.year not in YEARS:
        raise ValueError(f"{key}: {shown(text)} has no zone, or a year that cannot be meant")
    return at


def _source(price: dict[str, Any]) -> str:
    source = price.get("source")
    if not isinstance(source, str) or not source or len(source) > SOURCE_LENGTH_MAX or not source.isprintable():
        raise ValueError(f"source: 1 to {SOURCE_LENGTH_MAX} printable characters say where the price is published")
    return source
