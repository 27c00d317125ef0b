"""Limits of keys and organizations: exact on one machine, whole or not at all, and even among keys."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.errors import RateLimited
from gateway import limits, slots
from gateway.buckets import MINUTE
from gateway.limits import Permit, Subject
from gateway.slots import Table
from orgs import keys, principals, ratelimits
from orgs.keys import IssuedKey
from orgs.principals import Principal
from orgs.ratelimits import Limits
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.gateway import callers
from tests.gateway.callers import House
from tests.nursery import Nursery
from tests.orgs import world
from tests.proofs import proves

SECONDS = 60


class Clock:
    """Microseconds that pass when they are told to."""

    def __init__(self) -> None:
        self.micros = 10**12

    def __call__(self) -> int:
        return self.micros

    def pass_by(self, seconds: int) -> None:
        """Some time later."""
        self.micros += seconds * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of limits."""
    made = Clock()
    monkeypatch.setattr(slots, "now", made)
    return made


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """The table of this process."""
    made = Table(tmp_path / "limits")
    monkeypatch.setattr(limits, "table", lambda: made)
    monkeypatch.setattr(limits, "_drawn", limits.Drawn())
    yield made
    made.close()


def who(key: IssuedKey) -> Principal:
    return principals.resolve(key=keys.verify(key.secret), header=None)


def refused(principal: Principal, tokens: int = 1) -> RateLimited:
    with pytest.raises(RateLimited) as error:
        limits.enter(principal, tokens=tokens)
    return error.value


def put(subject: Any, **told: int) -> None:
    ratelimits.put(subject=subject, limits=Limits(**told), by=world.BY)


def test_without_limits_everything_is_let_in_and_nothing_is_told(db: None, table: Table, clock: Clock) -> None:
    principal = who(world.organization_key(world.organization()))
    for _ in range(100):
        permit = limits.enter(principal, tokens=10**9)
    assert permit.headers() == {}
    limits.leave(permit)


def test_the_headers_of_the_contract(db: None, table: Table, clock: Clock) -> None:
    acme = world.organization()
    put(acme, requests=600, tokens=200_000)
    permit = limits.enter(who(world.organization_key(acme)), tokens=1_200)
    assert permit.headers() == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "198800",
        "x-ratelimit-reset-tokens": "360ms",
    }


def test_as_many_requests_as_the_limit_says_and_one_more_when_there_is_room(
    db: None, table: Table, clock: Clock
) -> None:
    acme = world.organization()
    key = world.organization_key(acme)
    put(key.key, requests=6)
    principal = who(key)
    for _ in range(6):
        limits.leave(limits.enter(principal, tokens=1))
    error = refused(principal)
    assert (error.status, error.code, str(error)) == (
        429, "rate_limit_exceeded", "The limit of requests a minute is reached; retry after 10 s.",
    )  # fmt: skip
    assert error.headers == {
        "Retry-After": "10",
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    clock.pass_by(9)
    refused(principal)
    clock.pass_by(1)
    limits.enter(principal, tokens=1)
    refused(principal)


def test_tokens_that_were_not_used_come_back_and_what_was_used_beyond_is_owed(
    db: None, table: Table, clock: Clock
) -> None:
    acme = world.organization()
    put(acme, tokens=1000)
    principal = who(world.organization_key(acme))
    permit = limits.enter(principal, tokens=900)
    assert refused(principal, 200).headers["Retry-After"] == "6"
    limits.leave(permit, tokens=100)
    # Told twice it counts once.
    limits.leave(permit, tokens=0)
    other = limits.enter(principal, tokens=900)
    assert other.headers()["x-ratelimit-remaining-tokens"] == "0"
    limits.leave(other, tokens=1_400)
    assert refused(principal, 1).headers["Retry-After"] == "31"
    clock.pass_by(31)
    limits.enter(principal, tokens=1)


def test_a_request_larger_than_a_bucket_is_let_in_when_it_is_full(db: None, table: Table, clock: Clock) -> None:
    acme = world.organization()
    put(acme, tokens=100)
    principal = who(world.organization_key(acme))
    limits.enter(principal, tokens=250)
    assert refused(principal, 1).headers["Retry-After"] == "91"
    clock.pass_by(149)
    refused(principal, 250)
    clock.pass_by(1)
    limits.enter(principal, tokens=250)


def test_calls_at_once_are_counted_until_they_end(db: None, table: Table, clock: Clock) -> None:
    acme = world.organization()
    put(acme, concurrency=2)
    principal = who(world.organization_key(acme))
    first, _ = limits.enter(principal, tokens=1), limits.enter(principal, tokens=1)
    assert str(refused(principal)) == "The limit of calls at once is reached; retry after 1 s."
    limits.leave(first)
    limits.leave(first)
    limits.enter(principal, tokens=1)
    refused(principal)


def test_a_key_and_its_organization_must_both_have_room_or_nothing_is_taken(
    db: None, table: Table, clock: Clock
) -> None:
    acme = world.organization()
    key = world.organization_key(acme)
    put(acme, requests=10, concurrency=5)
    put(key.key, requests=10, tokens=100)
    principal = who(key)
    limits.enter(principal, tokens=100)
    for _ in range(20):
        refused(principal, 100)
    # Of the organization's ten requests one was used.
    other = limits.enter(who(world.organization_key(acme)), tokens=1)
    assert other.headers()["x-ratelimit-remaining-requests"] == "8"
    # The headers tell of whichever has the least left.
    assert limits.enter(principal, tokens=0).headers()["x-ratelimit-remaining-requests"] == "7"


def test_the_organization_that_the_header_names_is_the_one_that_counts(db: None, table: Table, clock: Clock) -> None:
    acme = world.organization()
    member = world.member(acme, "ada@example.com")
    mine = keys.verify(world.personal_key(member.user).secret)
    put(acme, requests=1)
    limits.enter(principals.resolve(key=mine, header="acme-labs"), tokens=1)
    refused(principals.resolve(key=mine, header="acme-labs"))
    limits.enter(principals.resolve(key=mine, header=None), tokens=1)


def test_a_changed_limit_holds_at_once_and_a_new_one_begins_full(db: None, table: Table, clock: Clock) -> None:
    acme = world.organization()
    principal = who(world.organization_key(acme))
    put(acme, concurrency=100)
    for _ in range(50):
        limits.enter(principal, tokens=10**9)
    put(acme, requests=2, tokens=10)
    limits.enter(principal, tokens=10)
    refused(principal)
    put(acme)
    limits.enter(principal, tokens=10**9)


def test_several_machines_each_have_an_even_part(db: None, table: Table, clock: Clock, settings: Any) -> None:
    settings.LIMIT_MACHINES = 4
    acme = world.organization()
    put(acme, requests=10, concurrency=1)
    permits = []
    principal = who(world.organization_key(acme))
    for _ in range(2):
        permits.append(limits.enter(principal, tokens=1))
        limits.leave(permits[-1])
    assert permits[-1].headers()["x-ratelimit-limit-requests"] == "2"
    refused(principal)


@proves("A17", guard="each_key_has_its_part_of_a_limit")
def test_who_asks_all_the_time_cannot_keep_the_others_out(table: Table, clock: Clock) -> None:
    organization = Subject(b"o" * 16, Limits(requests=60), shared=True)
    greedy, modest = uuid4(), uuid4()
    let_in: dict[UUID, int] = {greedy: 0, modest: 0}
    asked = 0

    def ask(key: UUID) -> None:
        try:
            limits.admit(table, [organization], key=key, tokens=1)
        except RateLimited:
            return
        let_in[key] += 1

    for second in range(600):
        for _ in range(10):
            ask(greedy)
        if second % 5 == 0:
            asked += 1
            ask(modest)
        clock.pass_by(1)
    # Twelve a minute is less than half of sixty: always let in, but for the first minute's start, when nobody knew.
    assert let_in[modest] >= asked - 3
    # And nothing lies idle for its sake: ten minutes at sixty, and the bucket that was full at first but for its half.
    assert 600 <= sum(let_in.values()) <= 660


def test_one_key_alone_has_all_of_it(table: Table, clock: Clock) -> None:
    organization = Subject(b"o" * 16, Limits(requests=60), shared=True)
    key = uuid4()
    for _ in range(60):
        limits.admit(table, [organization], key=key, tokens=1)
    with pytest.raises(RateLimited):
        limits.admit(table, [organization], key=key, tokens=1)


def hammer(path: str, keeps_open: bool) -> dict[str, int]:
    """What a process does: ask as often as it can; how often it was let in, and from when to when."""
    table = Table(Path(path))
    subjects = [Subject(b"k" * 16, Limits(requests=300, concurrency=1000), shared=False)]
    permits: list[Permit] = []
    began = slots.now()
    for _ in range(1000):
        with contextlib.suppress(RateLimited):
            permits.append(limits.admit(table, subjects, key=UUID(int=1), tokens=1))
    ended = slots.now()
    if not keeps_open:
        for permit in permits:
            limits.settle(table, permit, tokens=None)
    return {"let_in": len(permits), "began": began, "ended": ended}


def test_processes_together_let_in_what_the_limit_says(books: Books, nursery: Nursery, tmp_path: Path) -> None:
    path = tmp_path / "limits"
    children = [
        nursery.start("tests.gateway.test_limits:hammer", path=str(path), keeps_open=each == 0) for each in range(3)
    ]
    told = [nursery.wait(child, seconds=SECONDS) for child in children]
    assert [ended.error for ended in told] == [""] * 3
    found = [ended.result for ended in told]
    total = sum(each["let_in"] for each in found)
    passed = max(each["ended"] for each in found) - min(each["began"] for each in found)
    # A full bucket, and what it filled with meanwhile; not one more.
    assert 300 <= total <= 300 + passed * 300 // MINUTE + 1
    # The first one ended with its calls open.
    table = Table(path)
    with table.locked():
        place = table.find(b"k" * 16)
        table.forget_dead(place)
        assert table.open_calls(place) == 0
    table.close()


# Of calls through the data plane.


@pytest.fixture
def acme(books: Books, table: Table) -> Iterator[House]:
    """An organization whose calls go to a fake provider; what it uses is 1,000 tokens in and 200 out."""
    with Upstream() as fake, callers.gateway():
        callers.channel(fake)
        fake.then(Act())
        yield callers.house()


def test_a_call_takes_room_and_tells_what_is_left_with_what_it_used(acme: House) -> None:
    put(acme.organization, requests=2, tokens=200_000, concurrency=1)
    heard = callers.ask(acme)
    assert heard.status == 200
    limits_told = {name: value for name, value in heard.headers.items() if name.startswith("x-ratelimit")}
    assert limits_told == {
        "x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s", "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "198800", "x-ratelimit-reset-tokens": "360ms",
    }  # fmt: skip
    streamed = callers.stream(acme)
    assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
    refused = callers.ask(acme)
    assert refused.code == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["deepailab-organization"] == "acme-labs"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    # Two calls were made, and two were charged.
    assert len([each for each in acme.records if each.endpoint == "/v1/chat/completions"]) == 2


def test_what_is_refused_later_gives_its_room_back(acme: House) -> None:
    put(acme.organization, tokens=1_000_000, concurrency=1)
    dear = {**callers.HELLO, "model": "gpt-4o", "max_tokens": 10_000_000, "n": 128}
    for _ in range(3):
        assert callers.ask(acme, dear).status == 402
    assert callers.ask(acme).status == 200


def test_the_room_of_a_call_at_once_is_free_again_when_it_has_failed_or_its_client_has_gone(acme: House) -> None:
    put(acme.organization, concurrency=1)
    for _ in range(3):
        callers.stream(acme, leave_after=1)
        callers.settled()
    assert callers.ask(acme, {**callers.HELLO, "model": "no-such-model"}).status == 400
    assert callers.ask(acme).status == 200
