"""Mails, as rows of the transaction that made true what they say. The only module that writes ``Mail``.

A mail is unique by kind, key and recipient, so whatever happens twice is told once. It is sent through Django's
backends, and **at most once by itself**: before the mail server is given it, the row says ``sending``, and its
``Message-ID`` is the row's id. SMTP has no key that makes a repeat harmless. So where a process died, or the line
broke, between the giving and the answer, the mail is ``doubtful``: it may have arrived, nobody sends it again but
a person at the desk, and the job's result counts it. All that comes before (a server that is down, a document that
cannot be made) is certain, and is tried again.

Attachments are made when they are sent, from their names: the app that knows a kind puts it into ``ATTACHMENTS``.
So are secrets, which rest in no table: ``FILLINGS`` makes what takes a place in the text (``place_of``).
"""

import logging
import smtplib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import parseaddr
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.core.validators import EmailValidator
from django.db import connection, transaction

from core import clock, errors, failpoints, ids, logs
from core.transactions import database_now, retry
from ops.models import Mail
from orgs import audit
from orgs.audit import Actor

log = logging.getLogger(__name__)

State = Mail.State

ATTEMPTS_MAX = 8
PAUSE = timedelta(minutes=1)
# Longer than a mail server is listened to: then its sender is no more.
LEASE = timedelta(minutes=15)
# A run of the job takes no new mail after this.
RUN = timedelta(seconds=20)
TRIM_ROWS = 1000
TRIM_ROUNDS_MAX = 1000
SUBJECT_CHARS_MAX = 200
FAILURE_CHARS_MAX = 300


class Attachment(NamedTuple):
    """A file that goes with a mail."""

    name: str
    content: bytes
    media_type: str


# Who makes the attachments of a kind from their key, such as an invoice's PDF from its id. No side effects.
ATTACHMENTS: Final[dict[str, Callable[[str], Attachment]]] = {}
# Who makes what a mail's text leaves a place for, such as a link with a secret, from its key.
FILLINGS: Final[dict[str, Callable[[str], str]]] = {}

_DOUBT = """
    UPDATE mail SET state = 'doubtful', leased_until = NULL, failure = 'its sender died while the mail server had it'
    WHERE state = 'sending' AND leased_until <= clock_timestamp()
"""
_CLAIM = """
    UPDATE mail SET attempts = attempts + 1, leased_until = clock_timestamp() + make_interval(secs => %s) WHERE id = (
        SELECT id FROM mail
        WHERE state = 'pending' AND next_attempt_at <= clock_timestamp()
            AND (leased_until IS NULL OR leased_until <= clock_timestamp())
        ORDER BY next_attempt_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) RETURNING id
"""
_BEGIN = """
    UPDATE mail SET state = 'sending', next_attempt_at = NULL,
        leased_until = clock_timestamp() + make_interval(secs => %s)
    WHERE id = %s AND state = 'pending' AND attempts = %s
"""
_END = """
    UPDATE mail SET state = %(state)s, next_attempt_at = %(next)s, sent_at = %(sent)s, leased_until = NULL,
        attempts = %(counted)s, failure = %(failure)s
    WHERE id = %(id)s AND state IN ('pending', 'sending') AND attempts = %(attempts)s
"""


class Unreachable(Exception):
    """The mail server cannot be reached or lets nobody in; nothing was sent. The message says what it said."""


def post(
    *,
    kind: str,
    organization_id: UUID | None,
    key: str,
    to: Collection[str],
    subject: str,
    text: str,
    html: str = "",
    attachments: Sequence[Mapping[str, str]] = (),
) -> int:
    """Write one mail to each of these addresses inside the caller's transaction; how many are new.

    ``attachments`` name what ``ATTACHMENTS`` or ``FILLINGS`` make: ``{"kind": "invoice", "key": "inv_…"}``. A kind, key
    and address that had their mail get no second one, whatever it would say.
    """
    assert connection.in_atomic_block, "mails.post needs the transaction of what it tells"
    assert 0 < len(subject) <= SUBJECT_CHARS_MAX, f"no subject: {subject!r}"
    assert subject.isprintable(), f"no subject: {subject!r}"
    assert all(set(each) == {"kind", "key"} for each in attachments), "an attachment is a kind and a key"
    recipients = sorted({_address(each) for each in to})
    now = database_now()
    rows = [
        Mail(
            organization_id=organization_id, kind=kind, key=key, recipient=each, subject=subject, text=text, html=html,
            attachments=[dict(each) for each in attachments], next_attempt_at=now, created_at=now,
        )
        for each in recipients
    ]  # fmt: skip
    known = set(Mail.objects.filter(kind=kind, key=key, recipient__in=recipients).values_list("recipient", flat=True))
    Mail.objects.bulk_create(rows, ignore_conflicts=True)
    return len(recipients) - len(known)


def _address(text: str) -> str:
    """One spelling of an address. A list of people is asked before it comes here, so a wrong one is a bug."""
    address = text.strip().lower()
    EmailValidator()(address)
    return address


def send_due(*, run: timedelta = RUN) -> str:
    """Send what is due until nothing is or the run's time is over; what came of it, in words. Any number may run it.

    It ends at a mail server that cannot be reached, and says so: no failure of the job, which would be put aside.
    """
    doubtful = _doubt()
    if is_off():
        return f"mail is off (EMAIL_HOST is not set), {Mail.objects.filter(state=State.PENDING).count()} wait"
    counts = dict.fromkeys(State, 0)
    ends, trouble = clock.now() + run, ""
    while clock.now() < ends and (mail := retry(_claim)) is not None:
        # A connection of its own for each: one that has been idle may be gone, and then nobody knows what was taken.
        backend: BaseEmailBackend = get_connection()
        try:
            counts[_send(mail, backend)] += 1
        except Unreachable as error:
            trouble = f", the mail server cannot be reached: {error}"
            log.warning("the mail server cannot be reached: %s", error)
            break
        finally:
            backend.close()
    doubtful += counts[State.DOUBTFUL]
    told = f"sent {counts[State.SENT]}, again later {counts[State.PENDING]}, given up {counts[State.FAILED]}"
    return told + (f", doubtful {doubtful}" if doubtful else "") + trouble


def is_off() -> bool:
    """Whether there is neither a mail server nor a folder to put mails into."""
    return settings.EMAIL_BACKEND == "django.core.mail.backends.dummy.EmailBackend"


def again(*, mail_id: UUID, by: Actor) -> Mail:
    """Send a mail once more, though it may have arrived: somebody decided so. Raises ``Conflict`` while it waits."""
    with transaction.atomic():
        row = Mail.objects.select_for_update(no_key=True).get(pk=mail_id)
        if row.state in {State.PENDING, State.SENDING}:
            raise errors.Conflict("This mail is on its way.")
        before = {"state": row.state, "attempts": row.attempts, "failure": row.failure}
        row.state, row.attempts, row.sent_at, row.failure = State.PENDING, 0, None, ""
        row.next_attempt_at = database_now()
        row.save(update_fields=["state", "attempts", "next_attempt_at", "sent_at", "failure"])
        audit.note(
            actor=by, verb="mail.sent_again", subject=row, organization=row.organization, details={"before": before}
        )
    return row


def trim(*, at: datetime | None = None) -> int:
    """Forget mails that were sent ``MAIL_KEEP_DAYS`` before an instant (now), oldest first; how many.

    What waits, is in doubt or has failed stays. From then on the same could be told a second time: who posts must
    not come back to it so late.
    """
    end = (at or database_now()) - timedelta(days=settings.MAIL_KEEP_DAYS)
    trimmed = 0
    for _ in range(TRIM_ROUNDS_MAX):
        old = Mail.objects.filter(state=State.SENT, pk__lt=ids.floor(end), sent_at__lt=end).order_by("pk")
        # Asked again when it goes: somebody may send one of them anew.
        found = list(old.values_list("pk", flat=True)[:TRIM_ROWS])
        done, _rows = Mail.objects.filter(pk__in=found, state=State.SENT).delete()
        trimmed += done
        if len(found) < TRIM_ROWS:
            break
    return trimmed


def _doubt() -> int:
    """Put aside the mails whose senders died on them; how many."""
    with connection.cursor() as cursor:
        cursor.execute(_DOUBT)
        return int(cursor.rowcount)


@transaction.atomic(durable=True)
def _claim() -> Mail | None:
    """Take the mail that is due first. Until it is ``sending``, who comes after its lease may take it too."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [LEASE.seconds])
        found = cursor.fetchone()
    return None if found is None else Mail.objects.get(pk=found[0])


def _send(mail: Mail, backend: BaseEmailBackend) -> State:
    """Make, mark, give, note; how the mail stands. Raises ``Unreachable``."""
    try:
        message = _message(mail, backend)
    except Exception as error:
        # Nothing has gone out; whatever cannot be made now is made later or looked at by a person.
        log.exception("mail %s could not be made", mail)
        return _again_or_never(mail, error)
    try:
        backend.open()
    except (OSError, smtplib.SMTPException) as error:
        # Not the mail's fault, and not counted as its attempt.
        _end(mail, State.PENDING, due=database_now() + PAUSE, counted=mail.attempts - 1, failure=_said(error))
        raise Unreachable(_said(error)) from error
    if not _begin(mail):
        return State.PENDING
    failpoints.reach("mail.before_send")
    try:
        sent = backend.send_messages([message])
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        return _refused(mail, smtplib.SMTPResponseException(code, said))
    except smtplib.SMTPResponseException as error:
        return _refused(mail, error)
    except smtplib.SMTPNotSupportedError as error:
        return _end(mail, State.FAILED, failure=_said(error))
    except (OSError, smtplib.SMTPException) as error:
        # The line broke: before, while or after it was taken, nobody can tell.
        return _end(mail, State.DOUBTFUL, failure=_said(error))
    failpoints.reach("mail.after_send")
    if not sent:
        return _end(mail, State.FAILED, failure="the backend sent nothing")
    return _end(mail, State.SENT, sent=database_now())


def _message(mail: Mail, backend: BaseEmailBackend) -> EmailMultiAlternatives:
    """The mail as it goes out, the same at every attempt."""
    host = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
    headers = {
        "Message-ID": f"<{ids.show('mail', mail.pk)}@{host}>",
        "Date": f"{mail.created_at:%a, %d %b %Y %H:%M:%S} +0000",
        "Auto-Submitted": "auto-generated",
    }
    text = mail.text
    for wanted in mail.attachments:
        if (fill := FILLINGS.get(wanted["kind"])) is not None:
            text = text.replace(place_of(wanted["kind"]), fill(wanted["key"]))
    made = EmailMultiAlternatives(
        mail.subject, text, settings.DEFAULT_FROM_EMAIL, [mail.recipient], connection=backend, headers=headers
    )
    if mail.html:
        made.attach_alternative(mail.html, "text/html")
    for wanted in mail.attachments:
        if wanted["kind"] in FILLINGS:
            continue
        file = ATTACHMENTS[wanted["kind"]](wanted["key"])
        made.attach(file.name, file.content, file.media_type)
    return made


def place_of(kind: str) -> str:
    """What stands in a text for what ``FILLINGS`` makes when the mail is sent."""
    return f"[{kind}]"


@transaction.atomic(durable=True)
def _begin(mail: Mail) -> bool:
    """Say that the mail server is about to be given it; False if the lease was over and another sender has it."""
    with connection.cursor() as cursor:
        cursor.execute(_BEGIN, [LEASE.seconds, mail.pk, mail.attempts])
        return bool(cursor.rowcount)


def _refused(mail: Mail, error: smtplib.SMTPResponseException) -> State:
    """The server said no, so it has not got it: 5xx for good, 4xx for now (RFC 5321, 4.2.1)."""
    if error.smtp_code >= 500:
        return _end(mail, State.FAILED, failure=_said(error))
    return _again_or_never(mail, error)


def _again_or_never(mail: Mail, error: Exception) -> State:
    if mail.attempts >= ATTEMPTS_MAX:
        return _end(mail, State.FAILED, failure=_said(error))
    return _end(mail, State.PENDING, due=database_now() + PAUSE * (1 << (mail.attempts - 1)), failure=_said(error))


def _end(
    mail: Mail,
    state: State,
    *,
    due: datetime | None = None,
    sent: datetime | None = None,
    counted: int | None = None,
    failure: str = "",
) -> State:
    """Write how a mail stands now."""
    changes: dict[str, Any] = {
        "id": mail.pk, "attempts": mail.attempts, "state": state, "next": due, "sent": sent, "failure": failure,
        "counted": mail.attempts if counted is None else counted,
    }  # fmt: skip
    retry(partial(_write, changes))
    return state


@transaction.atomic(durable=True)
def _write(changes: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_END, changes)


def _said(error: Exception) -> str:
    """An error in short; a mail server's words come as bytes."""
    text = f"{error.smtp_code} {error.smtp_error!r}" if isinstance(error, smtplib.SMTPResponseException) else str(error)
    shown = "".join(letter if letter.isprintable() else " " for letter in f"{type(error).__name__}: {text}")
    return logs.redact(shown)[:FAILURE_CHARS_MAX]
