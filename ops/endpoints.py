"""Where organizations want to be told what happens. The only module that writes ``WebhookEndpoint``.

Every read starts from the organization, so a foreign endpoint and a made-up one are the same: not there.
A secret is shown when it is made and never again; it is kept sealed (``core.sealing``), because unlike a key's
it is needed to sign with. One endpoint is sent to by one sender at a time (``take``, ``settle``).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from core import clock, errors, ids, sealing
from ops import egress, happenings, outbox, signatures
from ops.models import ENDPOINTS_MAX, WebhookEndpoint
from orgs import audit
from orgs.audit import Actor
from orgs.models import Organization

# Both secrets sign for so long after a rotation.
OLD_SECRET_LIFE = timedelta(hours=24)
# Failing for so long without one success disables an endpoint.
FAILING_MAX = timedelta(days=5)
# The answer that means "never again" (RFC 9110, 15.5.11).
GONE: Final = 410

BY_HAND = "switched off"
_DISABLED = "webhook_endpoint.disabled"

# An endpoint's turn: one that has something due and nobody at it; any one, so that none always comes last.
_TAKE = """
    UPDATE webhook_endpoint SET busy_until = clock_timestamp() + make_interval(secs => %(lease)s) WHERE id = (
        SELECT e.id FROM webhook_endpoint e
        WHERE e.enabled AND e.deleted_at IS NULL AND (e.busy_until IS NULL OR e.busy_until <= clock_timestamp())
            AND (e.failing_since IS NULL) = %(calm)s
            AND EXISTS (
                SELECT FROM webhook_delivery d
                WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= clock_timestamp()
            )
        ORDER BY random()
        LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) RETURNING id
"""


class TooManyEndpoints(errors.Conflict):
    """An organization has as many as it may."""

    code = "too_many_webhook_endpoints"
    default = f"An organization has at most {ENDPOINTS_MAX} webhook endpoints."


class Disabled(errors.Conflict):
    """Nothing is sent to an endpoint that is switched off."""

    code = "webhook_endpoint_disabled"
    default = "The endpoint is disabled; enable it first."


@dataclass(frozen=True, slots=True)
class Issued:
    """An endpoint and its secret, which is shown once."""

    endpoint: WebhookEndpoint
    secret: str = field(repr=False)


def of(organization_id: UUID) -> list[WebhookEndpoint]:
    """An organization's endpoints, newest first."""
    return list(WebhookEndpoint.objects.for_org(organization_id).filter(deleted_at=None).order_by("-id"))


def find(*, organization_id: UUID, shown: str) -> WebhookEndpoint:
    """One of an organization's endpoints by the id that customers see. Raises ``NotFound``."""
    try:
        wanted = ids.read("we", shown)
    except ValueError as error:
        raise errors.NotFound from error
    return _get(organization_id, wanted)


def wanting(*, organization_id: UUID, kind: str) -> list[UUID]:
    """The endpoints of an organization that want to be told of a kind."""
    if kind not in happenings.KINDS:
        return []
    rows = WebhookEndpoint.objects.for_org(organization_id).filter(deleted_at=None, enabled=True).order_by("id")
    return [key for key, kinds in rows.values_list("pk", "kinds") if not kinds or kind in kinds]


def create(*, organization_id: UUID, url: str, kinds: Collection[str] = (), by: Actor) -> Issued:
    """Make an endpoint; its secret is in this answer only.

    Raises ``OutOfRange`` for a URL that we do not send to or an unknown kind, ``TooManyEndpoints``.
    """
    checked, wanted = _url(url), _kinds(kinds)
    key, secret = ids.new(), signatures.new_secret()
    with transaction.atomic():
        owner = _lock_organization(organization_id)
        taken = set(WebhookEndpoint.objects.for_org(owner.pk).filter(deleted_at=None).values_list("slot", flat=True))
        free = next((slot for slot in range(ENDPOINTS_MAX) if slot not in taken), None)
        if free is None:
            raise TooManyEndpoints
        made = WebhookEndpoint.objects.create(
            pk=key, organization=owner, slot=free, url=checked, kinds=wanted, secret=_seal(key, secret),
            created_by=f"{by.kind}:{by.id or by.label}",
        )  # fmt: skip
        _note(by, "created", made)
    return Issued(made, secret)


def change(
    *,
    organization_id: UUID,
    endpoint_id: UUID,
    url: str | None = None,
    kinds: Collection[str] | None = None,
    enabled: bool | None = None,
    by: Actor,
) -> WebhookEndpoint:
    """Change what is given and leave the rest. Enabling forgets past failures; disabling cancels what waits.

    Raises ``NotFound`` or ``OutOfRange``.
    """
    checked = None if url is None else _url(url)
    wanted = None if kinds is None else _kinds(kinds)
    with transaction.atomic():
        row = _lock(organization_id, endpoint_id)
        row.url = row.url if checked is None else checked
        row.kinds = row.kinds if wanted is None else wanted
        if enabled is True and not row.enabled:
            row.enabled, row.disabled_at, row.disabled_reason, row.failing_since = True, None, "", None
        elif enabled is False and row.enabled:
            row.enabled, row.disabled_at, row.disabled_reason = False, clock.now(), BY_HAND
        row.save(update_fields=["url", "kinds", "enabled", "disabled_at", "disabled_reason", "failing_since"])
        _note(by, "changed", row)
    return row


def rotate(*, organization_id: UUID, endpoint_id: UUID, by: Actor) -> Issued:
    """Replace an endpoint's secret; the old one signs as well for ``OLD_SECRET_LIFE``. Raises ``NotFound``."""
    secret = signatures.new_secret()
    with transaction.atomic():
        row = _lock(organization_id, endpoint_id)
        row.old_secret, row.old_secret_until = row.secret, clock.now() + OLD_SECRET_LIFE
        row.secret = _seal(row.pk, secret)
        row.save(update_fields=["secret", "old_secret", "old_secret_until"])
        _note(by, "secret_rotated", row)
    return Issued(row, secret)


def delete(*, organization_id: UUID, endpoint_id: UUID, by: Actor) -> None:
    """Take an endpoint out of use for good, its secrets with it; what was sent stays listed. Raises ``NotFound``."""
    with transaction.atomic():
        row = _lock(organization_id, endpoint_id)
        row.deleted_at, row.secret, row.old_secret, row.old_secret_until = clock.now(), b"", None, None
        row.save(update_fields=["deleted_at", "secret", "old_secret", "old_secret_until"])
        _note(by, "deleted", row)


def keys_of(endpoint: WebhookEndpoint, *, at: datetime) -> list[bytes]:
    """What signs an endpoint's messages at an instant, the newest first. Raises ``sealing.Unreadable``."""
    sealed = [endpoint.secret]
    if endpoint.old_secret is not None and endpoint.old_secret_until is not None and endpoint.old_secret_until > at:
        sealed.append(endpoint.old_secret)
    masters = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [sealing.unseal(bytes(each), context=endpoint.pk.bytes, masters=masters) for each in sealed]


def take(*, lease: timedelta, calm: bool) -> UUID | None:
    """An endpoint with something due that nobody is sending to, now the caller's until the lease ends.

    ``calm``: one that is not failing; otherwise one that is. In the caller's transaction, before any row of its
    deliveries.
    """
    assert connection.in_atomic_block, "a turn is taken together with what is sent in it"
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, {"lease": lease.seconds, "calm": calm})
        found = cursor.fetchone()
    return None if found is None else found[0]


def settle(*, endpoint_id: UUID, status: int | None, taken: bool, at: datetime) -> None:
    """End a turn, in the caller's transaction: note how it went, and disable what is gone or has long been failing."""
    assert connection.in_atomic_block, "a turn ends together with what became of it"
    row = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint_id)
    row.busy_until = None
    row.failing_since = None if taken else row.failing_since or at
    row.save(update_fields=["busy_until", "failing_since"])
    if taken or not row.enabled or row.deleted_at is not None:
        return
    if status == GONE:
        _disable(row, reason=f"it answered {GONE}", at=at)
    elif row.failing_since is not None and at - row.failing_since >= FAILING_MAX:
        _disable(row, reason=f"it has failed for {FAILING_MAX.days} days", at=at)


def _disable(row: WebhookEndpoint, *, reason: str, at: datetime) -> None:
    """Switch an endpoint off and tell its organization."""
    row.enabled, row.disabled_at, row.disabled_reason = False, at, reason
    row.save(update_fields=["enabled", "disabled_at", "disabled_reason"])
    _note(audit.system("webhooks"), "disabled", row)
    outbox.post(
        kind=_DISABLED, organization_id=row.organization_id, key=f"{row.pk}:{at.isoformat()}",
        data={"webhook_endpoint": ids.show("we", row.pk), "url": row.url, "reason": reason},
    )  # fmt: skip


def _url(text: str) -> str:
    """Raises ``OutOfRange``."""
    try:
        egress.read(text, local=settings.WEBHOOKS_ALLOW_LOCAL)
    except egress.Refused as error:
        raise errors.OutOfRange(f"url: {error}.", param="url") from error
    return text


def _kinds(wanted: Collection[str]) -> list[str]:
    """Raises ``OutOfRange``."""
    if unknown := sorted(set(wanted) - happenings.KINDS.keys()):
        raise errors.OutOfRange(
            f"There is no event {unknown[0][:64]!r}; there are {', '.join(happenings.KINDS)}.", param="events"
        )
    return sorted(set(wanted))


def _seal(endpoint_id: UUID, secret: str) -> bytes:
    return sealing.seal(signatures.key_of(secret), context=endpoint_id.bytes, master=settings.SECRET_KEY)


def _lock_organization(organization_id: UUID) -> Organization:
    """The organization's row, locked: it is the mutex of how many endpoints there are."""
    return Organization.objects.select_for_update(no_key=True).get(pk=organization_id)


def _lock(organization_id: UUID, endpoint_id: UUID) -> WebhookEndpoint:
    return _one(WebhookEndpoint.objects.for_org(organization_id).select_for_update(no_key=True).filter(pk=endpoint_id))


def _get(organization_id: UUID, endpoint_id: UUID) -> WebhookEndpoint:
    return _one(WebhookEndpoint.objects.for_org(organization_id).filter(pk=endpoint_id))


def _one(rows: Iterable[WebhookEndpoint]) -> WebhookEndpoint:
    found = next((row for row in rows if row.deleted_at is None), None)
    if found is None:
        raise errors.NotFound
    return found


def _note(by: Actor, what: str, row: WebhookEndpoint) -> None:
    details = {"url": row.url, "events": row.kinds, "enabled": row.enabled, "reason": row.disabled_reason}
    audit.note(actor=by, verb=f"webhook_endpoint.{what}", subject=row, organization=row.organization, details=details)
