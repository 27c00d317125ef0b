"""Four eyes: who asks cannot grant, and a question is decided once."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from core import clock, errors, ids
from ops import approvals
from ops.models import Approval
from orgs import audit
from orgs.audit import Actor
from orgs.models import AuditEntry, User
from tests.books import Books
from tests.proofs import proves

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


def person(email: str) -> tuple[User, Actor]:
    somebody = User.objects.create_user(email, is_staff=True)
    return somebody, audit.user(somebody)


@proves("A14", guard="a_second_account_is_no_second_person")
def test_another_account_of_whoever_asked_is_no_second_person(books: Books) -> None:
    _, asker = person("ada@example.com")
    _, mailbox = person("ada+finance@example.com")
    made, own = person("puppet@example.com")
    bob, second = person("bob@example.com")
    asked = ask(by=asker)
    with transaction.atomic():
        audit.note(actor=asker, verb="user.created", subject=made)
        audit.note(actor=second, verb="user.password_set", subject=bob)
    for account in (mailbox, own):
        with pytest.raises(approvals.SamePerson):
            approvals.decide(approval_id=asked.pk, by=account, grant=True)
    assert not approvals.granted(kind="test", subject_id=SUBJECT)
    assert approvals.decide(approval_id=asked.pk, by=second, grant=True).granted


@pytest.mark.parametrize(
    ("verb", "details"),
    [("user.password_set", {}), ("second_factor.reset", {}), ("user.changed", {"changed": ["email", "groups"]})],
)
def test_an_account_that_whoever_asked_had_in_hand_decides_nothing_for_a_week(
    books: Books, verb: str, details: dict[str, Any]
) -> None:
    (_, asker), (taken, account) = person("ada@example.com"), person("bob@example.com")
    with transaction.atomic():
        audit.note(actor=asker, verb=verb, subject=taken, details=details)
    asked = ask(by=asker)
    with pytest.raises(approvals.SamePerson, match="within 7 days"):
        approvals.decide(approval_id=asked.pk, by=account, grant=True)
    Approval.objects.update(asked_at=clock.now() + approvals.IN_HAND + timedelta(minutes=1))
    assert approvals.decide(approval_id=asked.pk, by=account, grant=True).granted


def test_rights_that_somebody_was_given_make_them_nobodys_puppet(books: Books) -> None:
    (_, asker), (given, account) = person("ada@example.com"), person("bob@example.com")
    with transaction.atomic():
        audit.note(actor=asker, verb="user.changed", subject=given, details={"changed": ["groups"]})
    assert approvals.decide(approval_id=ask(by=asker).pk, by=account, grant=True).granted


def test_needing_a_second_person_asks_once_and_hears_the_answer(books: Books) -> None:
    def need() -> None:
        approvals.need(kind="test", subject_id=SUBJECT, by=ADA, details={})

    for _ in range(2):
        with pytest.raises(approvals.ApprovalNeeded):
            need()
    approvals.decide(approval_id=Approval.objects.get().pk, by=BOB, grant=True)
    need()
    approvals.decide(approval_id=ask().pk, by=BOB, grant=False)
    with pytest.raises(approvals.Refused):
        need()
