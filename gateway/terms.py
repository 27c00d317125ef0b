"""What organizations have agreed to for model calls. The only module that writes ``CallTerms``."""

from collections.abc import Collection, Mapping
from uuid import UUID

from django.db import transaction

from core import errors
from gateway.models import CallTerms
from orgs import audit, caches
from orgs.audit import Actor
from orgs.models import Organization

HangUp = CallTerms.HangUp


def _load(keys: Collection[UUID]) -> Mapping[UUID, str]:
    found = CallTerms.objects.filter(pk__in=list(keys)).values_list("pk", "on_hang_up")
    # An organization without a row is remembered like any other.
    return {**dict.fromkeys(keys, HangUp.DRAIN.value), **dict(found)}


_kept: caches.Cached[UUID, str] = caches.Cached(_load)


def on_hang_up(organization_id: UUID) -> str:
    """``drain`` or ``estimate``."""
    found = _kept.get(organization_id)
    assert found is not None
    return found


@transaction.atomic
def change(*, organization_id: UUID, on_hang_up: str, reason: str, by: Actor) -> None:
    """Calls that begin afterwards go by it. Raises ``OutOfRange``."""
    if on_hang_up not in HangUp.values:
        raise errors.OutOfRange(f"on_hang_up is one of {', '.join(HangUp.values)}.", param="on_hang_up")
    organization = Organization.objects.get(pk=organization_id)
    before = CallTerms.objects.filter(pk=organization_id).values_list("on_hang_up", flat=True).first()
    CallTerms.objects.update_or_create(organization=organization, defaults={"on_hang_up": on_hang_up})
    audit.note(
        actor=by, verb="call_terms.changed", subject=organization, organization=organization,
        details={"before": before or HangUp.DRAIN.value, "on_hang_up": on_hang_up, "reason": reason},
    )  # fmt: skip
    caches.bump()
