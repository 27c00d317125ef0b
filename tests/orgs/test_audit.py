"""The audit trail: written with what it notes, and never changed."""

from collections.abc import Callable

import pytest
from django.db import Error, transaction

from core import ids
from core.errors import InvalidCursor
from orgs import audit, keys
from orgs.models import AuditEntry, CacheEpoch
from tests.books import Books
from tests.orgs import world


@pytest.mark.django_db
def test_a_note_says_who_did_what_to_what() -> None:
    ada = world.person()
    acme = world.organization(owner=ada)
    row = audit.note(
        actor=audit.user(ada), verb="organization.renamed", subject=acme, organization=acme, details={"to": "Acmé"}
    )
    row.refresh_from_db()
    assert (row.actor_kind, row.actor_label, row.verb) == ("user", "ada@example.com", "organization.renamed")
    assert row.actor_id.startswith("user_")
    assert row.subject_type == "organization"
    assert row.subject_id.startswith("org_")
    assert row.details == {"to": "Acmé"}


@pytest.mark.django_db
def test_a_secret_that_somebody_wrote_into_a_detail_is_cut() -> None:
    secret = keys.new_secret()
    actor = audit.Actor(kind="key", id="", label=f"named {secret}")
    row = audit.note(actor=actor, verb="x", subject=world.organization(), details={"a": [{"b": f"is {secret}!"}]})
    row.refresh_from_db()
    assert row.details == {"a": [{"b": "is dtk_[redacted]!"}]}
    assert row.actor_label == "named dtk_[redacted]"


def test_a_note_outside_a_transaction_is_a_bug(books: Books) -> None:
    acme = world.organization()
    with pytest.raises(AssertionError, match="transaction"):
        audit.note(actor=world.BY, verb="x", subject=acme)


@pytest.mark.django_db
def test_a_subject_without_one_of_our_ids_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no id"):
        audit.note(actor=world.BY, verb="x", subject=CacheEpoch.objects.get())


def test_a_note_is_gone_with_the_transaction_it_was_made_in(books: Books) -> None:
    acme = world.organization()
    before = AuditEntry.objects.count()

    def note_and_fail() -> None:
        with transaction.atomic():
            audit.note(actor=world.BY, verb="x", subject=acme)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        note_and_fail()
    assert AuditEntry.objects.count() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda books: AuditEntry.objects.update(verb="nothing"),
        lambda books: AuditEntry.objects.all().delete(),
        lambda books: AuditEntry.objects.latest("id").save(),
        lambda books: _sql(books, "UPDATE audit_entry SET details = '{}'"),
        lambda books: _sql(books, "DELETE FROM audit_entry"),
        lambda books: _sql(books, "TRUNCATE audit_entry"),
        lambda books: _sql(books, "TRUNCATE organization CASCADE"),
    ],
    ids=["update", "delete", "save", "sql update", "sql delete", "sql truncate", "truncate of its organizations"],
)
def test_the_trail_cannot_be_changed(books: Books, change: Callable[[Books], object]) -> None:
    world.organization()
    before = list(AuditEntry.objects.order_by("id").values())
    with pytest.raises(Exception, match="the books are append-only") as refusal:
        change(books)
    assert isinstance(refusal.value, Error | _psycopg_error())
    assert list(AuditEntry.objects.order_by("id").values()) == before


def _sql(books: Books, statement: str) -> None:
    with books.connect() as own:
        own.execute(statement)


def _psycopg_error() -> type[Exception]:
    import psycopg

    return psycopg.errors.IntegrityConstraintViolation


@pytest.mark.django_db
def test_an_organizations_entries_are_walked_newest_first_and_others_are_left_out() -> None:
    acme, other = world.organization(), world.organization("other")
    made = [audit.note(actor=world.BY, verb=f"x.{place}", subject=acme, organization=acme) for place in range(3)]
    first, more = audit.page(organization_id=acme.pk, limit=2, after=None)
    assert ([entry.verb for entry in first], more) == (["x.2", "x.1"], True)
    rest, more = audit.page(organization_id=acme.pk, limit=9, after=ids.show("aud", first[-1].pk))
    assert ([entry.verb for entry in rest], more) == (["x.0", "member.added", "organization.created"], False)
    for cursor in (ids.show("aud", made[0].pk), ids.show("key", made[0].pk), "aud_1"):
        with pytest.raises(InvalidCursor):
            audit.page(organization_id=other.pk, limit=9, after=cursor)
