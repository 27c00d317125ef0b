"""The acknowledgement log: each way in which a server can lie to its client is a violation."""

import threading
from decimal import Decimal
from pathlib import Path

import pytest

from tests.acks import AckLog, Answer, Row, compare

CENT = Decimal("0.01")


def told(log: AckLog, id: str, *answers: Answer | None) -> None:
    """Send an event once for each answer; None is no answer."""
    for answer in answers:
        number = log.intend(id, f"body of {id}")
        if answer is not None:
            log.acknowledge(number, answer)


CREATED = Answer("created", "usage_1", CENT)
DUPLICATE = Answer("duplicate", "usage_1", CENT)
ROW = Row("a", "usage_1", CENT)


def test_an_honest_server_has_no_violations() -> None:
    log = AckLog()
    told(log, "a", None, CREATED, DUPLICATE, Answer("conflict"))
    told(log, "refused", Answer("rejected"))
    told(log, "aside", Answer("quarantined"))
    told(log, "doubtful-lost", None)
    told(log, "doubtful-kept", None)
    found = compare(log, [ROW, Row("doubtful-kept", "usage_2", CENT)])
    assert found.violations == []
    assert (found.sent, found.answered, found.unanswered, found.events) == (8, 5, 3, 5)
    assert (found.in_doubt, found.in_doubt_kept) == (2, 1)


@pytest.mark.parametrize("answers", [(CREATED,), (DUPLICATE,), (None, CREATED)])
def test_an_acknowledged_event_without_a_record_is_lost(answers: tuple[Answer | None, ...]) -> None:
    log = AckLog()
    told(log, "a", *answers)
    assert "lost" in compare(log, []).violations[0]


def test_two_records_of_one_event_are_a_violation_even_in_doubt() -> None:
    log = AckLog()
    told(log, "a", None)
    assert compare(log, [ROW, ROW._replace(record_id="usage_2")]).violations == ["a: 2 records"]


def test_created_is_said_once() -> None:
    log = AckLog()
    told(log, "a", CREATED, CREATED)
    assert compare(log, [ROW]).violations == ["a: created was said 2 times"]


def test_what_was_refused_must_not_be_recorded() -> None:
    log = AckLog()
    told(log, "a", Answer("rejected"), Answer("conflict"))
    assert "recorded though only answered" in compare(log, [ROW]).violations[0]


def test_a_refusal_says_nothing_while_another_copy_is_in_doubt() -> None:
    log = AckLog()
    told(log, "a", None, Answer("failed"))
    assert compare(log, [ROW]).violations == []


def test_a_record_that_nobody_sent_is_a_violation() -> None:
    assert compare(AckLog(), [ROW]).violations == ["a: recorded, never sent"]


def test_the_answer_names_the_record_and_the_cost_that_stand() -> None:
    log = AckLog()
    told(log, "a", CREATED)
    assert "answered as usage_1" in compare(log, [ROW._replace(record_id="usage_9")]).violations[0]
    assert "answered 0.01 USD" in compare(log, [ROW._replace(cost_usd=Decimal("0.02"))]).violations[0]


def test_what_is_in_doubt_can_be_sent_again() -> None:
    log = AckLog()
    told(log, "a", None, CREATED)
    told(log, "b", None, None)
    told(log, "c", CREATED)
    told(log, "d", Answer("failed"))
    told(log, "e", Answer("failed"), DUPLICATE)
    assert log.in_doubt() == {"b": "body of b", "d": "body of d"}


@pytest.mark.parametrize("rows", [[], [ROW]])
def test_an_event_that_failed_may_be_there_or_not(rows: list[Row]) -> None:
    log = AckLog()
    told(log, "a", Answer("failed"))
    found = compare(log, rows)
    assert found.violations == []
    assert (found.answered, found.in_doubt, found.in_doubt_kept) == (1, 1, len(rows))


def test_a_log_in_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = AckLog(tmp_path / "log")
    told(log, "a", None, CREATED, Answer("conflict"))
    told(log, "b", None)
    log.close()
    assert AckLog.read(tmp_path / "log").operations() == log.operations()


def test_a_client_that_is_killed_leaves_all_it_had_noted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AckLog(path)
    told(log, "a", CREATED, None)
    log.close()
    # It was killed while it wrote the next line, for what it had not sent yet.
    with path.open("ab") as file:
        file.write(b'{"id": "b", "bo')
    again = AckLog.read(path)
    assert [(one.id, one.answer) for one in again.operations()] == [("a", CREATED), ("a", None)]
    assert compare(again, [ROW]).violations == []


def test_a_note_is_in_the_file_before_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AckLog(path)
    number = log.intend("a", "body")
    assert path.read_text() == '{"id": "a", "body": "body"}\n'
    log.acknowledge(number, CREATED)
    assert AckLog.read(path).operations()[0].answer == CREATED
    log.close()


def test_an_operation_is_answered_once_and_with_a_verdict() -> None:
    log = AckLog()
    number = log.intend("a")
    with pytest.raises(ValueError, match="no verdict"):
        log.acknowledge(number, Answer("perhaps"))
    log.acknowledge(number, CREATED)
    with pytest.raises(ValueError, match="twice"):
        log.acknowledge(number, CREATED)


def test_threads_share_a_log() -> None:
    log = AckLog()

    def send(thread: int) -> None:
        for count in range(200):
            number = log.intend(f"{thread}-{count}")
            log.acknowledge(number, Answer("created"))

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    operations = log.operations()
    assert len({operation.id for operation in operations}) == 1600
    assert all(operation.answer is not None for operation in operations)
