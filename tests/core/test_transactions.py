"""Conflicts that pass and violations that are expected: no caller's business, and nothing else is spoiled by them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import Error, OperationalError, transaction
from django.test import Client

from core import errors, transactions
from orgs import organizations
from orgs.models import Organization, User
from tests.billing import acts, world
from tests.books import Books
from tests.interleave import Pause, play
from tests.metering.world import COST, event, told
from tests.orgs import world as people
from tests.proofs import proves

USD = Decimal(COST)
# PostgreSQL, appendix A.
CODES = {"serialization failure": "40001", "deadlock": "40P01", "lock not available": "55P03"}


class Refusals:
    """The database refuses usage records: so many times, with such a code. Tries count though they are rolled back."""

    def __init__(self) -> None:
        world.rows("CREATE SEQUENCE tried")
        world.rows("CREATE TABLE refusing (times int, code text)")
        world.rows("INSERT INTO refusing VALUES (0, '40001')")
        world.rows(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
            " IF nextval('tried') <= (SELECT times FROM refusing) THEN"
            "   RAISE EXCEPTION 'deliberate' USING ERRCODE = (SELECT code FROM refusing);"
            " END IF; RETURN NULL; END$$"
        )
        world.rows("CREATE TRIGGER refuse BEFORE INSERT ON usage_record FOR EACH STATEMENT EXECUTE FUNCTION refuse()")

    def begin(self, times: int, code: str) -> None:
        """From now on refuse so many times."""
        world.rows("UPDATE refusing SET times = %s, code = %s", times, code)
        world.rows("ALTER SEQUENCE tried RESTART")

    def tried(self) -> int:
        """How often it was tried since."""
        last, called = world.rows("SELECT last_value, is_called FROM tried")[0]
        return int(last) if called else 0


@pytest.fixture
def refusals(books: Books, monkeypatch: pytest.MonkeyPatch) -> Refusals:
    # The pauses themselves are nobody's promise.
    monkeypatch.setattr("core.transactions.time", SimpleNamespace(sleep=lambda seconds: None))
    return Refusals()


def charging(slug: str) -> Callable[[], object]:
    return lambda: acts.charge_one(slug, "one")


def voiding(slug: str) -> Callable[[], object]:
    acts.charge_one(slug, "one")
    return lambda: acts.void(slug, "one")


def releasing(slug: str) -> Callable[[], object]:
    owner = Organization.objects.get(slug=slug)
    world.charge(owner, event(model=f"new-{slug}"))
    acts.publish(f"new-{slug}")
    return acts.release


def rerating(slug: str) -> Callable[[], object]:
    acts.charge_one(slug, "one")
    act = acts.plan(slug)
    return lambda: acts.rerate(act)


# What each verb answers, and what the organization has spent then.
VERBS: dict[str, tuple[Callable[[str], Callable[[], object]], object, Decimal]] = {
    "charge": (charging, "created", USD),
    "void": (voiding, "-0.000362000000", Decimal(0)),
    "release": (releasing, 1, USD),
    "rerate": (rerating, "0.000362000000", 2 * USD),
}


@proves("D06", guard="conflicts_are_tried_again")
@pytest.mark.parametrize("verb", VERBS)
def test_a_conflict_that_passes_after_two_tries_reaches_no_caller(refusals: Refusals, verb: str) -> None:
    prepare, answer, spent = VERBS[verb]
    for name, code in CODES.items():
        slug = f"{verb}-{code.lower()}"
        owner = world.organization(slug, usd="1")
        act = prepare(slug)
        refusals.begin(2, code)
        assert act() == answer, name
        assert refusals.tried() == 3, name
        refusals.begin(0, code)
        assert world.standing(owner).spent == spent
    world.assert_sound()


@pytest.mark.parametrize("code", CODES.values(), ids=list(CODES))
def test_a_conflict_that_does_not_pass_is_put_off_after_three_tries(refusals: Refusals, code: str) -> None:
    acme = world.organization("acme", usd="1")
    refusals.begin(99, code)
    assert acts.charge_one("acme", "one") == "failed"
    assert refusals.tried() == 3
    assert world.standing(acme).spent == 0
    refusals.begin(0, code)
    assert acts.charge_one("acme", "one") == "created"


@proves("D06", guard="passing_failures_are_put_off")
@pytest.mark.parametrize("code", CODES.values(), ids=list(CODES))
def test_who_asks_over_http_is_told_when_to_come_back(refusals: Refusals, code: str) -> None:
    acme = world.organization("acme", usd="1")
    gateway = Client(
        headers={"Authorization": f"Bearer {people.service_key().secret}"}, raise_request_exception=False
    )  # fmt: skip

    def post(path: str, body: dict[str, Any]) -> Any:
        return gateway.post(path, body, content_type="application/json")

    one = told(event_id="one", organization="acme")
    refusals.begin(99, code)
    answer = post("/v1/events", one)
    assert (answer.status_code, answer["Retry-After"], answer.json()["status"]) == (503, "1", "failed")
    refusals.begin(0, code)
    assert post("/v1/events", one).status_code == 201
    refusals.begin(99, code)
    void = {"reason": "a test", "organization": "acme"}
    answer = post("/v1/events/one/void", void)
    assert (answer.status_code, answer.get("Retry-After")) == (503, "1")
    assert answer.json()["error"]["code"] == "unavailable"
    assert refusals.tried() == 3
    refusals.begin(0, code)
    assert post("/v1/events/one/void", void).status_code == 201
    assert world.standing(acme)[:3] == (Decimal(1), Decimal(0), Decimal(0))
    world.assert_sound()


def test_another_error_is_not_tried_again(refusals: Refusals) -> None:
    world.organization("acme", usd="1")
    refusals.begin(99, "22012")
    assert acts.charge_one("acme", "one") == "failed"
    assert refusals.tried() == 1


def test_the_pauses_grow_out_of_chance_and_the_last_error_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("core.transactions.time", SimpleNamespace(sleep=pauses.append))
    tries: list[Error] = []

    class Conflict(Exception):
        sqlstate = "40001"

    def verb() -> None:
        tries.append(OperationalError(f"try {len(tries) + 1}"))
        raise tries[-1] from Conflict()

    with pytest.raises(OperationalError, match="try 3"):
        transactions.retry(verb)
    assert len(tries) == transactions.ATTEMPTS_MAX == 3
    assert len(pauses) == 2
    assert all(0.02 <= pause <= 0.2 for pause in pauses)
    with pytest.raises(OperationalError, match="try 4"):
        transactions.retry(verb, passing=frozenset({"40P01"}))


def test_what_succeeds_is_done_once(books: Books) -> None:
    done: list[int] = []
    assert transactions.retry(lambda: done.append(1) or len(done)) == 1  # type: ignore[func-returns-value]


def test_a_verb_that_is_tried_again_starts_from_nothing(books: Books) -> None:
    """The whole transaction is repeated, not its last statement."""
    world.rows("CREATE TABLE noted (place int)")
    tries: list[int] = []

    def verb() -> None:
        with transaction.atomic(durable=True):
            tries.append(1)
            world.rows("INSERT INTO noted VALUES (%s)", len(tries))
            if len(tries) < 3:
                world.rows("DO $$BEGIN RAISE EXCEPTION 'deliberate' USING ERRCODE = '40P01'; END$$")

    transactions.retry(verb)
    assert world.rows("SELECT place FROM noted") == [(3,)]


# Violations that are expected (D12)


@contextmanager
def spoiled() -> Iterator[list[str]]:
    """Statements that failed only because an earlier one of their transaction had (25P02), in any thread."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("execute", "copy"):
            send = getattr(psycopg.Cursor, name)

            def watched(self: Any, query: Any, *args: Any, send: Any = send, **options: Any) -> Any:
                try:
                    return send(self, query, *args, **options)
                except psycopg.errors.InFailedSqlTransaction:
                    found.append(str(query))
                    raise

            patch.setattr(psycopg.Cursor, name, watched)
        yield found


@proves("D12", guard="expected_violations_spoil_nothing")
def test_an_event_id_that_is_taken_spoils_nothing_for_the_others_of_its_batch(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    known, new = event(event_id="known"), event(event_id="new")
    world.charge(acme, known)
    with spoiled() as statements:
        told = world.statuses(world.charge(acme, known, new, event(event_id="known", output_tokens=1)))
    assert told == ["duplicate", "created", "conflict"]
    assert statements == []
    assert world.standing(acme).spent == 2 * USD
    world.assert_sound()


def test_a_slug_that_is_taken_spoils_nothing_of_the_transaction_that_asked_for_it(books: Books) -> None:
    owner = people.person("ada@example.com")
    people.organization("acme", owner=owner)
    with spoiled() as statements, transaction.atomic():
        with pytest.raises(errors.Conflict, match="taken"):
            organizations.create(slug="acme", owner=owner, by=people.BY)
        made = organizations.create(slug="umbrella", owner=owner, by=people.BY)
    assert statements == []
    assert Organization.objects.get(slug="umbrella") == made


@proves("D12", guard="expected_violations_spoil_nothing")
def test_in_no_order_do_two_who_make_the_same_person_hurt_each_other(books: Books) -> None:
    made: list[str] = []

    def fresh() -> None:
        made.append(f"ada-{len(made)}@example.com")

    def ensure(pause: Pause) -> object:
        with transaction.atomic():
            user = people.person(made[-1])
            pause()
        return user.pk

    def outcome() -> tuple[int, int]:
        user = User.objects.get(email=made[-1])
        return User.objects.filter(email=made[-1]).count(), Organization.objects.filter(personal_of=user).count()

    with spoiled() as statements:
        found = play({"a": ensure, "b": ensure}, fresh=fresh, outcome=outcome)
    assert [str(one) for one in found if one.errors] == []
    assert statements == []
    assert {one.outcome for one in found} == {(1, 1)}
    assert {len(set(one.results.values())) for one in found} == {1}
    # The race took place: one waited for the other's row.
    assert sum(bool(one.blocked) for one in found) == 4
