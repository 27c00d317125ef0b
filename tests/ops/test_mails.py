"""Mails: written with their cause, unique, sent once; in doubt, not again but by a person."""

import smtplib
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core import mail as outgoing
from django.core.exceptions import ValidationError
from django.core.mail.backends.locmem import EmailBackend
from django.db import IntegrityError, transaction
from django.test import override_settings

from core import clock, errors
from core.transactions import database_now
from ops import mails
from ops.mails import Attachment
from ops.models import Mail
from orgs.models import AuditEntry, Organization
from tests import clocks
from tests.books import Books
from tests.clocks import Clock
from tests.nursery import Nursery
from tests.ops import hooks
from tests.orgs import world
from tests.proofs import proves

State = Mail.State
OFF = "django.core.mail.backends.dummy.EmailBackend"


def post(key: str = "1", *to: str, of: Organization | None = None, **told: Any) -> int:
    with transaction.atomic():
        return mails.post(
            kind=told.pop("kind", "invoice.finalized"), organization_id=None if of is None else of.pk, key=key,
            to=to or ["ada@example.com"], subject=told.pop("subject", "Your invoice"),
            text=told.pop("text", "It is here."), **told,
        )  # fmt: skip


def only() -> Mail:
    return Mail.objects.get()


def sent() -> list[Any]:
    """What the backend of tests has taken."""
    found: list[Any] = outgoing.outbox
    return found


def written(folder: Path) -> list[str]:
    """The mails in a folder; what is opened for one that never came is empty."""
    return [text for each in folder.iterdir() if (text := each.read_text())]


def failing(error: Exception | None = None, *, at: str = "send_messages") -> Any:
    """A mail server that refuses or breaks off."""
    return mock.patch.object(EmailBackend, at, side_effect=error)


def test_a_mail_goes_out_as_text_and_html_under_its_rows_id(books: Books) -> None:
    with override_settings(DEFAULT_FROM_EMAIL="Tollbook <billing@tollbook.example>"):
        assert post(text="Total: 5 USD", html="<p>Total: 5 USD</p>", subject="Rechnung für März") == 1
        assert mails.send_due() == "sent 1, again later 0, given up 0"
    row = only()
    assert (row.state, row.attempts, row.failure) == (State.SENT, 1, "")
    assert row.sent_at is not None
    (message,) = sent()
    read = message_from_bytes(message.message().as_bytes(), policy=policy.default)
    assert isinstance(read, EmailMessage)
    assert (read["To"], read["From"]) == ("ada@example.com", "Tollbook <billing@tollbook.example>")
    assert (read["Subject"], read["Message-ID"]) == ("Rechnung für März", f"<{row}@tollbook.example>")
    assert read["Auto-Submitted"] == "auto-generated"
    text, html = read.get_body(("plain",)), read.get_body(("html",))
    assert text is not None
    assert html is not None
    assert (text.get_content().strip(), html.get_content().strip()) == ("Total: 5 USD", "<p>Total: 5 USD</p>")
    assert mails.send_due() == "sent 0, again later 0, given up 0"
    assert len(sent()) == 1


@proves("J15", guard="mails_are_unique")
def test_whatever_happens_twice_is_told_once(books: Books) -> None:
    acme = world.organization("acme")
    assert post("inv_1", "ada@example.com", "bob@example.com", of=acme) == 2
    assert post("inv_1", " Ada@Example.com", "eve@example.com", of=acme, text="again") == 1
    assert post("inv_1", kind="invoice.overdue") == 1
    assert post("inv_2") == 1
    mails.send_due()
    assert sorted((each.to[0], each.body) for each in sent()) == [
        ("ada@example.com", "It is here."), ("ada@example.com", "It is here."), ("ada@example.com", "It is here."),
        ("bob@example.com", "It is here."), ("eve@example.com", "again"),
    ]  # fmt: skip


def test_a_mail_is_written_in_the_transaction_of_what_it_tells_only(books: Books) -> None:
    with pytest.raises(AssertionError, match="needs the transaction"):
        mails.post(kind="x", organization_id=None, key="1", to=["a@example.com"], subject="s", text="t")
    with transaction.atomic():
        mails.post(kind="x", organization_id=None, key="1", to=["a@example.com"], subject="s", text="t")
        transaction.set_rollback(True)
    assert not Mail.objects.exists()


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"subject": ""}, AssertionError),
        ({"subject": "Hello\nBcc: eve@example.com"}, AssertionError),
        ({"subject": "x" * 201}, AssertionError),
        ({"attachments": [{"kind": "invoice"}]}, AssertionError),
    ],
)
def test_what_cannot_be_a_mail_is_a_bug(db: None, told: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        post(**told)
    for address in ("ada", "ada@example.com\nBcc: eve@example.com", "a@b@c.example", ""):
        with pytest.raises(ValidationError):
            post("1", address)


@proves("J15", guard="doubtful_mails_wait_for_a_person")
@pytest.mark.parametrize(("dies_at", "files"), [("mail.after_send", 1), ("mail.before_send", 0)])
def test_a_mail_whose_sender_died_with_it_is_not_sent_again_but_by_a_person(
    books: Books, nursery: Nursery, tmp_path: Path, dies_at: str, files: int
) -> None:
    post()
    assert nursery.run("tests.ops.hooks:send_mails", dies_at=dies_at, folder=str(tmp_path)).died
    with hooks.into(str(tmp_path)):
        assert mails.send_due() == "sent 0, again later 0, given up 0"
        assert only().state == State.SENDING
        clocks.age(books, "mail", by=mails.LEASE)
        assert mails.send_due() == "sent 0, again later 0, given up 0, doubtful 1"
        assert (only().state, only().failure) == (State.DOUBTFUL, "its sender died while the mail server had it")
        assert mails.send_due() == "sent 0, again later 0, given up 0"
        assert len(written(tmp_path)) == files
        mails.again(mail_id=only().pk, by=world.BY)
        assert mails.send_due() == "sent 1, again later 0, given up 0"
    assert len(written(tmp_path)) == files + 1
    # The same id: a mailbox that has it already can tell.
    assert all(f"Message-ID: <{only()}@localhost>" in each for each in written(tmp_path))
    assert AuditEntry.objects.get(verb="mail.sent_again").subject_id == str(only())


def test_a_line_that_breaks_leaves_a_doubt_and_is_not_tried_again(books: Books) -> None:
    post()
    for error in (smtplib.SMTPServerDisconnected("gone"), TimeoutError("slow")):
        Mail.objects.update(state=State.PENDING, attempts=0, next_attempt_at=database_now())
        with failing(error):
            assert mails.send_due() == "sent 0, again later 0, given up 0, doubtful 1"
        assert only().state == State.DOUBTFUL
        assert type(error).__name__ in only().failure
        assert mails.send_due() == "sent 0, again later 0, given up 0"
    assert sent() == []


def test_a_server_that_cannot_be_reached_costs_no_attempt(books: Books, fake_clock: Clock) -> None:
    post()
    refused = smtplib.SMTPAuthenticationError(535, b"wrong password")
    for error in (ConnectionRefusedError("no"), refused):
        with failing(error, at="open"):
            said = mails.send_due()
        assert said.startswith("sent 0, again later 0, given up 0, the mail server cannot be reached: ")
        assert said.endswith(("Error: no", "535 b'wrong password'"))
        assert (only().state, only().attempts) == (State.PENDING, 0)
        assert mails.send_due() == "sent 0, again later 0, given up 0"
        fake_clock.move(timedelta(minutes=1))
    assert mails.send_due() == "sent 1, again later 0, given up 0"


@pytest.mark.parametrize(
    "error",
    [smtplib.SMTPDataError(451, b"try later"), smtplib.SMTPRecipientsRefused({"ada@example.com": (451, b"try later")})],
)
def test_a_server_that_is_busy_is_asked_again_eight_times(books: Books, fake_clock: Clock, error: Exception) -> None:
    post()
    with failing(error):
        for attempt in range(1, 8):
            assert mails.send_due() == "sent 0, again later 1, given up 0"
            assert (only().state, only().attempts) == (State.PENDING, attempt)
            assert only().next_attempt_at == fake_clock.at + timedelta(minutes=2 ** (attempt - 1))
            fake_clock.move(timedelta(minutes=2 ** (attempt - 1)))
        assert mails.send_due() == "sent 0, again later 0, given up 1"
    assert (only().state, only().failure) == (State.FAILED, "SMTPResponseException: 451 b'try later'") or (
        only().failure == "SMTPDataError: 451 b'try later'"
    )
    mails.again(mail_id=only().pk, by=world.BY)
    with pytest.raises(errors.Conflict, match="on its way"):
        mails.again(mail_id=only().pk, by=world.BY)
    assert mails.send_due() == "sent 1, again later 0, given up 0"


def test_a_mail_that_a_server_refuses_for_good_is_given_up_and_holds_up_no_other(books: Books) -> None:
    post("1")
    with failing(smtplib.SMTPRecipientsRefused({"ada@example.com": (550, b"no such user")})):
        assert mails.send_due() == "sent 0, again later 0, given up 1"
    assert (only().state, only().failure) == (State.FAILED, "SMTPResponseException: 550 b'no such user'")
    post("2")
    assert mails.send_due() == "sent 1, again later 0, given up 0"


def test_attachments_are_made_when_they_are_sent(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def invoice(key: str) -> Attachment:
        if not ready:
            raise RuntimeError("no font")
        return Attachment(f"{key}.pdf", b"%PDF-1.7", "application/pdf")

    ready: list[bool] = []
    monkeypatch.setitem(mails.ATTACHMENTS, "invoice", invoice)
    post(attachments=[{"kind": "invoice", "key": "inv_1"}])
    assert mails.send_due() == "sent 0, again later 1, given up 0"
    assert (only().attempts, only().failure) == (1, "RuntimeError: no font")
    ready.append(True)
    clocks.age(books, "mail", by=timedelta(minutes=1))
    assert mails.send_due() == "sent 1, again later 0, given up 0"
    (message,) = sent()
    assert message.attachments == [("inv_1.pdf", b"%PDF-1.7", "application/pdf")]


def test_a_kind_of_attachment_that_nobody_makes_waits(books: Books) -> None:
    post(attachments=[{"kind": "nothing", "key": "1"}])
    assert mails.send_due() == "sent 0, again later 1, given up 0"
    assert only().failure == "KeyError: 'nothing'"


def test_without_a_mail_server_mails_wait(books: Books) -> None:
    post()
    with override_settings(EMAIL_BACKEND=OFF):
        assert mails.is_off()
        assert mails.send_due() == "mail is off (EMAIL_HOST is not set), 1 wait"
    assert (only().state, only().attempts) == (State.PENDING, 0)
    assert mails.send_due() == "sent 1, again later 0, given up 0"


def test_eight_at_once_send_each_mail_once(books: Books) -> None:
    for number in range(16):
        post(str(number))
    books.together([mails.send_due] * 8)
    assert len(sent()) == 16
    assert set(Mail.objects.values_list("state", "attempts")) == {(State.SENT, 1)}


def test_a_sender_that_died_before_it_began_is_followed_by_another(books: Books) -> None:
    post()
    assert mails._claim() is not None
    assert mails._claim() is None
    clocks.age(books, "mail", by=mails.LEASE)
    second = mails._claim()
    assert second is not None
    assert second.attempts == 2
    # The first one, should it only have been slow, does not send what another has.
    assert not mails._begin(Mail(pk=second.pk, attempts=1))
    assert mails._begin(second)


def test_a_mail_says_when_it_was_sent_and_only_then(db: None) -> None:
    post()
    with pytest.raises(IntegrityError, match=r"mail_(sent|pending)"), transaction.atomic():
        Mail.objects.update(state=State.SENT)
    with pytest.raises(IntegrityError, match="mail_pending"), transaction.atomic():
        Mail.objects.update(next_attempt_at=None)


def test_only_what_was_sent_long_ago_is_forgotten(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mails, "TRIM_ROWS", 2)
    for key in ("a", "b", "c"):
        post(key)
    mails.send_due()
    for key in ("waits", "failed", "doubtful"):
        post(key)
        if key != "waits":
            Mail.objects.filter(key=key).update(state=key, next_attempt_at=None)
    later = clock.now() + timedelta(days=400)
    assert mails.trim(at=later - timedelta(minutes=1)) == 0
    assert mails.trim(at=later + timedelta(minutes=1)) == 3
    assert set(Mail.objects.values_list("key", flat=True)) == {"waits", "failed", "doubtful"}


def test_an_old_mail_that_somebody_sent_again_lately_is_kept(books: Books) -> None:
    post()
    mails.send_due()
    later = clock.now() + timedelta(days=401)
    Mail.objects.update(sent_at=later - timedelta(days=1))
    assert mails.trim(at=later) == 0
