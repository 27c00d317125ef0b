"""``manage.py publish_price_rule``: ask for a markup, a discount or a contract; a second person publishes it."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core import errors, ids, money
from metering import agreements, catalog, rating
from metering.agreements import Foreseen, Wish
from metering.models import CatalogModel
from orgs import audit
from orgs.models import Organization

LINES_SHOWN = 10
# What the verbs call them, where the command says it otherwise.
ARGUMENTS = {"email": "by", "effective_from": "starts-at", "effective_to": "ends-at", "factor": "percent"}


class Command(BaseCommand):
    """Say what a rule would change, and ask for it."""

    help = (
        "Ask for a rule on prices: percent on the catalog's price, or for one model rates of its own."
        " A second person publishes it at the desk, under Approvals."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whom, what, how much, when, why and by whom."""
        whom = parser.add_mutually_exclusive_group()
        whom.add_argument("--organization", metavar="SLUG", help="for one organization; everyone if neither is named")
        whom.add_argument("--group", metavar="NAME", help="for a price group")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--model", metavar="ID", help="for one model; every model if neither is named")
        what.add_argument("--provider", metavar="NAME", help="for a provider's models, as the catalog names it")
        pays = parser.add_mutually_exclusive_group(required=True)
        pays.add_argument("--percent", type=_decimal, metavar="N", help="20 is a fifth more, -15 is 15 %% less")
        pays.add_argument(
            "--rates", type=Path, metavar="FILE",
            help='JSON: {"input": "0.2", "output": "1"} in USD per 1M tokens, the rest as the catalog has it;'
            " or a whole rate card",
        )  # fmt: skip
        parser.add_argument(
            "--starts-at", type=instant, metavar="TIME",
            help="RFC 3339 with its zone; some minutes after it is granted if absent, or where that is later",
        )  # fmt: skip
        parser.add_argument("--ends-at", type=instant, metavar="TIME", help="exclusive; for ever if absent")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--by", required=True, metavar="EMAIL", help="the person who asks")
        parser.add_argument("--check", action="store_true", help="say what it would change, and ask nobody")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Foresee it, ask, and say so."""
        try:
            by = audit.named(options["by"])
            wish = _wish(options)
            agreements.check(wish, reason=options["reason"])
            found = agreements.foresee_rule(wish)
            asked = None if options["check"] else agreements.ask_rule(wish=wish, reason=options["reason"], by=by)
        except errors.ApiError as error:
            argument = f"--{ARGUMENTS.get(error.param, error.param)}: " if error.param else ""
            raise CommandError(f"{argument}{error}") from error
        told = {
            "approval": None if asked is None else str(asked),
            "rule": None if asked is None else ids.show("rule", asked.subject_id),
            "state": "checked" if asked is None else "waiting",
            "starts_at": found.at.isoformat(),
            "models": len(found.lines),
            "organizations": sum(1 for one in found.touched if one.models),
        }
        if options["json"]:
            self.stdout.write(json.dumps(told))
            return
        for line in said(found):
            self.stdout.write(line)
        self.stdout.write(
            "Nobody was asked."
            if asked is None
            else f"{asked}: waits for a second person, at the desk under Approvals."
        )


def _wish(options: dict[str, Any]) -> Wish:
    """The rule that is asked for. Raises ``NotFound`` and ``OutOfRange`` that name the argument."""
    percent = options["percent"]
    wish = Wish(
        organization=_organization(options["organization"]),
        group=options["group"],
        provider=options["provider"],
        model=_model(options["model"]),
        factor=None if percent is None else 1 + percent.scaleb(-2),
        effective_from=options["starts_at"],
        effective_to=options["ends_at"],
    )
    if options["rates"] is None:
        return wish
    if wish.model is None:
        raise errors.OutOfRange("Rates of its own are for one model.", param="model")
    told = _read(options["rates"])
    if "terms" in told:
        return wish._replace(rates=told)
    return wish._replace(rates=agreements.contract(wish.model, _rates(told), at=wish.starts_at))


def _organization(slug: str | None) -> Organization | None:
    if slug is None:
        return None
    found = Organization.objects.filter(slug=slug).first()
    if found is None:
        raise errors.NotFound(f"No organization {slug}.", param="organization")
    return found


def _model(name: str | None) -> CatalogModel | None:
    if name is None:
        return None
    found = catalog.listing().find(name)
    if found is None:
        raise errors.NotFound(f"{name} is not in the catalog.", param="model")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.OutOfRange(f"{path}: {error}", param="rates") from error
    if not isinstance(told, dict):
        raise errors.OutOfRange(f"{path}: rates are an object.", param="rates")
    return told


def _rates(told: dict[str, Any]) -> dict[str, Decimal]:
    """USD per 1M tokens by pool."""
    rates = {}
    for pool, rate in told.items():
        if pool not in rating.Rates._fields or not isinstance(rate, str):
            raise errors.OutOfRange(
                f'{pool}: rates are texts such as "0.27", by one of {", ".join(rating.Rates._fields)}.', param="rates"
            )
        try:
            rates[pool] = money.parse(rate)
        except ValueError as error:
            raise errors.OutOfRange(f"{pool}: {error}", param="rates") from error
    return rates


def said(found: Foreseen) -> list[str]:
    """What it would change, in lines."""
    lines = [f"from {found.at.isoformat()} on, if it were granted now: {len(found.lines)} models cost something else"]
    for line in found.lines[:LINES_SHOWN]:
        before, after = (_ordinary(card) for card in (line.before, line.after))
        lines.append(f"  {line.model}: {before} -> {after} (catalog {_ordinary(line.listed)})")
    if len(found.lines) > LINES_SHOWN:
        lines.append(f"  and {len(found.lines) - LINES_SHOWN} more")
    touched = [one for one in found.touched if one.models]
    more = " and more" if found.has_more else ""
    named = ", ".join(one.organization.slug for one in touched[:LINES_SHOWN])
    lines.append(f"organizations that pay it: {len(touched)}{more}{': ' if named else ''}{named}")
    return lines


def _ordinary(card: rating.RateCard) -> str:
    rates = next(filter(rating.is_base, card.terms)).rates
    both = (rates.input, rates.output)
    return " / ".join("-" if rate is None else money.plain(rating.per_million(rate)) for rate in both)


def instant(text: str) -> datetime:
    """An argument that is an instant."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ArgumentTypeError("an instant needs its zone")
    return at


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ArgumentTypeError(f"{text!r} is no number") from error
    if not number.is_finite():
        raise ArgumentTypeError(f"{text!r} is no number")
    return number
