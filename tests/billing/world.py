"""Organizations with money, and what their books say."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import pytest
from django.db import connection, transaction

from billing import charges, grants, invariants
from core import ids
from metering import catalog
from metering.attribution import Attributed, Orphan
from metering.events import Event
from metering.verdicts import Status, Verdict
from orgs.models import ApiKey, Member, Organization, Project, Role, User
from tests.books import Books
from tests.metering import world as metering

T = TypeVar("T")

# What each table that charging writes holds of it.
WRITTEN = ("usage_claim", "usage_record", "request_log", "quarantine", "transfer", "wallet")


class Standing(NamedTuple):
    """A wallet's row."""

    posted: Decimal
    overdraft: Decimal
    spent: Decimal
    seq: int

    @property
    def balance(self) -> Decimal:
        """Posted minus overdraft."""
        return self.posted - self.overdraft


def rows(query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of a query on the test's database."""
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return list(cursor.fetchall()) if cursor.description else []


def organization(slug: str, *, usd: str = "0") -> Organization:
    """An organization, with credit if any is named; without the people that tests of ``orgs`` need."""
    made = Organization.objects.create(slug=slug, name=slug)
    if Decimal(usd):
        with transaction.atomic():
            grants.promote(
                organization_id=made.pk, amount_usd=Decimal(usd), reference="given", actor="tests", reason="given"
            )
    return made


def part_of(of: Organization | UUID, subject: str = "key") -> UUID:
    """A key, member or project of an organization, for what only asks whose it is."""
    owner = of if isinstance(of, UUID) else of.pk
    made = ids.new()
    name = ids.show("x", made)
    if subject == "project":
        return UUID(str(Project.objects.create(organization_id=owner, name=name).pk))
    if subject == "member":
        role, _ = Role.objects.get_or_create(name="member")
        user = User.objects.create(email=f"{name.lower()}@example.com")
        return UUID(str(Member.objects.create(organization_id=owner, user=user, role=role).pk))
    digest = hashlib.sha256(made.bytes).digest()
    ApiKey.objects.create(
        id=made, kind="organization", organization_id=owner, name=name, digest=digest, last_four=name[-4:]
    )
    return made


def organizations(count: int, *, usd: str = "0") -> list[Organization]:
    """Several of them, in the order of their ids."""
    return sorted((organization(f"org-{place:02}", usd=usd) for place in range(count)), key=lambda made: made.pk)


def charge(of: Organization | UUID, *taken: Event) -> list[Verdict]:
    """Record events of one organization as one batch."""
    return charges.record(metering.attributed(of, *taken), reported_by=None)


def record(items: Sequence[Attributed | Orphan]) -> list[Verdict]:
    """Record a batch."""
    return charges.record(items, reported_by=None)


def statuses(verdicts: Sequence[Verdict]) -> list[str]:
    """The verdicts' words."""
    return [verdict.status.value for verdict in verdicts]


def assert_all(verdicts: Sequence[Verdict], status: Status) -> None:
    """Every verdict has this status."""
    assert {verdict.status for verdict in verdicts} == {status}


def standing(of: Organization | UUID) -> Standing:
    """The wallet's row; an organization without one stands at zero."""
    organization_id = of if isinstance(of, UUID) else of.pk
    found = rows(
        "SELECT posted_usd, overdraft_usd, spent_usd, seq FROM wallet WHERE organization_id = %s", organization_id
    )
    return Standing(*found[0]) if found else Standing(Decimal(0), Decimal(0), Decimal(0), 0)


def counts() -> dict[str, int]:
    """How many rows each table of ``WRITTEN`` has."""
    return {table: rows(f"SELECT count(*) FROM {table}")[0][0] for table in WRITTEN}


def ledger(of: Organization) -> list[tuple[str, Decimal]]:
    """Kinds and amounts of an organization's transfers by ``seq``."""
    return [
        (kind, amount)
        for kind, amount in rows("SELECT kind, amount_usd FROM transfer WHERE organization_id = %s ORDER BY seq", of.pk)
    ]


def side_by_side(books: Books, *calls: Callable[[], T]) -> list[T]:
    """Results of calls in threads of their own that begin when every one of them is connected and caches are warm."""
    catalog.listing()
    ready = threading.Barrier(len(calls), timeout=10)

    def begin(call: Callable[[], T]) -> T:
        rows("SELECT 1")
        ready.wait()
        return call()

    return books.together([partial(begin, call) for call in calls])


def assert_sound(*, but: str = "none") -> None:
    """Every invariant of the books holds, ``but`` the one whose name begins so."""
    broken = [
        f"{finding.name}: {finding.detail}"
        for finding in invariants.check()
        if not finding.ok and not finding.name.startswith(but)
    ]
    assert broken == [], broken


@contextmanager
def conflicts(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What was said meanwhile of transactions that had to run again: after deadlocks and lock timeouts."""
    found: list[str] = []
    with caplog.at_level(logging.WARNING, logger="core.transactions"):
        before = len(caplog.records)
        yield found
    found += [entry.getMessage() for entry in caplog.records[before:] if entry.name == "core.transactions"]
