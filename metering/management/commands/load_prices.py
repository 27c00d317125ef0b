"""``manage.py load_prices``: a price list becomes a draft; our own file may also be published as it stands."""

from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core import errors, ids
from metering import pricebook, proposals
from metering.importers.drafted import shown
from metering.proposals import OURS, BadList, Proposal
from orgs import audit

FOREIGN_IS_DRAFTED = (
    "a price list of another house is never published unread: leave out --publish, read the draft's report,"
    " and publish the draft, with a second person where the price book asks for one"
)


class Command(BaseCommand):
    """Draft what a price list changes, or load a catalog file; all of it or nothing."""

    help = (
        "Make a draft of what a price list would change, and report everything else that it says."
        " A catalog file of our own can be loaded with its models and published by --publish."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The file, its format, and what is to become of it."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--format", choices=[*proposals.READERS], default=OURS)
        parser.add_argument(
            "--publish", action="store_true", help="load models and prices at once; our own format only"
        )
        parser.add_argument("--skip-late", action="store_true", help="leave out what would change prices in force")
        parser.add_argument("--check", action="store_true", help="report, and keep nothing")
        parser.add_argument("--models", default="", metavar="ID,…", help="draft only these; all if absent")
        parser.add_argument(
            "--starts-at",
            type=_instant,
            help="when the drafted prices begin, RFC 3339 with its zone; in about a day if absent, and where no"
            " price is in force at once",
        )
        parser.add_argument("--compare", type=Path, metavar="OTHER", help="report where a second list tells otherwise")
        parser.add_argument("--compare-format", choices=[*proposals.READERS], default=OURS)
        parser.add_argument("--by", metavar="EMAIL", help="the person who drafts")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read, check, and draft or publish."""
        path: Path = options["file"]
        _refuse_contradictions(options)
        raw = _read(path)
        try:
            if options["publish"]:
                self._publish(raw, skip_late=options["skip_late"])
                return
            proposal = _propose(raw, options)
        except BadList as error:
            raise CommandError(f"{path}: {error}") from error
        report = "\n".join([proposal.report, *_compared(raw, options)])
        self.stdout.write(report)
        if options["check"] or not proposal.lines:
            self.stdout.write("\nNo draft was made.")
            return
        source = shown(f"{path.name}, {options['format']}")
        try:
            by = audit.named(options["by"]) if options["by"] else audit.system("load_prices")
            made = pricebook.draft(lines=proposal.lines, source=source, by=by, report=report)
        except errors.NotFound as error:
            raise CommandError(f"--by: {error}") from error
        except errors.OutOfRange as error:
            raise CommandError(f"{path}: {error}") from error
        self.stdout.write(f"\n{ids.show('draft', made.pk)}: {len(proposal.lines)} lines. Nothing is published.")

    def _publish(self, raw: bytes, *, skip_late: bool) -> None:
        """Load models and prices of our own file at once. Raises ``BadList``."""
        proposals.read(raw, form=OURS)
        loaded = proposals.load_catalog(raw, publish=True, skip_late=skip_late)
        self.stdout.write(
            f"published: {loaded.models_added} models added, {loaded.models_changed} changed;"
            f" {loaded.prices_added} prices added, {loaded.prices_known} known"
        )
        for refusal in loaded.late:
            self.stdout.write(f"left out: {refusal}")


def _refuse_contradictions(options: dict[str, Any]) -> None:
    """Raises ``CommandError`` for options that cannot go together."""
    ours = options["format"] == OURS
    if options["publish"] and not ours:
        raise CommandError(f"--publish: {FOREIGN_IS_DRAFTED}")
    drafting = [name for name in ("check", "models", "starts_at", "compare", "by") if options[name]]
    if options["publish"] and drafting:
        raise CommandError(f"--{drafting[0].replace('_', '-')} is for drafts: --publish takes the whole file")
    if options["skip_late"] and not ours:
        raise CommandError("--skip-late is for our own format: lines of other lists are dated here")
    if options["starts_at"] and ours:
        raise CommandError("--starts-at is for other formats: our own dates its prices")


def _propose(raw: bytes, options: dict[str, Any]) -> Proposal:
    """What the file would change. Raises ``BadList``."""
    models = [name.strip() for name in options["models"].split(",") if name.strip()]
    if options["format"] == OURS:
        return proposals.propose_catalog(raw, models=models, skip_late=options["skip_late"])
    drafted = proposals.read(raw, form=options["format"])
    return proposals.propose(drafted, models=models, starts_at=options["starts_at"])


def _compared(raw: bytes, options: dict[str, Any]) -> list[str]:
    """The paragraph about a second list, if there is one. Raises ``CommandError``."""
    path: Path | None = options["compare"]
    if path is None:
        return []
    try:
        other = proposals.read(_read(path), form=options["compare_format"])
    except BadList as error:
        raise CommandError(f"{path}: {error}") from error
    return proposals.compare_lists(proposals.read(raw, form=options["format"]), other, other_name=path.name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("an instant needs its zone")
    return at
