"""``manage.py load_provider_bill``: a provider's invoice or report, held against our records."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import provider_bills
from billing.provider_bills import BadBill
from core import ids
from orgs.audit import system


class Command(BaseCommand):
    """Load a bill and say where it and the records differ."""

    help = "Load a provider's bill: CSV with the header provider,model,period,cost_usd; a period is a month, 2026-10."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The file."""
        parser.add_argument("file", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        """Load, compare, tell. Raises ``CommandError`` for a file that is no bill."""
        path: Path = options["file"]
        try:
            loaded = provider_bills.load(raw=path.read_bytes(), name=path.name, by=system("load_provider_bill"))
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        except BadBill as error:
            raise CommandError(f"{path}: {error}") from error
        word = "loaded" if loaded.is_new else "loaded before"
        self.stdout.write(f"{ids.show('bill', loaded.bill.pk)}: {word}")
        for one in provider_bills.comparison():
            if one.apart:
                self.stdout.write(provider_bills.told(one))
        self.stdout.write(f"{provider_bills.compare()} differences with providers are open")
