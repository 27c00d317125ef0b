"""How much keys and organizations may ask of the gateway. The only module that writes ``RateLimit``."""

import contextlib
from collections.abc import Collection, Mapping
from typing import NamedTuple
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from core import ids
from core.errors import OutOfRange
from orgs import audit, caches
from orgs.audit import Actor
from orgs.models import ApiKey, Kind, Organization, RateLimit

LIMIT_MAX = 1_000_000_000


class Limits(NamedTuple):
    """Requests and tokens a minute, and calls at once; None: without a limit."""

    requests: int | None = None
    tokens: int | None = None
    concurrency: int | None = None


@transaction.atomic
def put(*, subject: ApiKey | Organization, limits: Limits, by: Actor) -> RateLimit:
    """Give a key or an organization these limits in place of those before. Raises ``OutOfRange``."""
    for name, value in limits._asdict().items():
        if value is not None and not 0 < value <= LIMIT_MAX:
            raise OutOfRange(f"{name} lies between 1 and {LIMIT_MAX}, or there is none.", param=name)
    key = subject if isinstance(subject, ApiKey) else None
    if key is not None and key.kind == Kind.SERVICE:
        raise OutOfRange("Limits are for customers' keys; a service key makes no calls.", param="api_key")
    organization = subject if isinstance(subject, Organization) else None
    # The subject's row is the mutex of its limits: there may be none yet.
    type(subject).objects.select_for_update(no_key=True).get(pk=subject.pk)
    row = RateLimit.objects.filter(api_key=key, organization=organization).first()
    before = None if row is None else list(_fact(row))
    row = row or RateLimit(api_key=key, organization=organization)
    row.requests_per_minute, row.tokens_per_minute, row.concurrency = limits
    row.save()
    audit.note(
        actor=by,
        verb="rate_limit.changed",
        subject=subject,
        organization=organization or (None if key is None else key.organization),
        details={"before": before, "after": list(limits)},
    )
    caches.bump()
    return row


def find_subject(*, organization: str = "", api_key: str = "") -> ApiKey | Organization:
    """The organization of a slug, or the key of an id as shown. Raises ``OutOfRange``."""
    if bool(organization) == bool(api_key):
        raise OutOfRange("Name an organization or a key.", param="organization")
    found: ApiKey | Organization | None = None
    if organization:
        found = Organization.objects.filter(slug=organization.strip().lower()).first()
    else:
        with contextlib.suppress(ValueError):
            found = ApiKey.objects.filter(pk=ids.read("key", api_key.strip()), deleted_at__isnull=True).first()
    if found is None:
        param = "organization" if organization else "api_key"
        raise OutOfRange(f"There is no such {param}.", param=param)
    return found


def find(subjects: Collection[UUID]) -> dict[UUID, Limits]:
    """The limits of those keys and organizations that have any, by id; usually without a query."""
    found = _by_subject.get_many(subjects)
    return {subject: limits for subject, limits in found.items() if limits != _NONE}


def stored(subjects: Collection[UUID]) -> dict[UUID, Limits]:
    """The same as they stand in the database, for whoever has just changed them; one query."""
    return {subject: limits for subject, limits in _load(subjects).items() if limits != _NONE}


_NONE = Limits()


def _fact(row: RateLimit) -> Limits:
    return Limits(row.requests_per_minute, row.tokens_per_minute, row.concurrency)


def _load(subjects: Collection[UUID]) -> Mapping[UUID, Limits]:
    rows = RateLimit.objects.filter(Q(api_key__in=list(subjects)) | Q(organization__in=list(subjects)))
    # Who has none is remembered like who has: most have none, and are asked about with every call.
    found = dict.fromkeys(subjects, _NONE)
    for row in rows:
        subject = row.api_key_id or row.organization_id
        assert subject is not None
        found[subject] = _fact(row)
    return found


_by_subject: caches.Cached[UUID, Limits] = caches.Cached(_load)
