"""What a client was told, against what the database holds (the shape of Jepsen's checks).

The client notes each operation before it sends it and the answer when it has it, so whatever is
killed in between, the log knows three kinds of operation: answered, *in doubt* (sent, no answer)
and never sent. At the end every operation in doubt is sent again under the same id; then
``compare`` uses only the log and the final rows.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

# Answers that promise a record, and answers that promise none (contract 16.3).
KEPT = frozenset({"created", "duplicate"})
REFUSED = frozenset({"rejected", "conflict", "failed"})
ASIDE = frozenset({"quarantined"})


class Row(NamedTuple):
    """A record as the database holds it."""

    event_id: str
    record_id: str
    cost_usd: Decimal


class Answer(NamedTuple):
    """What the server said of one operation. ``record_id`` and ``cost_usd`` if it named them."""

    verdict: str
    record_id: str | None = None
    cost_usd: Decimal | None = None


@dataclass
class Operation:
    """One event as sent once: its id, a canonical text of its body, the answer if one came."""

    event_id: str
    body: str
    answer: Answer | None = None


class AckLog:
    """The client's own log; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: list[Operation] = []

    def intend(self, event_id: str, body: str = "") -> int:
        """Note an operation *before* it is sent; its number."""
        with self._lock:
            self._operations.append(Operation(event_id, body))
            return len(self._operations) - 1

    def acknowledge(self, number: int, answer: Answer) -> None:
        """Note the answer to an operation; there is at most one."""
        if answer.verdict not in KEPT | REFUSED | ASIDE:
            raise ValueError(f"{answer.verdict!r} is no verdict")
        with self._lock:
            operation = self._operations[number]
            if operation.answer is not None:
                raise ValueError(f"operation {number} was answered twice")
            operation.answer = answer

    def operations(self) -> list[Operation]:
        """All operations, in the order they were intended."""
        with self._lock:
            return list(self._operations)

    def in_doubt(self) -> dict[str, str]:
        """Event ids that were sent and have no answer at all, with their bodies: to be sent again."""
        told: set[str] = set()
        open_: dict[str, str] = {}
        for operation in self.operations():
            if operation.answer is None:
                open_[operation.event_id] = operation.body
            else:
                told.add(operation.event_id)
        return {event_id: body for event_id, body in open_.items() if event_id not in told}


@dataclass
class Reconciliation:
    """The outcome: figures to report, and violations, of which there must be none."""

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    events: int = 0
    in_doubt: int = 0
    in_doubt_kept: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        figures = (
            f"{self.sent} sent, {self.answered} answered, {self.unanswered} without answer; {self.events} events,"
            f" {self.in_doubt} in doubt of which {self.in_doubt_kept} kept; {len(self.violations)} violations"
        )
        return "\n".join([figures, *self.violations[:20]])


def compare(log: AckLog, rows: Iterable[Row]) -> Reconciliation:
    """Hold the log against the database.

    Violations: an acknowledged event without a record; a record twice; a record nobody intended; a
    record of an event that was only ever refused; ``created`` said twice of one event; a record id or
    a cost that differs from what was said. An event in doubt may have either fate, once.
    """
    found = Reconciliation()
    operations = log.operations()
    by_event: Mapping[str, list[Operation]] = _group(operations)
    held: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        held[row.event_id].append(row)
    found.sent = len(operations)
    found.answered = sum(operation.answer is not None for operation in operations)
    found.unanswered = found.sent - found.answered
    found.events = len(by_event)
    for event_id, told in by_event.items():
        answers = [operation.answer for operation in told if operation.answer is not None]
        verdicts = Counter(answer.verdict for answer in answers)
        mine = held.get(event_id, [])
        doubtful = len(answers) < len(told)
        if not answers:
            found.in_doubt += 1
            found.in_doubt_kept += bool(mine)
        if verdicts["created"] > 1:
            found.violations.append(f"{event_id}: created was said {verdicts['created']} times")
        if len(mine) > 1:
            found.violations.append(f"{event_id}: {len(mine)} records")
        if any(verdict in KEPT for verdict in verdicts) and not mine:
            found.violations.append(f"{event_id}: lost; it was answered {dict(verdicts)}")
        if mine and not doubtful and not any(verdict in KEPT for verdict in verdicts):
            found.violations.append(f"{event_id}: recorded though only answered {dict(verdicts)}")
        for answer in answers:
            found.violations += _differences(event_id, answer, mine)
    for event_id in held.keys() - by_event.keys():
        found.violations.append(f"{event_id}: recorded, never sent")
    return found


def _group(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    grouped: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        grouped[operation.event_id].append(operation)
    return grouped


def _differences(event_id: str, answer: Answer, mine: list[Row]) -> list[str]:
    """Where an answer that promised a record names another id or cost than the record has."""
    if answer.verdict not in KEPT or not mine:
        return []
    row = mine[0]
    found = []
    if answer.record_id is not None and answer.record_id != row.record_id:
        found.append(f"{event_id}: answered as {answer.record_id}, recorded as {row.record_id}")
    if answer.cost_usd is not None and answer.cost_usd != row.cost_usd:
        found.append(f"{event_id}: answered {answer.cost_usd} USD, recorded {row.cost_usd} USD")
    return found
