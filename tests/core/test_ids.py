"""Ids: UUIDv7 that rise, and one spelling for each."""

import string
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import clock, ids

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
uuids = st.integers(0, 2**128 - 1).map(lambda number: UUID(int=number))
instants = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2262, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def spelled(number: int) -> str:
    """Crockford's base 32, the slow way."""
    letters = ""
    for _ in range(26):
        number, rest = divmod(number, 32)
        letters = CROCKFORD[rest] + letters
    return letters


@given(value=uuids)
def test_an_id_is_shown_in_crockfords_letters_and_read_back(value: UUID) -> None:
    shown = ids.show("usage", value)
    assert shown == "usage_" + spelled(value.int)
    assert ids.read("usage", shown) == value


@given(first=uuids, second=uuids)
def test_ids_sort_alike_as_numbers_and_as_text(first: UUID, second: UUID) -> None:
    assert (first < second) == (ids.show("tr", first) < ids.show("tr", second))


def test_an_id_under_another_prefix_is_refused() -> None:
    shown = ids.show("usage", ids.new())
    for prefix in ("tr", "usag", "usage_", "", "USAGE"):
        with pytest.raises(ValueError, match="not a"):
            ids.read(prefix, shown)


@given(place=st.integers(0, 25), letter=st.characters())
def test_one_character_changed_is_another_id_or_none(place: int, letter: str) -> None:
    shown = ids.show("key", UUID(int=2**125 + 12345))
    at = len("key_") + place
    changed = shown[:at] + letter + shown[at + 1 :]
    try:
        assert ids.show("key", ids.read("key", changed)) == changed
    except ValueError:
        assert letter not in CROCKFORD or (place == 0 and letter not in "01234567")


@pytest.mark.parametrize(
    "text",
    ["", "key", "key_", "key_0", "_" + "0" * 26, "key-" + "0" * 26, "key_" + "0" * 25, "key_" + "0" * 27,
     "key_8" + "0" * 25, "key_Z" + "0" * 25, "key_" + "o" * 26, "key_" + "I" * 26, "key_" + "٠" * 26,
     " key_" + "0" * 26, "key_" + "0" * 26 + "\n", "key_" + "0" * 25 + "_", "key_key_" + "0" * 22],
)  # fmt: skip
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a key_ id"):
        ids.read("key", text)


def test_lower_case_is_another_spelling_and_refused() -> None:
    shown = ids.show("key", UUID("0199a5f0-1234-7abc-8def-0123456789ab"))
    assert any(letter in string.ascii_uppercase for letter in shown)
    with pytest.raises(ValueError):
        ids.read("key", "key_" + shown[4:].lower())


@given(at=instants)
def test_an_id_carries_its_instant_to_the_millisecond(at: datetime) -> None:
    value = next(ids.run(at=at))
    assert (value.version, value.variant) == (7, "specified in RFC 4122")
    assert ids.instant(value) == at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert ids.milliseconds(at) == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(at=instants)
def test_a_run_rises_and_stays_within_its_millisecond(at: datetime) -> None:
    run = list(islice(ids.run(at=at), 300))
    assert all(first < second for first, second in pairwise(run))
    assert ids.floor(at) <= run[0]
    assert run[-1] < ids.floor(at + timedelta(milliseconds=1))


def test_two_runs_of_the_same_instant_do_not_meet() -> None:
    at = clock.now()
    runs = [set(islice(ids.run(at=at), 1000)) for _ in range(20)]
    assert len(set.union(*runs)) == 20_000


def test_fresh_ids_rise_even_within_a_millisecond_and_when_the_clock_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = clock.now() + timedelta(days=1)
    ticks = iter([at, at, at, at - timedelta(seconds=5), at + timedelta(milliseconds=1), at])
    monkeypatch.setattr(clock, "now", lambda: next(ticks))
    made = [ids.new() for _ in range(6)]
    assert made == sorted(made)
    assert len(set(made)) == 6
    assert all(value.version == 7 for value in made)


def test_threads_make_no_id_twice() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [value for part in threads.map(lambda _: [ids.new() for _ in range(500)], range(8)) for value in part]
    assert len(set(made)) == 4000
