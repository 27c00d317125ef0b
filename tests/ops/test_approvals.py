"""Four eyes: who asks cannot grant, and a question is decided once."""

import pytest
from django.db import IntegrityError, transaction

from core import errors, ids
from ops import approvals
from ops.models import Approval
from orgs.audit import Actor
from orgs.models import AuditEntry
from tests.books import Books

ADA = Actor(kind="user", id="user_ada", label="ada@example.com")
BOB = Actor(kind="user", id="user_bob", label="bob@example.com")
SUBJECT = ids.new()


def ask(by: Actor = ADA) -> Approval:
    return approvals.ask(kind="test", subject_id=SUBJECT, by=by, details={"why": "a test"})


def test_a_question_is_asked_once_and_granted_by_somebody_else(books: Books) -> None:
    asked = ask()
    assert ask().pk == asked.pk
    assert not approvals.granted(kind="test", subject_id=SUBJECT)
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=asked.pk, by=ADA, grant=True)
    approvals.decide(approval_id=asked.pk, by=BOB, grant=True)
    assert approvals.granted(kind="test", subject_id=SUBJECT)
    assert not approvals.granted(kind="other", subject_id=SUBJECT)
    verbs = AuditEntry.objects.filter(verb__startswith="approval").order_by("id").values_list("verb", flat=True)
    assert list(verbs) == ["approval.asked", "approval.granted"]


def test_a_decision_is_final(books: Books) -> None:
    asked = ask()
    approvals.decide(approval_id=asked.pk, by=BOB, grant=False)
    with pytest.raises(errors.Conflict):
        approvals.decide(approval_id=asked.pk, by=BOB, grant=True)
    assert not approvals.granted(kind="test", subject_id=SUBJECT)


def test_one_no_outweighs_every_yes(books: Books) -> None:
    approvals.decide(approval_id=ask().pk, by=BOB, grant=False)
    approvals.decide(approval_id=ask().pk, by=BOB, grant=True)
    assert not approvals.granted(kind="test", subject_id=SUBJECT)


def test_the_same_person_under_another_name_is_still_the_same(books: Books) -> None:
    asked = ask()
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=asked.pk, by=Actor(kind="user", id=ADA.id, label="someone else"), grant=True)


def test_the_database_itself_refuses_one_person_for_two(books: Books) -> None:
    asked = ask()
    with pytest.raises(IntegrityError, match="approval_second_person"), transaction.atomic():
        Approval.objects.filter(pk=asked.pk).update(decided_by=asked.asked_by, decided_at=asked.asked_at, granted=True)


def test_sixteen_questions_at_once_are_one(books: Books) -> None:
    asked = books.together([ask for _ in range(16)])
    assert len({one.pk for one in asked}) == 1
