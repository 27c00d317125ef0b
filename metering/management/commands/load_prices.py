"""``manage.py load_prices``: models and prices from a file."""

import json
from argparse import ArgumentParser
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from metering import catalog


class Command(BaseCommand):
    """Load a catalog file; all of it or nothing."""

    help = "Load models and prices from a file. Prices are published only with --publish."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The file, its format, and the will to publish."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--format", choices=["tollbook"], default="tollbook")
        parser.add_argument("--skip-late", action="store_true", help="leave out what would change prices in force")
        parser.add_argument("--publish", action="store_true", help="without it the file is only checked")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read, check, and publish if told to."""
        path: Path = options["file"]
        try:
            document = json.loads(path.read_text(), parse_float=Decimal)
        except (OSError, ValueError) as error:
            raise CommandError(f"{path}: {error}") from error
        if not isinstance(document, dict):
            raise CommandError(f"{path}: a catalog is a JSON object")
        try:
            loaded = catalog.load(document, publish=options["publish"], skip_late=options["skip_late"])
        except catalog.BadCatalog as error:
            raise CommandError(f"{path}: {error}") from error
        told = "published" if options["publish"] else "checked, not published"
        self.stdout.write(
            f"{told}: {loaded.models_added} models added, {loaded.models_changed} changed;"
            f" {loaded.prices_added} prices added, {loaded.prices_known} known"
        )
        for refusal in loaded.late:
            self.stdout.write(f"left out: {refusal}")
