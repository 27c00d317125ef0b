"""``manage.py demo``: post example events to a running service and show what came of them.

It is a client like any other: it knows the service by ``DATA_DIR/demo.json`` and speaks HTTP.

The file's times are fixed, and events older than 35 days are refused, so the demo moves them
all by one shift that puts the newest at the moment of the first run. The shift is kept in
``DATA_DIR/demo-shift.json``: run again, every event is the same story with the same id, and the
service answers each with ``duplicate``.
"""

import gzip
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from core import clock, money

EVENTS = settings.BASE_DIR / "examples" / "events.ndjson"
REQUESTS = 3
TIMEOUT_SECONDS = 60
PAGE = 100
PAGES_MAX = 10_000
VERDICTS = ("created", "duplicate", "quarantined", "conflict", "rejected", "failed")
_OCCURRED = re.compile(r'"occurred_at":\s*(?:"(?P<text>[^"]*)"|(?P<whole>[0-9]+)(?P<part>\.[0-9]+)?)')

Json = Mapping[str, Any]


class Demo(NamedTuple):
    """``demo.json`` as far as the demo needs it."""

    base_url: str
    service_key: str
    customer_key: str
    organization: str
    admin_url: str


class Told(NamedTuple):
    """A line of the file, and what the service said of it."""

    line: int
    event: Json
    verdict: Json


class Service:
    """The running service, seen from outside. Every failure is a ``CommandError`` of one line."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        # A proxy of the environment is for other hosts than this one.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str) -> Any:
        """What the demo organization's customer is answered."""
        return self._ask(path, self.demo.customer_key)

    def post_events(self, lines: Sequence[str], *, compressed: bool) -> Any:
        """What the gateway is answered to a body of NDJSON."""
        body = "\n".join(lines).encode()
        headers = {"Content-Type": "application/x-ndjson"}
        if compressed:
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        return self._ask("/v1/events", self.demo.service_key, body, headers)

    def walk(self, path: str) -> Iterator[Json]:
        """Every item of a list, page by page, newest first."""
        after = ""
        for _ in range(PAGES_MAX):
            page = self.get(f"{path}?limit={PAGE}{after}")
            yield from page["data"]
            if not page["has_more"]:
                return
            after = f"&after={page['last_id']}"
        raise CommandError(f"{path} holds more than {PAGE * PAGES_MAX} items; the demo stops here.")

    def _ask(self, path: str, key: str, body: bytes | None = None, more: Mapping[str, str] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {key}", "X-DeepToken-Org": self.demo.organization, **(more or {})}
        request = urllib.request.Request(self.demo.base_url + path, body, headers)  # noqa: S310 - read_demo takes http only
        try:
            with self._open(request, timeout=TIMEOUT_SECONDS) as answer:
                return json.loads(answer.read(), parse_float=Decimal)
        except urllib.error.HTTPError as error:
            raise CommandError(f"{request.get_method()} {request.full_url}: {error.code} {_why(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise CommandError(f"nothing answers at {self.demo.base_url} ({reason}); run `make up` first.") from error
        except ValueError as error:
            raise CommandError(f"{request.full_url} did not answer with JSON; is it Tollbook?") from error


def _why(error: urllib.error.HTTPError) -> str:
    """The message of the error envelope, or the status line."""
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def read_demo(data_dir: Path) -> Demo:
    """The service that ``make up`` started with this ``DATA_DIR``. Raises ``CommandError``."""
    path = data_dir / "demo.json"
    try:
        told = json.loads(path.read_text())
        demo = Demo(**{name: str(told[name]) for name in Demo._fields})
    except FileNotFoundError as error:
        raise CommandError(f"{path} does not exist; run `make up` first, with the same DATA_DIR.") from error
    except (OSError, ValueError, KeyError) as error:
        raise CommandError(f"{path} cannot be read: {error!r}") from error
    if not demo.base_url.startswith(("http://", "https://")):
        raise CommandError(f"{path}: base_url is not an address")
    return demo


def shift(lines: Sequence[str], *, data_dir: Path, organization: str, now: datetime) -> timedelta:
    """How far the events' times move: the first run's answer, kept for the same organization."""
    path = data_dir / "demo-shift.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["organization"] == organization:
            return timedelta(seconds=int(kept["seconds"]))
    newest = max((moment for line in lines if (moment := _moment(_OCCURRED.search(line)))), default=now)
    seconds = int((now - newest).total_seconds())
    path.write_text(json.dumps({"organization": organization, "seconds": seconds}) + "\n")
    return timedelta(seconds=seconds)


def _moment(found: re.Match[str] | None) -> datetime | None:
    if found is None:
        return None
    if found["text"] is not None:
        return datetime.fromisoformat(found["text"])
    return datetime.fromtimestamp(int(found["whole"]), UTC)


def move(line: str, by: timedelta) -> str:
    """The line with its ``occurred_at`` moved by whole seconds, every other byte as it was."""

    def moved(found: re.Match[str]) -> str:
        if found["text"] is not None:
            at = datetime.fromisoformat(found["text"]) + by
            return f'"occurred_at":"{at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}"'
        return f'"occurred_at":{int(found["whole"]) + int(by.total_seconds())}{found["part"] or ""}'

    return _OCCURRED.sub(moved, line, count=1)


def parts(lines: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """The lines in ``count`` stretches of nearly equal length, in order."""
    size = -(-len(lines) // count)
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


def event_of(line: str) -> Json:
    """The line's object; nothing if it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def why(told: Told) -> str:
    """Why an event was not charged, in a person's words."""
    error = told.verdict.get("error")
    if error:
        return str(error["message"])
    if told.verdict["status"] == "quarantined":
        return f"{told.event.get('model')} has no price: kept, and charged once a price is published"
    return ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Aligned lines: the first ``left`` columns to the left, the others, numbers, to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]


def by_model(records: Sequence[Json], cached: Mapping[str, int]) -> list[list[str]]:
    """Rows of the cost table, the dearest model first, then the total."""
    sums: dict[str, list[Any]] = {}
    for record in records:
        row = sums.setdefault(record["model"], [0, 0, 0, 0, money.ZERO])
        amounts = (1, record["input_tokens"], cached.get(record["id"], 0), record["output_tokens"], record["cost_usd"])
        for column, amount in enumerate(amounts):
            row[column] += amount
    ordered = sorted(sums.items(), key=lambda item: (-item[1][4], item[0]))
    total = [sum(row[column] for row in sums.values()) for column in range(5)]
    return [[name, *(money.plain(Decimal(value)) for value in row)] for name, row in [*ordered, ("all", total)]]


class Command(BaseCommand):
    """``make demo``."""

    help = "Post examples/events.ndjson to the service that `make up` runs, and show what came of it."
    requires_system_checks = ()  # a client: it needs no database

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Another file of events, if wanted."""
        parser.add_argument("file", nargs="?", type=Path, default=EVENTS, help="NDJSON, one event a line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Post, read back, draw, check. Fails if the books and the records disagree."""
        demo = read_demo(settings.DATA_DIR)
        service = Service(demo)
        before = service.get("/v1/wallet")
        try:
            lines = [line for line in options["file"].read_text().splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise CommandError(f"{options['file']} cannot be read: {error}") from error
        if not lines:
            raise CommandError(f"{options['file']} holds no events.")
        by = shift(lines, data_dir=settings.DATA_DIR, organization=demo.organization, now=clock.now())

        self._title(f"Tollbook demo: organization {demo.organization} at {demo.base_url}")
        told, seconds = self._post(service, [move(line, by) for line in lines])
        self._say(
            f"  {len(told)} lines of {options['file'].name} posted in {REQUESTS} requests, one of them gzipped,"
            f" in {seconds:.2f} s.",
            f"  Their times are moved by {by} so that the newest was now at the first run.",
        )
        self._verdicts(told)
        after = service.get("/v1/wallet")
        records = list(service.walk("/v1/usage"))
        transactions = service.get("/v1/wallet/transactions?limit=5")["data"]
        new = {one.verdict["usage_record_id"] for one in told if one.verdict["status"] == "created"}
        cached = {
            str(one.verdict["usage_record_id"]): int(one.event.get("cached_input_tokens", 0))
            for one in told
            if one.verdict["status"] in {"created", "duplicate"}
        }
        self._wallet(before, after, transactions)
        self._title(f"Cost by model: all {len(records)} usage records of {demo.organization}")
        heads = ("model", "requests", "input", "cached", "output", "cost USD")
        self._say(*table(heads, by_model(records, cached), left=1))
        self._newest(records[:5])
        agreed = self._check(
            ("cost of the new records", _sum(record for record in records if record["id"] in new)),
            ("change of the wallet's balance", before["balance_usd"] - after["balance_usd"]),
            ("cost of all records", _sum(records)),
            ("all usage ever charged, by /v1/credits", service.get("/v1/credits")["data"]["total_usage"]),
        )
        self._further(demo)
        if not agreed:
            raise CommandError("the records and the wallet disagree; did somebody else post meanwhile?")

    def _post(self, service: Service, lines: Sequence[str]) -> tuple[list[Told], float]:
        told: list[Told] = []
        started = time.monotonic()
        for number, part in enumerate(parts(lines, REQUESTS)):
            answer = service.post_events(part, compressed=number == 1)
            for line, verdict in zip(part, answer["data"], strict=True):
                told.append(Told(len(told) + 1, event_of(line), verdict))
        return told, time.monotonic() - started

    def _verdicts(self, told: Sequence[Told]) -> None:
        counts = Counter(one.verdict["status"] for one in told)
        unlisted = sum(one.verdict["status"] == "created" and not one.verdict["usage_record_id"] for one in told)
        notes = {
            "created": "priced, debited and durable before the answer came"
            + (f"; {unlisted} failed without output, logged at no cost" if unlisted else ""),
            "duplicate": "the same event again: the first answer, no second debit",
            "quarantined": "valid, but nobody has told what it costs",
            "conflict": "the same id told differently: nothing changes",
            "rejected": "wrong: nothing is kept",
            "failed": "could not be written now; the same line may be sent again",
        }
        self._title("Verdicts")
        rows = [[str(counts[name]).rjust(5), name, notes[name]] for name in VERDICTS if counts[name]]
        self._say(*table(("lines", "verdict", ""), rows, left=3))
        if not counts["created"] and counts["duplicate"]:
            self._say("", "  This demo ran before on this service: what was charged then is not charged again.")
        others = [one for one in told if one.verdict["status"] not in {"created", "duplicate"}]
        if others:
            self._title("Not charged, and why")
            rows = [
                [str(one.line).rjust(4), one.verdict["status"], one.verdict["event_id"] or "no id", why(one)]
                for one in others[:20]
            ]
            self._say(*table(("line", "verdict", "event", "reason"), rows, left=4))
            if len(others) > 20:
                self._say(f"  … and {len(others) - 20} more")
        if any((one.verdict.get("error") or {}).get("param", "").endswith("occurred_at") for one in others):
            self._say("", "  Times were fixed at the first run and are too old by now; a new DATA_DIR starts afresh.")

    def _wallet(self, before: Json, after: Json, transactions: Sequence[Json]) -> None:
        self._title(f"Wallet ({after['status']})")
        rows = [
            ["before", money.plain(Decimal(before["balance_usd"]))],
            ["after", money.plain(Decimal(after["balance_usd"]))],
            ["charged", money.plain(Decimal(before["balance_usd"] - after["balance_usd"]))],
        ]
        self._say(
            *table(("", "USD"), rows, left=1)[1:],
            "",
            "  Its newest transactions, one for each request that charged it:",
        )
        rows = [
            [_clock(line["created_at"]), line["kind"], line["id"], money.plain(Decimal(line["amount_usd"])),
             money.plain(Decimal(line["balance_after_usd"]))]
            for line in transactions
        ]  # fmt: skip
        self._say(*table(("time (UTC)", "kind", "id", "amount USD", "balance USD"), rows, left=3))

    def _newest(self, records: Sequence[Json]) -> None:
        self._title("The last five records")
        rows = [
            [record["id"], record["model"], str(record["input_tokens"]), str(record["output_tokens"]),
             money.plain(Decimal(record["cost_usd"]))]
            for record in records
        ]  # fmt: skip
        self._say(*table(("id", "model", "input", "output", "cost USD"), rows, left=2))

    def _check(self, *sums: tuple[str, Decimal]) -> bool:
        """Show sums in pairs that must be equal; whether they are."""
        agreed = all(first[1] == second[1] for first, second in zip(sums[::2], sums[1::2], strict=True))
        self._title("Check: the same to the last digit" if agreed else "Check: NOT EQUAL")
        self._say(*table(("", "USD"), [[name, money.plain(Decimal(usd))] for name, usd in sums], left=1)[1:])
        return agreed

    def _further(self, demo: Demo) -> None:
        file = settings.DATA_DIR / "demo.json"
        self._title("Look further")
        self._say(
            f"  KEY=$(python3 -c \"import json; print(json.load(open('{file}'))['customer_key'])\")",
            f'  curl -H "Authorization: Bearer $KEY" "{demo.base_url}/v1/usage?model=claude-sonnet-4-6&limit=2"',
            f'  curl -H "Authorization: Bearer $KEY" -H "Accept: text/csv" {demo.base_url}/v1/usage',
            f'  curl -H "Authorization: Bearer $KEY" {demo.base_url}/v1/wallet/transactions',
            f"  Every endpoint, to try out: {demo.base_url}/docs",
            f"  The books, for finance: {demo.admin_url} (user and password are in {file})",
        )

    def _title(self, text: str) -> None:
        plain = not self.stdout.isatty() or bool(os.environ.get("NO_COLOR"))
        self.stdout.write("\n" + (text if plain else f"\x1b[1m{text}\x1b[0m"))

    def _say(self, *lines: str) -> None:
        self.stdout.write("\n".join(lines))


def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _sum(records: Iterable[Json]) -> Decimal:
    return sum((record["cost_usd"] for record in records), money.ZERO)
