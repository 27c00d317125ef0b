"""NDJSON as it arrives: cut anywhere, it says what the whole body says, and no more of it is kept than need be."""

import itertools
import json
import tracemalloc
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import clock, errors
from metering import events
from metering.events import Event, Lines, Rejection
from tests.metering.world import limits, told

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
MIB = 1024 * 1024
FEW = limits(now=NOW)._replace(events=5)


def line(**fields: Any) -> bytes:
    """An event at ``NOW``, its letters as they are."""
    event = {**told(occurred_at=clock.to_unix(NOW), event_id="a"), **fields}
    return json.dumps({name: value for name, value in event.items() if value is not None}, ensure_ascii=False).encode()


LINES = [
    line(), line(event_id="b", end_user="Zoë 🎟 ₿"), line(metadata={"näme": "wörd\n\\"}), line(output_tokens=None),
    line(output_tokens=None, output_text="twelve words 🎟"), line(cached_input_tokens=2000), line(occurred_at=1),
    line(end_user="a\0b"), line(provider_cost_usd=0.25, service_tier="flex"), b" \t" + line() + b" \r", line()[:-1],
    b"", b" ", b"\r", b"\x0b \x0c", b"\x0b" + line(), b"{", b"[]", b"\xff", b"\xc3", b'{"event_id":"x","event_id":"y"}',
    b'"\\u0000"', b"\xef\xbb\xbf" + line(),
]  # fmt: skip
bodies = st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=8)), max_size=9).map(b"\n".join)


def shown(item: Any, *, place: int = 0) -> Any:
    """An item for comparison: a refused one as what it tells, as if it stood at that place."""
    if not isinstance(item, Rejection):
        return item
    moved = [each and each.replace("events[0]", f"events[{place}]") for each in (str(item.error), item.error.param)]
    return (item.event_id, type(item.error), *moved)


def alone(raw: bytes) -> Any:
    """What a line is as a body of its own."""
    (item,) = events.decode(raw, media_type=events.NDJSON, limits=FEW).items
    return item


def expected(raw: bytes) -> Any:
    """What a body says, a line at a time; or the family of its refusal."""
    lines = [each for each in raw.split(b"\n") if each.strip()]
    if not lines:
        return errors.OutOfRange
    if len(lines) > 5:
        return errors.TooManyEvents
    return [shown(alone(each), place=place) for place, each in enumerate(lines)]


def arrived(parts: Iterable[bytes]) -> Any:
    """What the parts of a body say."""
    lines = Lines()
    try:
        for part in parts:
            lines.feed(part, limits=FEW)
        body = lines.finish(limits=FEW)
    except errors.ApiError as error:
        return type(error)
    assert not body.single
    return [shown(item) for item in body.items]


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """The body in parts, cut at these places."""
    ends = [0, *sorted(place for place in places if place < len(raw)), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(ends)]


@given(raw=bodies, places=st.lists(st.integers(min_value=0, max_value=1500), max_size=12))
@example(raw=b"\n".join([line()] * 5) + b"\n\n \n", places=[300])
@example(raw=b"\n".join([line()] * 6), places=[300])
@example(raw=b"\n \n\r\n", places=[1])
def test_a_body_cut_anywhere_says_what_it_says_whole(raw: bytes, places: list[int]) -> None:
    told_so = expected(raw)
    assert arrived(cut(raw, places)) == told_so
    assert arrived([raw]) == told_so


def test_every_cut_will_do_also_inside_a_letter() -> None:
    raw = b"\r\n".join([line(event_id="a", end_user="Zoë 🎟"), b"", b"{", line(event_id="b", end_user="₿")])
    for parts in (
        [raw],
        *(cut(raw, [place]) for place in range(len(raw))),
        [raw[at : at + 1] for at in range(len(raw))],
    ):
        first, broken, second = arrived(parts)
        assert (first.event_id, first.end_user, second.event_id, second.end_user) == ("a", "Zoë 🎟", "b", "₿")
        assert broken[1:] == (
            errors.InvalidJson,
            "events[1] is not valid JSON: Input data was truncated.",
            "events[1]",
        )


def test_a_line_too_many_is_refused_as_soon_as_it_begins() -> None:
    lines = Lines()
    lines.feed((line() + b"\n") * 5, limits=FEW)
    # There may be as many empty lines as the body has room for.
    lines.feed(b"\n \n\t\r\n  ", limits=FEW)
    with pytest.raises(errors.TooManyEvents, match="at most 5 events; this one has more"):
        lines.feed(b" {", limits=FEW)


def test_an_instant_is_held_against_the_time_at_which_its_line_ends() -> None:
    lines, later = Lines(), FEW._replace(now=NOW + timedelta(hours=1))
    ahead = line(occurred_at=clock.to_unix(NOW + timedelta(minutes=50)))
    lines.feed(ahead + b"\n" + ahead, limits=FEW)
    lines.feed(b"\n" + ahead, limits=later)
    first, second, third = lines.finish(limits=later).items
    assert isinstance(first, Rejection)
    assert first.error.param == "events[0].occurred_at"
    assert isinstance(second, Event)
    assert isinstance(third, Event)


def test_finishing_twice_says_the_same() -> None:
    lines = Lines()
    lines.feed(line(event_id="a") + b"\n" + line(event_id="b"), limits=FEW)
    once = lines.finish(limits=FEW)
    assert len(once.items) == 2
    assert lines.finish(limits=FEW) == once


def test_of_eight_mebibytes_in_lines_only_the_events_are_kept() -> None:
    # A field that nobody knows is dropped.
    one = line(comment="x" * 8000) + b"\n"
    lines, many = Lines(), limits(now=NOW)
    tracemalloc.start()
    try:
        for _ in range(1000):
            lines.feed(one[:5000], limits=many)
            lines.feed(one[5000:], limits=many)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(lines.finish(limits=many).items) == 1000
    assert held < 2 * MIB
    assert peak < held + MIB
