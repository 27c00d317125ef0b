"""``verify`` beside a living system: it holds up nobody, waits for nobody, and raises no false alarm."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction

from billing import budgets, corrections, grants, holds, invariants, ledger, seals
from billing.budgets import Counted
from billing.grants import Conditions
from billing.invariants import EVERYTHING, Finding
from core import errors, ids
from metering import attribution
from metering.attribution import Attributed
from metering.verdicts import Status
from orgs.models import Organization
from tests.billing.corruption import tamper
from tests.billing.world import assert_sound, charge, organization, record, rows
from tests.books import Books
from tests.metering.world import MODEL, event
from tests.orgs import world

# Together they let every check of the run look at a state that others are changing.
ROUNDS_MIN = 12
ACTS = 40
SECONDS = 180


def test_checks_wait_for_no_writer_and_no_writer_waits_for_them(past: Books) -> None:
    stark = Organization.objects.get(slug="stark")
    with past.connect() as writer, invariants.snapshot(), writer.transaction():
        # Everything that a writer locks: the wallet's row, advisory locks, and rows that are not committed.
        writer.execute("SET LOCAL lock_timeout = '200ms'")
        writer.execute("SELECT 1 FROM wallet FOR NO KEY UPDATE")
        writer.execute("SELECT 1 FROM hold FOR NO KEY UPDATE")
        writer.execute("UPDATE wallet SET low_usd = 1")
        writer.execute("UPDATE hold SET max_output_tokens = 1 WHERE state = 'open'")
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '200ms'")
        findings = list(invariants.each(server=True))
        assert [finding for finding in findings if not finding.ok] == []
        writer.execute("UPDATE wallet SET low_usd = 2 WHERE organization_id = %s", (stark.pk,))
    assert rows("SELECT low_usd FROM wallet WHERE organization_id = %s", stark.pk) == [(2,)]


def test_a_snapshot_is_one_moment_of_all_tables(past: Books) -> None:
    wayne = Organization.objects.get(slug="wayne")
    with invariants.snapshot():
        before = [finding.seen for finding in invariants.each()]
        past.together([partial(charge, wayne, event(), event(status=429))])
        assert [finding.seen for finding in invariants.each()] == before
    assert [finding.seen for finding in invariants.check()] != before
    assert_sound()


class Traffic:
    """Everything that moves money, on a few organizations, by a seed."""

    def __init__(self) -> None:
        self.owners = [organization(f"org-{place}", usd="0.01") for place in range(3)]
        self.shared = world.organization("shared")
        self.person = world.member(self.shared, "ada@shared.example")
        key = world.personal_key(self.person.user).key
        self.key_id, self.personal_id = key.pk, key.organization_id
        with transaction.atomic():
            ledger.set_terms(self.shared.pk, ledger.Terms(mode="fallback"))
        for owner in (*self.owners, self.shared):
            for window in ("5h", "month"):
                budgets.set_ceiling(
                    organization_id=owner.pk, subject="organization", subject_id=owner.pk, window=window, unit="usd",
                    ceiling=Decimal(1000), by=world.BY,
                )  # fmt: skip

    def run(self, seed: int, over: threading.Event) -> None:
        """So many acts, whatever others do meanwhile."""
        chance = random.Random(seed)
        acts: list[Callable[[random.Random, int], None]] = [
            self.charge, self.charge, self.batch, self.give, self.hold, self.void, self.fall_back,
        ]  # fmt: skip
        try:
            for number in range(ACTS):
                chance.choice(acts)(chance, seed * ACTS + number)
        finally:
            over.set()

    def charge(self, chance: random.Random, number: int) -> None:
        """A batch of one organization, with what fails and what has no price."""
        told = [event(event_id=f"{number}-{place}") for place in range(chance.randint(1, 4))]
        charge(chance.choice(self.owners), *told, event(status=429), event(model="nobody-priced-this"))

    def batch(self, chance: random.Random, number: int) -> None:
        """A batch of all of them, each in another order."""
        owners = chance.sample(self.owners, k=len(self.owners))
        told = [event(event_id=f"all-{number}", organization=owner.slug) for owner in owners]
        record([item for item in attribution.attribute(told) if isinstance(item, Attributed)])

    def give(self, chance: random.Random, number: int) -> None:
        """Credit: with an end that is near, with a scope, or plain."""
        conditions = chance.choice(
            [
                Conditions(),
                Conditions(models=("gpt-4o",)),
                Conditions(expires_at=rows("SELECT clock_timestamp() + interval '1 second'")[0][0]),
            ]
        )
        # On a machine that stalls it may be over before it began.
        with suppress(IntegrityError), transaction.atomic():
            grants.give(
                organization_id=chance.choice(self.owners).pk, kind="promotional", amount_usd=Decimal("0.002"),
                reference=f"gift-{number}", actor="tests", reason="given", conditions=conditions,
            )  # fmt: skip
        grants.settle_due()

    def hold(self, chance: random.Random, number: int) -> None:
        """Money set aside, then captured, released or left."""
        owner = chance.choice(self.owners)
        try:
            with transaction.atomic():
                placed = holds.place(
                    holds.Asked(Counted(owner.pk, None, None, None, Decimal("0.0005"), 100), MODEL, 10, 600)
                ).hold
        except errors.ApiError:
            return
        end = chance.choice(("capture", "release", "leave"))
        if end == "capture":
            told = event(organization=owner.slug, authorization_id=ids.show("auth", placed.pk))
            record([item for item in attribution.attribute([told]) if isinstance(item, Attributed)])
        elif end == "release":
            with transaction.atomic():
                holds.release(organization_id=owner.pk, hold_id=placed.pk)

    def void(self, chance: random.Random, number: int) -> None:
        """A charge taken back, at once or twice."""
        owner = chance.choice(self.owners)
        (verdict, *_) = charge(owner, event(event_id=f"void-{number}"))
        assert verdict.status is Status.CREATED
        for _ in range(chance.randint(1, 2)):
            corrections.void(organization_id=owner.pk, event_id=f"void-{number}", reason="tests", by=world.BY)

    def fall_back(self, chance: random.Random, number: int) -> None:
        """An event that the caller's own wallet pays, for the organization's is empty."""
        told = event(organization=self.shared.slug, api_key_id=ids.show("key", self.key_id))
        record([item for item in attribution.attribute([told]) if isinstance(item, Attributed)])


@pytest.mark.one_database
def test_under_load_no_check_raises_a_false_alarm(books: Books) -> None:
    traffic = Traffic()
    with transaction.atomic():
        grants.promote(
            organization_id=traffic.personal_id, amount_usd=Decimal("0.005"), reference="saved", actor="tests",
            reason="saved",
        )  # fmt: skip
    yesterday = seals.due()
    assert yesterday is not None
    seals.seal(yesterday)
    ends = [threading.Event() for _ in range(3)]
    alarms: list[tuple[str, Finding]] = []
    rounds = {"everything": 0, "new": 0, "a day": 0}

    def watch() -> None:
        while not all(end.is_set() for end in ends) or min(rounds.values()) < ROUNDS_MIN // 3:
            for name, scope in (
                ("everything", EVERYTHING), ("new", seals.since_last()),
                ("a day", seals.of_day(rows("SELECT (now() AT TIME ZONE 'UTC')::date")[0][0])),
            ):  # fmt: skip
                rounds[name] += 1
                alarms.extend((name, finding) for finding in invariants.check(scope, server=True) if not finding.ok)

    calls: list[Callable[[], object]] = [watch, *(partial(traffic.run, seed, end) for seed, end in enumerate(ends))]
    books.together(calls, seconds=SECONDS)
    assert alarms == []
    assert sum(rounds.values()) >= ROUNDS_MIN
    kinds = {kind for (kind,) in rows("SELECT DISTINCT kind FROM transfer")}
    # Whether credit met a debt is chance; charges, credit and corrections are there in any order of the acts.
    assert kinds >= {"charge", "grant", "void"}
    assert_sound()
    # The same watch would have seen something.
    tamper(books, "UPDATE wallet SET spent_usd = spent_usd + 1 WHERE seq > 1 RETURNING 1")
    assert [one.name for one in invariants.check(seals.since_last()) if not one.ok] == ["V01 wallet = transfers"]
