"""Documents that nobody should send, and what every importer owes whoever does."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from metering import rating
from metering.importers.drafted import BadSource, Drafted

# Amounts right and wrong, as JSON text: a number may be one that Python's own parser would round or choke on.
AMOUNTS = st.one_of(
    st.sampled_from(
        [
            "0", "0.0", "-0", "3e-06", "1.5e-05", "2.5e-7", "3", "0.005", "-1", "-3e-06", "1e-14", "1e400", "-1e400",
            "NaN", "Infinity", "-Infinity", "true", "false", "null", "[]", "{}", "200000", "0.1000000000000000055511",
            "1" * 400, "1" * 5000, "0." + "0" * 300 + "1", "1e999999999999999999", "1e99999999999999999999",
            '"3e-06"', '""', '"-1"', '"0"', '"NaN"', '"0.000003"', '"0.0000030000000000000004"', '"١"', '"1_0"', '" 1"',
            '"\\ud800"', '"\\u0000"',
        ]
    ),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.text(max_size=20).map(json.dumps),
)  # fmt: skip


def objects(
    keys: st.SearchStrategy[str], values: st.SearchStrategy[str], *, twice: bool = False
) -> st.SearchStrategy[str]:
    """JSON objects as text; with ``twice`` a key may come more than once."""
    pairs = st.tuples(keys.map(json.dumps), values)
    members = st.lists(pairs, max_size=8, unique_by=None if twice else lambda pair: pair[0])
    return members.map(lambda found: "{" + ",".join(f"{key}:{value}" for key, value in found) + "}")


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON arrays as text."""
    return st.lists(values, max_size=4).map(lambda found: "[" + ",".join(found) + "]")


def anything(keys: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Any JSON, as text."""
    return st.recursive(
        AMOUNTS, lambda inner: arrays(inner) | objects(keys | st.text(max_size=8), inner, twice=True), max_leaves=12
    )


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """A good document that was cut off, or in which a few bytes were changed, doubled or lost."""
    raw = bytearray(text.encode())
    if draw(st.booleans()):
        return bytes(raw[: draw(st.integers(0, len(raw)))])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw) - 1))
        how = draw(st.sampled_from(["change", "lose", "double"]))
        if how == "change":
            raw[place] = draw(st.sampled_from(b'0123456789-.eE"{}[],:xN\xff\x00'))
        elif how == "lose":
            del raw[place : place + draw(st.integers(1, 12))]
        else:
            raw[place:place] = raw[place : place + draw(st.integers(1, 40))]
        if not raw:
            break
    return bytes(raw)


def prove(read: Callable[[bytes | str], Drafted], raw: bytes | str) -> Drafted | None:
    """Nothing but ``BadSource`` comes out, and else only cards that rating takes and findings a page can show."""
    try:
        drafted = read(raw)
    except BadSource as refused:
        why = str(refused)
        assert why.startswith("the document") or "more than once" in why
        return None
    assert drafted == read(raw)
    for draft in drafted.prices:
        assert rating.read_card(draft.rates) == draft.card()
        assert json.loads(json.dumps(draft.rates)) == draft.rates
        assert all(_is_plain(rate) for entry in draft.rates["terms"] for rate in entry["rates"].values())
        for text in (draft.model, draft.source):
            assert text
            assert text.isprintable()
    findings = [*drafted.refused, *drafted.ignored]
    findings += [finding for draft in drafted.prices for finding in (*draft.gaps, *draft.assumed)]
    for finding in findings:
        assert finding.place
        assert finding.reason
        assert str(finding).isprintable()
        assert len(finding.place) + len(finding.reason) < 1000
    return drafted


def _is_plain(rate: Any) -> bool:
    return isinstance(rate, str) and rate.replace(".", "", 1).isascii() and rate.replace(".", "", 1).isdigit()
