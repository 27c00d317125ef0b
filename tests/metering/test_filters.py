"""The filters of ``GET /v1/usage`` (contract 8)."""

from datetime import UTC, datetime

import pytest

from core import ids
from metering import filters
from metering.filters import Filters
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import Caller, House
from tests.metering.test_views import at, listed, refusal, shown
from tests.orgs import world


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with six records."""
    return neighbours.house("acme-labs")


@pytest.fixture
def newcomer(db: None) -> Caller:
    """A key of an organization that has nothing yet."""
    return Caller("newcomer", world.organization_key(world.organization("empty")).secret)


@pytest.fixture
def caller(acme: House) -> Caller:
    """The organization's own key."""
    return acme.callers["organization"]


def test_filters_are_read_without_a_database() -> None:
    key = ids.new()
    assert filters.read({}) == filters.read({"model": [""], "start_time": [""], "colour": ["red"]}) == Filters()
    assert filters.read(
        {
            "model": ["gpt-4o", " deepseek-chat "], "source": ["dev_tools"], "api_key_id": [ids.show("key", key)],
            "start_time": ["0"], "end_time": ["1749988800"], "metadata[team]": ["a", "b"], "metadata[]": ["c"],
            "metadata": ["x"], "metadata[open": ["x"],
        }
    ) == Filters(
        "deepseek-chat", "dev_tools", key, datetime(1970, 1, 1, tzinfo=UTC), datetime(2025, 6, 15, 12, tzinfo=UTC),
        {"team": "b", "": "c"},
    )  # fmt: skip
    for nowhere in ({"metadata[a\x00]": ["b"]}, {"metadata[a]": ["\x00"]}):
        assert filters.read(nowhere).is_empty
    assert not filters.read({"metadata[a]": ["b"]}).is_empty


def test_filters_take_exact_values(acme: House, caller: Caller) -> None:
    neighbours.report(acme, key="owner", count=1, model="gpt-4o", source="dev_tools", metadata={"team": "a", "x": "1"})
    neighbours.report(acme, key="owner", count=1, source="product_call", metadata={"team": "b"})
    *_, tools, product = acme.records
    plain = shown(*reversed(acme.records))
    assert listed(caller, model="gpt-4o") == shown(tools)
    assert listed(caller, model="GPT-4o") == listed(caller, model="gpt") == []
    assert listed(caller, source="dev_tools") == shown(tools)
    assert listed(caller, source="product_call") == shown(product)
    assert listed(caller, source="api_key") == plain[2:]
    mine = ids.show("key", acme.keys["organization"].key.pk)
    of_key = [each for each in acme.records if each.api_key_id == acme.keys["organization"].key.pk]
    assert listed(caller, api_key_id=mine) == shown(*reversed(of_key))
    assert listed(caller, api_key_id=mine, source="dev_tools") == []
    assert listed(caller, **{"metadata[team]": "a"}) == shown(tools)
    assert listed(caller, **{"metadata[team]": "a", "metadata[x]": "1"}) == shown(tools)
    assert listed(caller, **{"metadata[team]": "a", "metadata[x]": "2"}) == []
    assert listed(caller, **{"metadata[team]": ""}) == []
    assert listed(caller, **{"metadata[\x00]": "a"}) == listed(caller, **{"metadata[team]": "\x00"}) == []
    # Empty is absent, unknown parameters are ignored.
    assert listed(caller, model="", source="", api_key_id="", start_time="", end_time="", order="", after="") == plain
    assert listed(caller, colour="red", **{"metadata": "x", "metadata[team": "a"}) == plain


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"source": "cli"}, (422, "value_out_of_range", "source")),
        ({"order": "up"}, (422, "value_out_of_range", "order")),
        ({"order": "DESC"}, (422, "value_out_of_range", "order")),
        ({"api_key_id": "17"}, (400, "invalid_type", "api_key_id")),
        ({"api_key_id": "usage_01K6Z7"}, (400, "invalid_type", "api_key_id")),
        ({"start_time": "yesterday"}, (400, "invalid_type", "start_time")),
        ({"start_time": "1.5"}, (400, "invalid_type", "start_time")),
        ({"start_time": "-1"}, (422, "value_out_of_range", "start_time")),
        ({"end_time": "253402300800"}, (422, "value_out_of_range", "end_time")),
        ({"end_time": "9" * 30}, (400, "invalid_type", "end_time")),
        ({"model": "a\x00b"}, (422, "value_out_of_range", "model")),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_a_filter_that_cannot_be_is_refused_by_its_name(
    newcomer: Caller, query: dict[str, str], expected: tuple[int, str, str], accept: str
) -> None:
    assert refusal(newcomer.get("/v1/usage", accept=accept, **query)) == expected


def test_times_are_half_open_on_created_at(acme: House, caller: Caller) -> None:
    # Ahead of now, where no other record lies.
    first, second, third = (at(acme.records[0], 3600 + 10 * step) for step in range(3))
    start, end = (int(each.recorded_at.timestamp()) for each in (first, third))
    assert listed(caller, start_time=start) == shown(third, second, first)
    assert listed(caller, start_time=start + 1) == shown(third, second)
    assert listed(caller, start_time=start, end_time=end) == shown(second, first)
    assert listed(caller, start_time=start, end_time=end + 1) == shown(third, second, first)
    assert listed(caller, start_time=end, end_time=end) == []
    assert listed(caller, start_time=end, end_time=start) == []
    assert listed(caller, start_time=0, end_time=253402300799)[:1] == shown(third)
