"""The horizon of claims: what is forgotten can not happen again, and only what is far away is forgotten."""

import io
import json
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection
from django.test import override_settings
from psycopg.errors import IntegrityConstraintViolation

from billing import corrections
from core import clock
from core.errors import NotFound
from gateway import events as door
from metering import horizon, tasks, usage
from metering.models import ClaimHorizon, UsageClaim
from orgs import keys, principals
from orgs.principals import Principal
from tests.billing.corruption import assert_only, broken, corrupt
from tests.billing.world import assert_sound, charge, counts, organization, rows, statuses
from tests.books import Books
from tests.metering.world import event, told
from tests.orgs import world
from tests.proofs import proves

KEEP = 400


def trim(runs: int = 1) -> int:
    """Claims forgotten by a run; by default one that goes all the way round."""
    return horizon.trim(until=clock.now() + timedelta(minutes=5), runs=runs).forgotten


def announced(days: float = KEEP) -> datetime:
    """Let the horizon have been announced a while ago, this many days back, or where it stands; where that is."""
    at = max(clock.now() - timedelta(days=days), ClaimHorizon.objects.get().forgotten_before)
    ClaimHorizon.objects.update(forgotten_before=at, announced_at=clock.now() - timedelta(hours=1))
    horizon._horizon.forget()
    return at


def event_ids() -> set[str]:
    return set(UsageClaim.objects.values_list("event_id", flat=True))


def days_ago(days: float, **fields: Any) -> Any:
    """An event that happened so long ago, named for it."""
    return event(event_id=f"{days}", occurred_at=clock.now() - timedelta(days=days), **fields)


def test_claims_go_when_they_are_beyond_the_horizon_and_not_before(books: Books) -> None:
    acme = organization("acme")
    charge(acme, days_ago(500), days_ago(401), days_ago(399), days_ago(1), days_ago(500.5, status=429))
    announced()
    assert trim() == 3
    assert event_ids() == {"399", "1"}
    assert counts()["usage_record"] == 4
    assert counts()["request_log"] == 1
    assert_sound()
    # The next one is announced now, and goes when everybody knows.
    row = ClaimHorizon.objects.get()
    assert timedelta(0) <= clock.now() - timedelta(days=KEEP) - row.forgotten_before < timedelta(minutes=5)


def test_nothing_goes_before_its_horizon_was_known_for_a_while(books: Books) -> None:
    acme = organization("acme")
    charge(acme, days_ago(500))
    assert trim() == 0, "the first run announces"
    first = ClaimHorizon.objects.get()
    assert clock.now() - first.announced_at < timedelta(minutes=5)
    assert first.forgotten_before > clock.now() - timedelta(days=KEEP + 1)
    # However often it runs meanwhile, the wait does not begin again.
    assert trim() == 0
    assert ClaimHorizon.objects.get().announced_at == first.announced_at
    assert event_ids() == {"500"}
    ClaimHorizon.objects.update(announced_at=clock.now() - horizon.KNOWN_AFTER)
    assert trim() == 1


def test_what_waits_in_quarantine_keeps_its_claim_until_it_is_settled(books: Books) -> None:
    acme = organization("acme")
    (waits,) = charge(acme, days_ago(500, model="nobody-priced-this"))
    assert statuses([waits]) == ["quarantined"]
    announced()
    assert trim() == 0
    assert_sound()
    corrections.void(organization_id=acme.pk, event_id="500", reason="gone", by=world.BY)
    announced()
    assert trim() == 1
    assert_sound()


def test_a_claim_that_somebody_holds_is_left_for_the_next_run(books: Books) -> None:
    acme = organization("acme")
    charge(acme, days_ago(500), days_ago(501))
    announced()
    with books.connect() as holder, holder.transaction():
        holder.execute("SELECT 1 FROM usage_claim WHERE event_id = '500' FOR NO KEY UPDATE")
        assert trim() == 1
        assert event_ids() == {"500"}
    announced()
    assert trim() == 1


def test_trimming_takes_a_few_pages_a_transaction(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = organization("acme")
    charge(acme, *(event(event_id=f"{place}" + "x" * 100, occurred_at=clock.now() - timedelta(days=500))
        for place in range(900)))  # fmt: skip
    monkeypatch.setattr(usage, "CLAIM_PAGES", 4)
    announced()
    steps: list[int] = []
    forget = usage.forget_claims

    def count(*args: Any, **options: Any) -> Any:
        assert not connection.in_atomic_block
        done = forget(*args, **options)
        steps.append(done)
        return done

    monkeypatch.setattr(usage, "forget_claims", count)
    assert trim() == 900
    # A page of 8 KiB holds fewer than forty claims of this size.
    assert max(steps) <= 160
    assert sum(steps) == 900


def fill(books: Books, days: list[int], *, each: int = 60) -> None:
    """Claims of one organization in the order in which they happened, ``each`` a day."""
    owner = organization("acme").pk
    with books.connect() as raw:
        raw.execute(
            "INSERT INTO usage_claim SELECT %s, d || '-' || i || repeat('x', 100), 'logged', gen_random_uuid(), 0,"
            " '\\x00', now() - make_interval(days => d) FROM unnest(%s::int[]) WITH ORDINALITY AS day (d, place),"
            " generate_series(1, %s) i ORDER BY place, i",
            [owner, days, each],
        )


def test_runs_go_on_from_each_other_and_come_round(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wherever they lie: a month of claims that are due stands among younger ones.
    fill(books, [*range(300, 100, -1), *range(500, 450, -1), *range(100, 0, -1)], each=20)
    (part,) = rows("SELECT DISTINCT right(tableoid::regclass::text, 2)::int FROM usage_claim")[0]
    pages = usage.claim_pages(part)
    monkeypatch.setattr(usage, "CLAIM_PAGES", 4)
    looked: list[tuple[int, int]] = []
    forget = usage.forget_claims

    def watch(place: int, *, pages: tuple[int, int], before: datetime) -> int:
        looked.extend([pages] if place == part else [])
        return forget(place, pages=pages, before=before)

    monkeypatch.setattr(usage, "forget_claims", watch)
    went = []
    for _ in range(8):
        announced()
        went.append(trim(runs=8))
        assert looked[-1][1] - looked[0][0] <= pages
    assert sum(went) == 50 * 20
    # Between two fifths and three fifths of the way.
    assert went[0] == went[-1] == 0
    seen = sorted({page for first, end in looked for page in range(first, end)})
    assert seen == list(range(pages))
    assert sum(end - first for first, end in looked) <= pages + 8
    assert len(event_ids()) == 300 * 20


def test_a_run_that_is_out_of_time_leaves_the_rest_to_the_next(books: Books) -> None:
    charge(organization("acme"), days_ago(500))
    announced()
    assert horizon.trim(until=clock.now() - timedelta(seconds=1), runs=1).forgotten == 0
    announced()
    assert trim() == 1


def test_pages_that_are_gone_are_begun_anew(books: Books) -> None:
    charge(organization("acme"), days_ago(500))
    rows("UPDATE claim_horizon SET places = array_fill(1000000::bigint, ARRAY[16])")
    announced()
    assert trim() == 1
    assert ClaimHorizon.objects.get().places == [0] * 16


def gateway() -> Principal:
    """A gateway's key."""
    issued = world.service_key()
    return principals.resolve(key=keys.find([issued.key.pk])[issued.key.pk], header=None)


def post(reporter: Principal, days: float, name: str) -> tuple[int, str | None]:
    """Status of the answer to an event that happened so long ago, and the field that was refused."""
    at = clock.to_unix(clock.now()) - int(days * 86_400)
    raw = json.dumps(told(event_id=name, organization="acme", occurred_at=at)).encode()
    answer = door.receive(raw, media_type="application/json", reporter=reporter)
    return answer.status, answer.error.param if answer.error else None


@proves("I08", guard="nothing_forgotten_is_accepted")
def test_what_was_forgotten_is_refused_however_wide_the_window_is_made(books: Books) -> None:
    organization("acme", usd="1")
    charge(organization("other"), days_ago(40))
    reporter = gateway()
    assert post(reporter, 34, "within")[0] == 201
    with override_settings(CLAIM_KEEP_DAYS=37):
        assert trim() == 0
        ClaimHorizon.objects.update(announced_at=clock.now() - horizon.KNOWN_AFTER)
        assert trim() == 1
    with override_settings(EVENT_AGE_MAX_DAYS=365):
        assert post(reporter, 38, "before") == (422, "occurred_at")
        assert post(reporter, 36, "after")[0] == 201
        assert counts()["usage_record"] == 3
    assert_sound()


def test_the_horizon_is_not_asked_for_with_every_request(books: Books, django_assert_num_queries: Any) -> None:
    now = clock.now()
    assert horizon.age_max(now) == timedelta(days=35)
    with django_assert_num_queries(0):
        for _ in range(20):
            assert horizon.age_max(now) == timedelta(days=35)


def test_other_processes_learn_of_a_new_horizon_like_of_any_change(books: Books) -> None:
    now = clock.now()
    with override_settings(EVENT_AGE_MAX_DAYS=365, CACHE_POLL_MS=0):
        assert horizon.age_max(now) == timedelta(days=365)

        def elsewhere() -> None:
            with override_settings(EVENT_AGE_MAX_DAYS=35, CLAIM_KEEP_DAYS=37):
                assert trim() == 0

        elsewhere()
        assert timedelta(days=36) < horizon.age_max(now) < timedelta(days=38)
        assert horizon.age_max(now) < horizon.KNOWN_AFTER + timedelta(days=37)


def test_a_void_of_what_was_forgotten_finds_nothing_and_changes_nothing(books: Books) -> None:
    acme = organization("acme")
    charge(acme, days_ago(500))
    announced()
    assert trim() == 1
    before = counts()
    with pytest.raises(NotFound):
        corrections.void(organization_id=acme.pk, event_id="500", reason="late", by=world.BY)
    assert counts() == before


def test_the_owner_alone_may_delete_claims_and_only_what_is_forgotten(books: Books) -> None:
    acme = organization("acme")
    charge(acme, days_ago(500), days_ago(399), event(event_id="new"))
    at = announced()
    with books.connect() as owner:
        for name in ("399", "new"):
            with pytest.raises(IntegrityConstraintViolation, match="is not forgotten yet"):
                owner.execute("DELETE FROM usage_claim WHERE event_id = %s", [name])
        owner.execute("DELETE FROM usage_claim WHERE event_id = '500'")
        for attempt in ("DELETE FROM claim_horizon", "TRUNCATE claim_horizon"):
            with pytest.raises(IntegrityConstraintViolation, match="append-only"):
                owner.execute(attempt)
        with pytest.raises(IntegrityConstraintViolation, match="append-only"):
            owner.execute("UPDATE claim_horizon SET forgotten_before = %s", [at - timedelta(microseconds=1)])
        with pytest.raises(psycopg.errors.CheckViolation):
            owner.execute("INSERT INTO claim_horizon SELECT 2, now(), now(), '{}'")


@proves("V10", guard="claims_are_held_against_records")
def test_a_claim_in_front_of_the_horizon_is_missed_and_one_behind_it_is_not(books: Books) -> None:
    charge(organization("acme"), days_ago(500), days_ago(399), days_ago(500.5, status=429), days_ago(398, status=429))
    announced()
    corrupt(books, "DELETE FROM usage_claim WHERE event_id IN ('500', '500.5') RETURNING event_id")
    assert_sound()
    names = corrupt(books, "DELETE FROM usage_claim WHERE event_id IN ('399', '398') RETURNING record_id")
    assert_only("V10", names)


def test_a_claim_behind_the_horizon_that_stands_for_another_record_is_seen(books: Books) -> None:
    charge(organization("acme"), days_ago(500))
    announced()
    corrupt(books, "UPDATE usage_claim SET cost_usd = cost_usd + 1 RETURNING 1")
    assert broken().keys() == {"V10"}


def test_the_job_and_the_command_trim_and_say_so(books: Books) -> None:
    charge(organization("acme"), days_ago(500), days_ago(1))
    announced()
    assert tasks.trim_claims().startswith("forgot 1; what happened before 20")
    out = io.StringIO()
    announced(0)
    ClaimHorizon.objects.update(announced_at=clock.now())
    call_command("trim_claims", stdout=out)
    assert out.getvalue().startswith("Forgot 0 claims. What happened before 20")


def test_a_role_that_owns_nothing_leaves_it_to_the_owner(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    role = f"{books.name}_runtime"
    charge(organization("acme"), days_ago(500))
    announced()
    rows(f"CREATE ROLE {role}")
    try:
        call_command("grant_runtime_role", role, stdout=io.StringIO())
        rows(f"SET ROLE {role}")
        assert tasks.trim_claims() == "left to the owner of the tables: manage.py trim_claims"
        with pytest.raises(CommandError, match="trimmed by the owner of the tables"):
            call_command("trim_claims")
        with override_settings(USAGE_KEEP_MONTHS=24):
            assert tasks.archive_months() == "left to the owner of the tables: manage.py archive_months"
        with pytest.raises(Error) as refusal:
            rows("DELETE FROM usage_claim")
        assert getattr(refusal.value.__cause__, "sqlstate", None) == "42501"
        rows("RESET ROLE")
        assert event_ids() == {"500"}
    finally:
        rows("RESET ROLE")
        rows(f"DROP OWNED BY {role}")
        rows(f"DROP ROLE {role}")
