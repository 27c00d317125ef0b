"""Four eyes: what one person asks for, another grants. The only module that writes ``Approval``.

Another account is not yet another person. One with the same mailbox is the same; and so is one that the asker has
made, or can have got into since, because they set its password, changed its address or reset its second factor.

Most acts wait for a yes and are then done by whoever asked. Those of the kinds in ``ON_GRANT`` are done by the yes.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from core import clock, errors, ids, reasons
from ops.models import Approval
from orgs import audit
from orgs.audit import Actor
from orgs.models import AuditEntry, User

# For so long after somebody had an account in their hands it counts as theirs.
IN_HAND: Final = timedelta(days=7)
_OPENED: Final = ("user.created", "user.password_set", "second_factor.reset")
# What is done in the transaction that grants a kind, by whoever grants: the app that asks adds its own. What it refuses
# refuses the grant too, and the question stays open.
ON_GRANT: Final[dict[str, Callable[[Approval, Actor], None]]] = {}


class SamePerson(errors.PermissionDenied):
    """Who asked cannot decide, nor another account of theirs."""

    code = "second_person_needed"
    default = "A second person has to decide this."


class ApprovalNeeded(errors.Conflict):
    """The act waits for a second person."""

    code = "approval_needed"
    default = "This waits for a second person's approval."


class Refused(errors.Conflict):
    """A second person said no; who still wants it starts again."""

    default = "A second person refused this."


def ask(*, kind: str, subject_id: UUID, by: Actor, details: Mapping[str, Any]) -> Approval:
    """Ask once: an approval that is still open is returned as it is."""
    with transaction.atomic():
        asked, new = Approval.objects.get_or_create(
            kind=kind,
            subject_id=subject_id,
            decided_at=None,
            defaults={"asked_by": _who(by), "details": reasons.told(details)},
        )
        if new:
            audit.note(actor=by, verb="approval.asked", subject=asked, details={"kind": kind})
        return asked


def need(*, kind: str, subject_id: UUID, by: Actor, details: Mapping[str, Any]) -> None:
    """Ask, and raise ``ApprovalNeeded`` until a second person has granted it, or ``Refused``.

    The question is committed with what the caller has done before; nothing is done after it.
    """
    decided = decision(kind=kind, subject_id=subject_id)
    if decided:
        return
    if decided is False:
        raise Refused
    ask(kind=kind, subject_id=subject_id, by=by, details=details)
    raise ApprovalNeeded


def decide(*, approval_id: UUID, by: Actor, grant: bool) -> Approval:
    """Grant or refuse what somebody else asked for; what is done by granting is done.

    Raises ``SamePerson``, ``Conflict`` or ``PermissionDenied``, and whatever the act itself raises.
    """
    with transaction.atomic():
        asked = Approval.objects.select_for_update(no_key=True).get(pk=approval_id)
        if asked.decided_at is not None:
            raise errors.Conflict("This was decided before.")
        if asked.asked_by == _who(by):
            raise SamePerson
        _refuse_second_account(asked, by)
        asked.decided_by, asked.decided_at, asked.granted = _who(by), clock.now(), grant
        asked.save(update_fields=["decided_by", "decided_at", "granted"])
        audit.note(
            actor=by, verb="approval.granted" if grant else "approval.refused", subject=asked,
            details={"kind": asked.kind},
        )  # fmt: skip
        if grant and (act := ON_GRANT.get(asked.kind)):
            act(asked, by)
        return asked


def granted(*, kind: str, subject_id: UUID) -> bool:
    """Whether a second person said yes, and nobody no."""
    return decision(kind=kind, subject_id=subject_id) is True


def decision(*, kind: str, subject_id: UUID) -> bool | None:
    """What was decided: granted by a second person and refused by none, refused, or nothing yet."""
    decisions = Approval.objects.filter(kind=kind, subject_id=subject_id, decided_at__isnull=False)
    found = set(decisions.values_list("granted", flat=True))
    return None if not found else found == {True}


def refusal(*, kind: str, subject_id: UUID) -> Approval | None:
    """The question about something that a second person answered with no, if one was."""
    return Approval.objects.filter(kind=kind, subject_id=subject_id, granted=False).order_by("pk").first()


def asker(asked: Approval) -> str:
    """Who asked, as rows and the audit trail name people: an e-mail address, or who it is if nobody of ours."""
    _, _, shown = asked.asked_by.partition(":")
    return _address(shown) or shown


def _who(by: Actor) -> str:
    """One person whatever they are called: kind and id."""
    return f"{by.kind}:{by.id}"


def _refuse_second_account(asked: Approval, by: Actor) -> None:
    """Raise ``SamePerson`` if whoever asked has, or has had in hand, the account that decides."""
    kind, _, asker = asked.asked_by.partition(":")
    if kind != by.kind or kind != "user":
        return
    if _mailbox(asker) == _mailbox(by.id) != "":
        raise SamePerson("A second person has to decide this: both accounts have the same mailbox.")
    touched = Q(verb__in=_OPENED) | Q(verb="user.changed", details__changed__contains="email")
    if AuditEntry.objects.filter(touched, subject_id=by.id, actor_id=asker, at__gte=asked.asked_at - IN_HAND).exists():
        raise SamePerson(
            f"A second person has to decide this: whoever asked had this account in hand within {IN_HAND.days} days."
        )


def _mailbox(shown: str) -> str:
    """Where mail to a person ends up: their address without what follows a plus; empty for nobody of ours."""
    email = _address(shown)
    name, _, host = email.rpartition("@")
    return f"{name.partition('+')[0]}@{host}" if email else ""


def _address(shown: str) -> str:
    """A person's address by their id; empty for nobody of ours."""
    try:
        key = ids.read("user", shown)
    except ValueError:
        return ""
    return User.objects.filter(pk=key).values_list("email", flat=True).first() or ""
