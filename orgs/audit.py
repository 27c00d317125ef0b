"""The audit trail: who did what to what. The only module that writes ``AuditEntry``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Model

from core import clock, errors, ids, logs, reasons
from core.fields import IdField
from orgs.models import AuditEntry, Organization, User


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: ``user``, ``key`` or ``system`` (a command, a job); ``id`` as customers see it."""

    kind: str
    id: str
    label: str


def system(name: str) -> Actor:
    """The product itself, by the name of the command or job that runs."""
    return Actor(kind="system", id="", label=name)


def user(person: User) -> Actor:
    """A person, in the admin or at a terminal."""
    return Actor(kind="user", id=ids.show("user", person.pk), label=person.email)


def named(email: str) -> Actor:
    """The person with that address, who answers for what is done at a terminal. Raises ``NotFound``.

    The same person as in the admin, so that nobody is a second person to themselves.
    """
    person = User.objects.filter(email=email.strip().lower(), is_active=True).first()
    if person is None:
        raise errors.NotFound(f"Nobody here has the address {email}.", param="email")
    return user(person)


def note(
    *,
    actor: Actor,
    verb: str,
    subject: Model,
    organization: Organization | None = None,
    details: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Write down that ``actor`` did ``verb`` (``key.revoked``) to ``subject``, in the caller's transaction.

    ``subject`` is a row with one of our ids; ``details`` is plain JSON. Anything in them that
    looks like a secret is cut down, in case a person has typed one into a name. The reason that a person gave for what
    is being done is added to them (``core.reasons``).
    """
    assert connection.in_atomic_block, "audit.note needs the transaction of what it notes"
    key = subject._meta.pk
    assert isinstance(key, IdField), f"{subject._meta.label} has no id to note"
    return AuditEntry.objects.create(
        organization=organization,
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_label=logs.redact(actor.label),
        verb=verb,
        subject_type=subject._meta.db_table,
        subject_id=ids.show(key.prefix, subject.pk),
        details=json.loads(logs.redact(json.dumps(reasons.told(details), ensure_ascii=False))),
        at=clock.now(),
    )


def page(*, organization_id: UUID, limit: int, after: str | None) -> tuple[list[AuditEntry], bool]:
    """Entries of an organization, newest first, and whether more follow. Raises ``InvalidCursor``."""
    rows = AuditEntry.objects.for_org(organization_id)
    listed = rows.order_by("-id")
    if after is not None:
        try:
            last = ids.read("aud", after)
        except ValueError as error:
            raise errors.InvalidCursor(param="after") from error
        if not rows.filter(pk=last).exists():
            raise errors.InvalidCursor(param="after")
        listed = listed.filter(pk__lt=last)
    found = list(listed[: limit + 1])
    return found[:limit], len(found) > limit
