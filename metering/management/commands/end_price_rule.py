"""``manage.py end_price_rule``: ask for a rule on prices to end early; a second person ends it."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core import errors, ids
from metering import agreements
from metering.management.commands.publish_price_rule import instant, said
from metering.models import PriceRule
from orgs import audit


class Command(BaseCommand):
    """Say what the end of a rule would change, and ask for it."""

    help = "Ask for a rule on prices to end early. A second person ends it at the desk, under Approvals."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which, when, why and by whom."""
        parser.add_argument("rule", metavar="RULE", help="rule_…")
        parser.add_argument(
            "--at", type=instant, metavar="TIME",
            help="RFC 3339 with its zone; some minutes after it is granted if absent, or where that is later",
        )  # fmt: skip
        parser.add_argument("--reason", required=True)
        parser.add_argument("--by", required=True, metavar="EMAIL", help="the person who asks")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Foresee it, ask, and say so."""
        rule = _find(options["rule"])
        try:
            by = audit.named(options["by"])
            found = agreements.foresee_end(rule, options["at"])
            asked = agreements.ask_end(rule=rule, at=options["at"], reason=options["reason"], by=by)
        except errors.ApiError as error:
            argument = {"email": "--by: ", "reason": "--reason: ", "at": "--at: "}.get(error.param or "", "")
            raise CommandError(f"{argument}{error}") from error
        if options["json"]:
            told = {"approval": str(asked), "rule": str(rule), "state": "waiting", "models": len(found.lines)}
            self.stdout.write(json.dumps(told))
            return
        for line in said(found):
            self.stdout.write(line)
        self.stdout.write(f"{asked}: waits for a second person, at the desk under Approvals.")


def _find(shown: str) -> PriceRule:
    try:
        return PriceRule.objects.select_related("model", "organization").get(pk=ids.read("rule", shown))
    except (ValueError, PriceRule.DoesNotExist) as error:
        raise CommandError(f"RULE: No price rule {shown}.") from error
