"""What every list of the API shares: ``limit``, ``after``, and the shape of a page or a CSV."""

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from core import clock, errors

log = logging.getLogger(__name__)

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
# The last line of an export that could not be finished.
BROKEN_OFF = "ERROR: this export is not complete, ask for it again"
_CHUNK_CHARS = 32_768
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
# Where a spreadsheet would begin a formula (full-width signs count): at the start of a cell, and after what some of
# them, by country, take for its end. They trim space and quotes before it; tabs and line ends are unsafe in themselves.
_FORMULA = re.compile(
    r"(?:\A|(?<=[;\t\r\n]))(?=[\s\x1c-\x1f\u200b\ufeff\"]*[=+\-@＝＋－＠])|\A(?=[\t\r\n])",
)


def integer(text: str, *, param: str) -> int:
    """A query parameter's whole number, ASCII digits only. Raises ``InvalidType``."""
    if not _INTEGER.fullmatch(text):
        raise errors.InvalidType(f"{param} must be an integer.", param=param)
    return int(text)


def instant(text: str | None, *, param: str, most: int) -> datetime | None:
    """A query parameter's Unix seconds, 0 to ``most``, as an instant; none where it is absent or empty.

    Raises ``InvalidType`` or ``OutOfRange``.
    """
    if not text:
        return None
    seconds = integer(text, param=param)
    if not 0 <= seconds <= most:
        raise errors.OutOfRange(f"{param} must be Unix seconds.", param=param)
    return clock.from_unix(seconds)


def last(params: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The last value that a query gives a parameter, None if it has none."""
    values = params.get(name)
    return values[-1] if values else None


def limit(request: Request) -> int:
    """``limit``, 1 to 100, 20 if absent. Raises ``InvalidType`` or ``OutOfRange``."""
    return size(request.query_params.get("limit"))


def size(text: str | None) -> int:
    """What the text of ``limit`` asks for, as ``limit`` does."""
    if text is None:
        return LIMIT_DEFAULT
    number = integer(text, param="limit")
    if not 1 <= number <= LIMIT_MAX:
        raise errors.OutOfRange(f"limit must lie between 1 and {LIMIT_MAX}.", param="limit")
    return number


def after(request: Request) -> str | None:
    """The id that the page follows; empty is absent."""
    return request.query_params.get("after") or None


def page(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The list object of contract 8.1."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


class CsvRenderer(BaseRenderer):
    """Lets a view be asked for ``text/csv``; the view streams it itself."""

    media_type = "text/csv"
    format = "csv"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        """Never reached: errors are rendered as JSON, rows are streamed."""
        raise AssertionError("a CSV answer is streamed by its view")


def wants_csv(request: Request) -> bool:
    """Whether the negotiated answer is CSV."""
    return request.accepted_renderer.format == "csv"


def csv_answer(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> StreamingHttpResponse:
    """A CSV download in chunks of some rows, in UTF-8 with a header line."""
    answer = StreamingHttpResponse(_lines(columns, rows), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return answer


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]], *, more: str = "") -> str:
    """The same as one text; ``more`` is said in a last line."""
    text = b"".join(_lines(columns, rows)).decode()
    return f"{text}{more}\r\n" if more else text


def _lines(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """The file in chunks. One that breaks off says so in its last line: the server ends it like a whole one."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    try:
        for row in rows:
            writer.writerow([cell(value) for value in row])
            if buffer.tell() > _CHUNK_CHARS:
                yield buffer.getvalue().encode()
                buffer.seek(0)
                buffer.truncate()
    except Exception:
        log.exception("an export broke off")
        writer.writerow([BROKEN_OFF])
    yield buffer.getvalue().encode()


def cell(value: object) -> str:
    """Text that a spreadsheet shows and never runs: an apostrophe stands before what would begin a formula."""
    text = "" if value is None else str(value)
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)
