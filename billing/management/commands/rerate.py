"""``manage.py rerate``: what a period costs by today's price book; a dry run unless told otherwise."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import rerating
from billing.models import Rerating
from core import errors, ids, money
from orgs import audit, organizations


class Command(BaseCommand):
    """Plan, apply, resume or undo an act of re-rating."""

    help = (
        "Re-rate a period. `plan` shows the difference per organization; `apply ID` posts it; `undo ID` takes it back."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """One verb and what it needs."""
        verbs = parser.add_subparsers(dest="verb", required=True)
        plan = verbs.add_parser("plan")
        plan.add_argument("--start", type=_instant, required=True, help="RFC 3339 with its zone, inclusive")
        plan.add_argument("--end", type=_instant, required=True, help="exclusive")
        plan.add_argument("--models", default="", help="comma-separated; all if absent")
        plan.add_argument("--organizations", default="", help="slugs, comma-separated; all if absent")
        for verb in (plan, verbs.add_parser("undo")):
            verb.add_argument("--reason", required=True)
        for name, verb in verbs.choices.items():
            verb.add_argument("--by", required=True, metavar="EMAIL", help="the person who answers for it")
            if name == "undo":
                verb.add_argument("act")
        apply = verbs.add_parser("apply", help="also goes on where a killed run stopped")
        apply.add_argument("act")
        apply.add_argument("--by", required=True, metavar="EMAIL")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it and show what it came to."""
        try:
            by = audit.named(options["by"])
            if options["verb"] == "plan":
                act = rerating.plan(
                    start=options["start"], end=options["end"], reason=options["reason"], by=by,
                    model_slugs=_words(options["models"]), organization_ids=_owners(_words(options["organizations"])),
                )  # fmt: skip
            elif options["verb"] == "apply":
                act = _find(options["act"])
                rerating.apply(act, by=by)
            else:
                act = rerating.undo(_find(options["act"]), reason=options["reason"], by=by)
        except errors.ApiError as error:
            raise CommandError(str(error)) from error
        self._show(act)

    def _show(self, act: Rerating) -> None:
        act.refresh_from_db()
        self.stdout.write(f"{ids.show('rerate', act.pk)}: {act.state}")
        for share in rerating.shares(act):
            change = money.plain(share.after_usd - share.before_usd)
            self.stdout.write(f"  {share.organization.slug}: {share.records} records, {change} USD")
        total = rerating.outcome(act)
        self.stdout.write(
            f"  all: {total.records} records, {money.plain(total.difference_usd)} USD,"
            f" {total.unpriced} without a price today"
        )


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("an instant needs its zone")
    return at


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _owners(slugs: list[str]) -> list[Any]:
    found = organizations.find_slugs(slugs)
    missing = [slug for slug in slugs if slug not in found]
    if missing:
        raise CommandError(f"No organization {missing[0]}.")
    return [found[slug].id for slug in slugs]


def _find(shown: str) -> Rerating:
    try:
        return Rerating.objects.get(pk=ids.read("rerate", shown))
    except (ValueError, Rerating.DoesNotExist) as error:
        raise CommandError(f"No re-rating {shown}.") from error
