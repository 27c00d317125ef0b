"""``manage.py load_channels FILE``: upstream channels and smart routes from a YAML file, all of it or nothing."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml
from django.core.management.base import BaseCommand, CommandError

from gateway import channels
from gateway.channels import BadChannels
from orgs.audit import system

BYTES_MAX = 4 * 1024 * 1024


class Command(BaseCommand):
    """Make or change the channels that a file names; the others stay as they are."""

    help = "Load upstream channels and smart routes from YAML. In force in every process within a second."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The file, and whether channels that it does not name are switched off."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--only", action="store_true", help="switch off every channel that the file does not name")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read, check, load. Raises ``CommandError`` that names the file and the field."""
        path: Path = options["file"]
        try:
            raw = path.read_bytes()
            if len(raw) > BYTES_MAX:
                raise CommandError(f"{path}: more than {BYTES_MAX} bytes")
            document = yaml.safe_load(raw)
            loaded = channels.load(document, by=system("load_channels"), only=options["only"])
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = "" if mark is None else f", line {mark.line + 1}"
            raise CommandError(f"{path}{place}: {getattr(error, 'problem', None) or 'not YAML'}") from error
        except BadChannels as error:
            raise CommandError(f"{path}: {error}") from error
        self.stdout.write(f"{loaded.changed} changed, {loaded.same} as they were")
        for name in loaded.disabled:
            self.stdout.write(f"switched off: {name}")
        for slug in loaded.strange:
            self.stderr.write(f"warning: the catalog has no model {slug}; nobody can ask for it until it does")
