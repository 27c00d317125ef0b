"""What a client was told, against what the database holds (the shape of Jepsen's checks).

The client notes each operation before it sends it and the answer when it has it, so whatever is
killed in between, the client included, the log knows three kinds of operation: answered for good,
*in doubt* (sent; no answer, or one that promises neither way) and never sent. At the end every
operation in doubt is sent again under the same id; then ``compare`` uses only the log and the final
rows: acknowledged means there, once, as it was told; in doubt means there once or not at all;
refused means not there.
"""

import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

# Answers that promise a record, answers that promise none (contract 16.3), and ones that promise neither.
KEPT = frozenset({"created", "duplicate"})
REFUSED = frozenset({"rejected", "conflict"})
ASIDE = frozenset({"quarantined"})
# "Send it again": a commit whose answer was lost may have happened.
DOUBTFUL = frozenset({"failed"})


class Row(NamedTuple):
    """A record as the database holds it."""

    id: str
    record_id: str
    cost_usd: Decimal


class Answer(NamedTuple):
    """What the server said of one operation. ``record_id`` and ``cost_usd`` if it named them."""

    verdict: str
    record_id: str | None = None
    cost_usd: Decimal | None = None


@dataclass
class Operation:
    """One thing asked for once: its id, a canonical text of its body, the answer if one came."""

    id: str
    body: str
    answer: Answer | None = None

    @property
    def final(self) -> Answer | None:
        """The answer, if it settles the matter."""
        return None if self.answer is None or self.answer.verdict in DOUBTFUL else self.answer


class AckLog:
    """The client's own log; threads share it. With a ``path`` each note is in the file before the call returns.

    The file is only ever appended to, a line a note, so a client that is killed leaves all it had noted.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The log that a file holds. A last line that was cut short was never noted."""
        log = cls()
        for line in path.read_bytes().split(b"\n")[:-1]:
            noted: dict[str, Any] = json.loads(line)
            if "id" in noted:
                log.intend(noted["id"], noted["body"])
            else:
                cost = noted["cost_usd"]
                log.acknowledge(
                    noted["number"],
                    Answer(noted["verdict"], noted["record_id"], None if cost is None else Decimal(cost)),
                )
        return log

    def intend(self, id: str, body: str = "") -> int:
        """Note an operation *before* it is sent; its number."""
        with self._lock:
            self._note(id=id, body=body)
            self._operations.append(Operation(id, body))
            return len(self._operations) - 1

    def acknowledge(self, number: int, answer: Answer) -> None:
        """Note the answer to an operation; there is at most one."""
        if answer.verdict not in KEPT | REFUSED | ASIDE | DOUBTFUL:
            raise ValueError(f"{answer.verdict!r} is no verdict")
        with self._lock:
            operation = self._operations[number]
            if operation.answer is not None:
                raise ValueError(f"operation {number} was answered twice")
            cost = None if answer.cost_usd is None else str(answer.cost_usd)
            self._note(number=number, verdict=answer.verdict, record_id=answer.record_id, cost_usd=cost)
            operation.answer = answer

    def operations(self) -> list[Operation]:
        """All operations, in the order they were intended."""
        with self._lock:
            return list(self._operations)

    def acknowledged(self) -> set[str]:
        """Ids of which a record was promised."""
        return {one.id for one in self.operations() if one.answer is not None and one.answer.verdict in KEPT}

    def in_doubt(self) -> dict[str, str]:
        """Ids that were sent and never answered for good, with their bodies: to be sent again."""
        told: set[str] = set()
        open_: dict[str, str] = {}
        for operation in self.operations():
            if operation.final is None:
                open_[operation.id] = operation.body
            else:
                told.add(operation.id)
        return {id: body for id, body in open_.items() if id not in told}

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _note(self, **said: Any) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps(said).encode() + b"\n")


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

    Violations: an acknowledged operation without a record; a record twice; a record nobody intended; a
    record of what was only ever refused; ``created`` said twice of one id; a record id or a cost that
    differs from what was said. What is in doubt may have either fate, once.
    """
    found = Reconciliation()
    operations = log.operations()
    by_id: Mapping[str, list[Operation]] = _group(operations)
    held: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        held[row.id].append(row)
    found.sent = len(operations)
    found.answered = sum(operation.answer is not None for operation in operations)
    found.unanswered = found.sent - found.answered
    found.events = len(by_id)
    for id, told in by_id.items():
        answers = [operation.final for operation in told if operation.final is not None]
        verdicts = Counter(answer.verdict for answer in answers)
        mine = held.get(id, [])
        doubtful = len(answers) < len(told)
        if not answers:
            found.in_doubt += 1
            found.in_doubt_kept += bool(mine)
        if verdicts["created"] > 1:
            found.violations.append(f"{id}: created was said {verdicts['created']} times")
        if len(mine) > 1:
            found.violations.append(f"{id}: {len(mine)} records")
        if any(verdict in KEPT for verdict in verdicts) and not mine:
            found.violations.append(f"{id}: lost; it was answered {dict(verdicts)}")
        if mine and not doubtful and not any(verdict in KEPT for verdict in verdicts):
            found.violations.append(f"{id}: recorded though only answered {dict(verdicts)}")
        for answer in answers:
            found.violations += _differences(id, answer, mine)
    for id in held.keys() - by_id.keys():
        found.violations.append(f"{id}: recorded, never sent")
    return found


def _group(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    grouped: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        grouped[operation.id].append(operation)
    return grouped


def _differences(id: str, answer: Answer, mine: list[Row]) -> list[str]:
    """Where an answer that promised a record names another id or cost than the record has."""
    if answer.verdict not in KEPT or not mine:
        return []
    row = mine[0]
    found = []
    if answer.record_id is not None and answer.record_id != row.record_id:
        found.append(f"{id}: answered as {answer.record_id}, recorded as {row.record_id}")
    if answer.cost_usd is not None and answer.cost_usd != row.cost_usd:
        found.append(f"{id}: answered {answer.cost_usd} USD, recorded {row.cost_usd} USD")
    return found
