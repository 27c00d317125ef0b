"""Four eyes: what one person asks for, another grants. The only module that writes ``Approval``."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import transaction

from core import clock, errors
from ops.models import Approval
from orgs import audit
from orgs.audit import Actor


class SamePerson(errors.PermissionDenied):
    """Who asked cannot grant."""

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
            kind=kind, subject_id=subject_id, decided_at=None, defaults={"asked_by": _who(by), "details": dict(details)}
        )
        if new:
            audit.note(actor=by, verb="approval.asked", subject=asked, details={"kind": kind})
        return asked


def decide(*, approval_id: UUID, by: Actor, grant: bool) -> Approval:
    """Grant or refuse what somebody else asked for. Raises ``SamePerson`` or ``Conflict``."""
    with transaction.atomic():
        asked = Approval.objects.select_for_update(no_key=True).get(pk=approval_id)
        if asked.decided_at is not None:
            raise errors.Conflict("This was decided before.")
        if asked.asked_by == _who(by):
            raise SamePerson
        asked.decided_by, asked.decided_at, asked.granted = _who(by), clock.now(), grant
        asked.save(update_fields=["decided_by", "decided_at", "granted"])
        audit.note(
            actor=by, verb="approval.granted" if grant else "approval.refused", subject=asked,
            details={"kind": asked.kind},
        )  # fmt: skip
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


def _who(by: Actor) -> str:
    """One person whatever they are called: kind and id."""
    return f"{by.kind}:{by.id}"
