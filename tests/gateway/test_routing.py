"""Who is asked first, and who then."""

from collections import Counter
from decimal import Decimal
from typing import Any
from uuid import UUID

from gateway import routing
from gateway.channels import Board, ChannelFacts, RouteFacts
from gateway.routing import Seen

NOTHING = Seen(lambda _: None, lambda _: 0.0)


def channel(number: int, models: dict[str, str] | None = None, **told: Any) -> ChannelFacts:
    plain: dict[str, Any] = {
        "id": UUID(int=number), "name": f"c{number}", "kind": "openai", "base_url": "http://x", "key": "",
        "models": models or {"m": "up"}, "groups": frozenset(), "priority": 0, "weight": 1, "connect_seconds": 1,
        "first_byte_seconds": 1, "idle_seconds": 1, "total_seconds": 1, "concurrency_max": None,
        "has_responses": False, "has_stream_usage": True,
    }  # fmt: skip
    return ChannelFacts(**{**plain, **told})


def ordered(
    *channels: ChannelFacts, slug: str = "m", group: str = "", seed: str = "s", by: str = "weight",
    seen: Seen = NOTHING,
    sick: tuple[int, ...] = (), routes: dict[str, RouteFacts] | None = None,
) -> list[tuple[int, str]]:  # fmt: skip
    board = Board(channels, routes or {})
    found = routing.candidates(board, slug=slug, group=group)
    order = routing.order(found, by=by, seed=seed, is_healthy=lambda one: one.channel.id.int not in sick, seen=seen)
    return [(one.channel.id.int, one.upstream_id) for one in order]


def test_the_highest_priority_is_first_and_at_most_three_follow() -> None:
    channels = [channel(number, priority=number) for number in range(1, 7)]
    assert ordered(*channels) == [(6, "up"), (5, "up"), (4, "up"), (3, "up")]
    assert ordered(*channels, sick=(6, 4)) == [(5, "up"), (3, "up"), (2, "up"), (1, "up")]


def test_within_a_priority_weights_are_shares_and_a_seed_decides() -> None:
    channels = [channel(1, weight=3), channel(2, weight=1), channel(3, weight=0)]
    firsts = Counter(ordered(*channels, seed=str(number))[0][0] for number in range(2000))
    assert firsts[3] == 0
    assert 1400 < firsts[1] < 1600
    assert ordered(*channels, seed="7") == ordered(*reversed(channels), seed="7")
    assert ordered(*channels)[-1] == (3, "up")


def test_only_the_caller_s_groups_and_the_shared_one_are_led_there() -> None:
    channels = [channel(1, groups=frozenset({"gold"})), channel(2), channel(3, groups=frozenset({"iron"}))]
    assert {number for number, _ in ordered(*channels, group="gold")} == {1, 2}
    assert {number for number, _ in ordered(*channels, group="")} == {2}


def test_the_echo_never_stands_in_for_a_provider() -> None:
    echo = channel(1, {"*": "*"}, kind="echo", priority=9)
    assert ordered(echo, slug="anything") == [(1, "anything")]
    assert ordered(echo, channel(2)) == [(2, "up")]
    # Not even where the provider is known to be down.
    assert ordered(echo, channel(2), sick=(2,)) == []


def test_whoever_serves_any_model_is_asked_for_it_by_its_own_name() -> None:
    assert ordered(channel(1, {"*": "*", "m": "mapped"})) == [(1, "mapped")]
    assert ordered(channel(1, {"*": "*"})) == [(1, "m")]
    assert ordered(channel(1, {"other": "x"})) == []


def test_a_smart_route_chooses_by_price_by_latency_or_by_weight() -> None:
    channels = [channel(1, {"dear": "d"}, priority=5), channel(2, {"cheap": "c"}), channel(3, {"odd": "o"})]
    routes = {"smart": RouteFacts("price", ("dear", "cheap", "odd"))}
    prices = {"dear": Decimal(9), "cheap": Decimal(1)}
    seen = Seen(prices.get, lambda one: {1: 0.5, 2: 0.9, 3: 0.1}[one.channel.id.int])
    assert ordered(*channels, slug="smart", routes=routes, by="price", seen=seen) == [(2, "c"), (1, "d"), (3, "o")]
    assert ordered(*channels, slug="smart", routes=routes, by="latency", seen=seen) == [(3, "o"), (1, "d"), (2, "c")]
    assert ordered(*channels, slug="smart", routes=routes, by="weight", seen=seen)[0] == (1, "d")
    # Of itself nobody knows it, but who maps it on purpose.
    assert ordered(channel(1, {"*": "*"}), slug="smart", routes={"smart": RouteFacts("price", ("x",))}) == [(1, "x")]
    assert (2, "s") in ordered(*channels[:1], channel(2, {"smart": "s"}), slug="smart", routes=routes)


def test_a_strategy_is_the_route_s_and_else_by_weight() -> None:
    board = Board((), {"smart": RouteFacts("latency", ("m",))})
    assert (routing.strategy(board, "smart"), routing.strategy(board, "m")) == ("latency", "weight")


def test_what_is_listed_is_what_leads_somewhere() -> None:
    assert Board((), {}).ids("") is None
    board = Board((channel(1, {"a": "a"}), channel(2, {"b": "b"}, groups=frozenset({"gold"}))), {
        "smart": RouteFacts("price", ("b",)), "none": RouteFacts("price", ("z",))
    })  # fmt: skip
    assert board.ids("") == {"a"}
    assert board.ids("gold") == {"a", "b", "smart"}
    assert Board((channel(1, {"*": "*"}),), {}).ids("") is None
