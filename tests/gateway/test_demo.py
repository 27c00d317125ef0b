"""``make demo``: the example events, moved in time, against the real server."""

import io
import json
import re
import runpy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from gateway.management.commands import demo
from metering import events
from tests.books import Books
from tests.server import WebServer

LINES = demo.EVENTS.read_text().splitlines()


def made(command: str, *arguments: str) -> dict[str, str]:
    out = io.StringIO()
    call_command(command, *arguments, "--json", stdout=out)
    answer: dict[str, str] = json.loads(out.getvalue())
    return answer


def shown(*arguments: str) -> str:
    out = io.StringIO()
    call_command("demo", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def running(books: Books, server: WebServer, folder: Path) -> Path:
    """The folder of a service that ``make up`` would have left."""
    owned = made("create_organization", "demo", "--owner", "owner@demo.example", "--grant-usd", "100")
    gateway = made("create_service_key", "demo-gateway", "--scopes", "events:write")
    told = {"base_url": server.base_url, "admin_url": f"{server.base_url}/admin/", **owned, **gateway}
    (folder / "demo.json").write_text(json.dumps(told))
    return folder


def test_the_example_events_are_what_their_script_writes() -> None:
    assert runpy.run_path(str(demo.EVENTS.with_name("generate.py")))["lines"]() == LINES


def test_the_example_events_hold_every_kind_of_event() -> None:
    newest = datetime(2026, 11, 20, 18, tzinfo=UTC)
    limits = events.Limits(events=1000, now=newest, age=timedelta(days=35), ahead=timedelta(0))
    items = events.decode(demo.EVENTS.read_bytes(), media_type=events.NDJSON, limits=limits).items
    good = [item for item in items if isinstance(item, events.Event)]
    assert len(items) - len(good) == 2
    assert len({event.model for event in good}) >= 12
    assert len({event.end_user for event in good}) >= 10
    assert len(good) - len({event.event_id for event in good}) == 7  # six told again, one told differently
    kinds: list[Callable[[events.Event], object]] = [
        lambda event: event.cached_input_tokens,
        lambda event: event.cache_write_tokens and event.cache_write_1h_tokens,
        lambda event: event.reasoning_tokens,
        lambda event: event.input_tokens > 272_000,
        lambda event: event.image_input_tokens,
        lambda event: event.audio_input_tokens,
        lambda event: event.units.get("web_search_requests"),
        lambda event: event.batch,
        lambda event: event.service_tier == "flex",
        lambda event: event.stream and event.outcome == "client_aborted" and event.output_tokens,
        lambda event: event.outcome == "upstream_error" and event.output_tokens,
        lambda event: event.status == 500 and not event.billed,
        lambda event: event.status == 429 and not event.billed,
        lambda event: event.endpoint == "/v1/embeddings" and not event.output_tokens,
        lambda event: event.metadata and event.metadata.get("job"),
    ]
    for place, holds in enumerate(kinds):
        assert any(holds(event) for event in good), place


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ('{"occurred_at":1000,"n":1}', '{"occurred_at":1090,"n":1}'),
        ('{"occurred_at": 1000.125}', '{"occurred_at":1090.125}'),
        ('{"occurred_at":"2026-11-20T10:00:00.500Z"}', '{"occurred_at":"2026-11-20T10:01:30.500Z"}'),
        ('{"occurred_at":1000,"event_id":"x"', '{"occurred_at":1090,"event_id":"x"'),
        ("not JSON", "not JSON"),
    ],
)
def test_moving_a_line_changes_its_time_and_nothing_else(line: str, moved: str) -> None:
    assert demo.move(line, timedelta(seconds=90)) == moved


def test_the_shift_is_kept_so_that_a_second_run_tells_the_same_story(folder: Path) -> None:
    lines = ['{"occurred_at":1000}', '{"occurred_at":"1970-01-01T00:50:00Z"}', "broken"]

    def shift(seconds: int, organization: str = "demo") -> timedelta:
        now = datetime.fromtimestamp(seconds, UTC)
        return demo.shift(lines, data_dir=folder, organization=organization, now=now)

    assert shift(10_000) == timedelta(seconds=7_000)
    assert shift(99_000) == timedelta(seconds=7_000)
    assert shift(99_000, "another") == timedelta(seconds=96_000)


def test_the_demo_shows_what_came_of_each_event_and_charges_once(running: Path) -> None:
    first = shown()
    for verdict, lines in (("created", 296), ("duplicate", 6), ("quarantined", 2), ("conflict", 1), ("rejected", 2)):
        assert re.search(rf"^ +{lines}  {verdict} ", first, re.MULTILINE), verdict
    assert "deepshi-3.0 has no price" in first
    assert "input_tokens must be an integer of at least 0." in first
    assert re.search(r"^  claude-sonnet-4-6 +32 +[0-9]+ +[0-9]+ +[0-9]+ +1\.48928445$", first, re.MULTILINE)
    assert "Check: the same to the last digit" in first
    assert "\x1b" not in first

    balance = re.compile(r"^  after +([0-9.]+)$", re.MULTILINE)
    again = shown()
    assert re.search(r"^ +302  duplicate ", again, re.MULTILINE)
    assert "  created " not in again
    assert "This demo ran before" in again
    assert "Check: the same to the last digit" in again
    assert balance.findall(again) == balance.findall(first)


def test_a_service_that_is_not_there_is_one_clear_line(folder: Path) -> None:
    with pytest.raises(CommandError, match=r"demo\.json does not exist; run `make up` first"):
        shown()
    told = {"base_url": "http://127.0.0.1:9", "service_key": "s", "customer_key": "c", "organization": "demo"}
    (folder / "demo.json").write_text(json.dumps({**told, "admin_url": "a"}))
    with pytest.raises(
        CommandError, match=r"nothing answers at http://127\.0\.0\.1:9 .*; run `make up` first"
    ) as refused:
        shown()
    assert "\n" not in str(refused.value)
    (folder / "demo.json").write_text(json.dumps({**told, "admin_url": "a", "base_url": "file:///etc/passwd"}))
    with pytest.raises(CommandError, match="base_url is not an address"):
        shown()


def test_a_key_that_the_service_does_not_know_is_one_clear_line(running: Path) -> None:
    path = running / "demo.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "customer_key": "dtk_wrong"}))
    with pytest.raises(CommandError, match=r"GET .*/v1/wallet: 401 The API key is missing"):
        shown()
