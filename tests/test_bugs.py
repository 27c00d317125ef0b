"""The checkers are checked: each deliberate bug is noticed by the one that is there for it, and sound books by none."""

import threading
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from billing import charges, corrections, invariants
from core import errors, failpoints, ids
from metering.events import Event
from metering.verdicts import Verdict
from orgs.audit import system
from orgs.models import Organization
from tests import bugs
from tests.acks import AckLog, Answer, Row, compare
from tests.billing import world
from tests.books import Books
from tests.bugs import BUGS, HISTORY
from tests.guards import patched
from tests.metering.world import attributed, event

BY = system("tests")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr("core.transactions.time", SimpleNamespace(sleep=lambda seconds: None))


class Client:
    """Somebody who sends events and voids, notes both, and sends again what was not settled."""

    def __init__(self, path: Path, owner: Organization) -> None:
        self.log = AckLog(path)
        self._owner = owner

    def charge(self, *events: Event) -> None:
        """Send a batch."""
        numbers = [self.log.intend(f"event/{one.event_id}") for one in events]
        try:
            told = charges.record(attributed(self._owner, *events), reported_by=None)
        except OSError:
            # Cut off: nobody knows.
            return
        for number, verdict in zip(numbers, told, strict=True):
            self.log.acknowledge(number, self._answer(verdict))

    def void(self, event_id: str) -> None:
        """Take an event back."""
        number = self.log.intend(f"void/{event_id}")
        try:
            done = corrections.void(organization_id=self._owner.pk, event_id=event_id, reason="a test", by=BY)
        except errors.NotFound:
            self.log.acknowledge(number, Answer("rejected"))
            return
        shown = None if done.record_id is None else ids.show("usage", done.record_id)
        self.log.acknowledge(number, Answer("created" if done.first else "duplicate", shown, done.cost_usd))

    @staticmethod
    def _answer(verdict: Verdict) -> Answer:
        shown = None if verdict.record_id is None else ids.show("usage", verdict.record_id)
        return Answer(verdict.status.value, shown, verdict.cost_usd)


def a_day(books: Books, path: Path) -> AckLog:
    """Something of everything that happens to an organization; what it was told, as written down."""
    log = AckLog(path)
    # The credit that it begins with.
    log.acknowledge(log.intend("grant/given"), Answer("created", cost_usd=Decimal("0.002")))
    log.close()
    acme = world.organization("acme", usd="0.002")
    client = Client(path.with_suffix(".events"), acme)
    first = [event(event_id=f"first-{n}") for n in range(2)]
    # An id twice in a batch, a batch twice, an id with another story.
    client.charge(*first, first[0])
    client.charge(*first)
    client.charge(event(event_id="first-0", output_tokens=1))
    client.charge(event(event_id="forgettable"))
    _cut_off(client, event(event_id="cut"))
    _at_once(books, client, event(event_id="here"), event(event_id="there"))
    for _ in range(2):
        client.void("first-1")
    client.void("nobody-sent-this")
    client.log.close()
    return _joined(path, path.with_suffix(".events"))


def _cut_off(client: Client, one: Event) -> None:
    """The process fails between claim and records; the client sends the event again."""

    def fail() -> None:
        raise OSError("deliberate")

    with failpoints.armed("charge.after_quarantine", fail):
        client.charge(one)
    client.charge(one)


def _at_once(books: Books, client: Client, one: Event, other: Event) -> None:
    """Another charge of the same wallet comes while the first has it; whichever is put off is sent again."""

    def rival() -> None:
        try:
            world.rows("SET lock_timeout = '50ms'")
            client.charge(other)
        finally:
            connection.close()

    def come() -> None:
        if threading.current_thread() is first:
            thread = threading.Thread(target=rival, daemon=True)
            books.threads.append(thread)
            thread.start()
            thread.join(20)

    first = threading.current_thread()
    with failpoints.armed("ledger.after_lock", come):
        client.charge(one)
    client.charge(one, other)


def _joined(*paths: Path) -> AckLog:
    """Several logs as one."""
    joined = AckLog()
    for path in paths:
        for operation in AckLog.read(path).operations():
            number = joined.intend(operation.id, operation.body)
            if operation.answer is not None:
                joined.acknowledge(number, operation.answer)
    return joined


def held() -> list[Row]:
    """What the database holds of all that a client may ask for."""
    found: Sequence[tuple[Any, ...]] = [
        *world.rows("SELECT 'event/' || event_id, id, cost_usd FROM usage_record WHERE corrects_id IS NULL"),
        *world.rows(
            "SELECT 'void/' || r.event_id, c.id, c.cost_usd FROM correction c JOIN usage_record r"
            " ON r.organization_id = c.organization_id AND r.id = c.record_id WHERE c.kind = 'void'"
        ),
        *world.rows("SELECT 'grant/' || reference, id, amount_usd FROM transfer WHERE kind = 'grant'"),
    ]
    return [Row(name, ids.show("usage", record_id), cost) for name, record_id, cost in found]


def noticed(log: AckLog) -> dict[str, list[str]]:
    """Who objects, and to what."""
    found = {finding.name.split()[0]: [finding.detail] for finding in invariants.check() if not finding.ok}
    if violations := compare(log, held()).violations:
        found[HISTORY] = violations
    return found


def test_sound_books_are_noticed_by_nobody(books: Books, tmp_path: Path) -> None:
    log = a_day(books, tmp_path / "acks")
    assert noticed(log) == {}
    # Three firsts, one forgettable, one cut off, two at once: seven events of which one was taken back.
    assert len([row for row in held() if row.id.startswith("event/")]) == 6
    assert log.in_doubt() == {}


@pytest.mark.parametrize("name", BUGS)
def test_a_deliberate_bug_is_noticed(books: Books, tmp_path: Path, name: str) -> None:
    with BUGS[name].made():
        log = a_day(books, tmp_path / "acks")
    found = noticed(log)
    assert BUGS[name].noticed_by <= found.keys(), found


def test_a_bug_says_what_goes_wrong() -> None:
    with pytest.raises(AssertionError, match="does not say"):
        bugs.bug(HISTORY)(lambda: patched("billing.charges.record", None))
