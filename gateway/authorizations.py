"""``POST /v1/authorizations`` and ``POST /v1/keys/verify``: read, who, one verb, render (contract 17).

What a customer's key is worth here is what it would be worth at our own door: the same verbs decide.
A raw key is verified and forgotten; no error repeats any text of the body.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import transaction

from billing import admissions, distribution, holds, wallets
from billing.budgets import Counted
from billing.models import Hold
from core import clock, errors, ids, money, wire
from core.transactions import LOCK_NOT_AVAILABLE, RETRYABLE, retry
from gateway.groups import GROUP_LOCK_MS
from metering import catalog
from metering.events import Name
from metering.models import CatalogModel
from orgs import addresses, keys, members, organizations, permissions, principals
from orgs.keys import KeyFacts
from orgs.models import Kind
from orgs.organizations import OrganizationFacts
from orgs.principals import ORGANIZATION_HEADER, Principal, may_name

SECONDS_DEFAULT = 600

Seconds = Annotated[int, msgspec.Meta(ge=1, le=holds.SECONDS_MAX)]


@wire.readable
class Request(admissions.Request, kw_only=True):
    """The body of ``POST /v1/authorizations``."""

    key: str | None = None
    api_key_id: str | None = None
    organization: str | None = None
    client_ip: str | None = None
    ttl_seconds: Seconds = SECONDS_DEFAULT


@wire.readable
class Question(msgspec.Struct, kw_only=True):
    """The body of ``POST /v1/keys/verify``."""

    key: str
    organization: str | None = None
    model: Name | None = None
    client_ip: str | None = None


class Customer(NamedTuple):
    """Whose a customer's request is: the key in its organization, and the personal one that may pay instead."""

    key: KeyFacts
    principal: Principal
    organization: OrganizationFacts
    fallback_id: UUID | None


class Admission(NamedTuple):
    """A request that may be made, and the most that it can come to, if somebody pays for it."""

    customer: Customer
    most: admissions.Most
    seconds: int


def admit(body: Mapping[str, Any], *, asker: Principal) -> Admission:
    """Whether a request may be made, whatever its wallet holds. Raises an ``ApiError``."""
    request = admissions.read(body, Request, ttl_seconds=f"an integer from 1 to {holds.SECONDS_MAX}")
    if (request.key is None) == (request.api_key_id is None):
        both = request.key is not None
        family = errors.InvalidRequest if both else errors.MissingParameter
        raise family("Send key or api_key_id, one of them.", param="api_key_id" if both else "key")
    named = _organization(request.organization, asker)
    key = _verified(request.key) if request.key is not None else _known(request.api_key_id or "", named, asker)
    customer = _customer(key, named, asker=asker, client_ip=request.client_ip)
    model = _model(request.model, customer.principal)
    most = admissions.most(request, model=model, organization_id=customer.organization.id, seconds=request.ttl_seconds)
    return Admission(customer, most, request.ttl_seconds)


def place(admission: Admission, *, asker: Principal) -> dict[str, Any]:
    """Set the money aside inside the caller's transaction; what to answer. Raises as ``holds.place``."""
    return _show_placed(holds.place(_asked(admission, asker)), admission.customer.organization)


def _asked(admission: Admission, asker: Principal) -> holds.Asked:
    customer, most, seconds = admission
    principal, owner = customer.principal, customer.organization
    whose = Counted(owner.id, principal.project_id, principal.member_id, principal.key_id, most.amount_usd, most.tokens)
    sees = permissions.WALLET_READ in principal.permissions
    return holds.Asked(whose, most.model, most.max_output_tokens, seconds, customer.fallback_id, asker.key_id, sees)


def _show_placed(placed: holds.Placed, owner: OrganizationFacts) -> dict[str, Any]:
    hold, wallet = placed
    return _show(hold, owner, status=wallet.status, available_usd=max(wallet.available, money.ZERO))


class Reading(NamedTuple):
    """An admitted request for an authorization that waits for its hold."""

    admission: Admission
    asker: Principal

    @property
    def owners(self) -> frozenset[UUID]:
        """Whose wallet it is about."""
        return frozenset([self.admission.customer.organization.id])

    @property
    def weight(self) -> int:
        """One hold."""
        return 1

    @property
    def kin(self) -> None:
        """Whoever asks: each hold says by whom it was placed."""
        return None


def place_together(readings: Sequence[Reading]) -> list[dict[str, Any] | None]:
    """As ``place`` for requests that came side by side, in a transaction of its own.

    ``None`` for those that must be placed each alone; on a cluster all, where one statement locks for one
    organization. A wallet that is locked is not waited for: then the
    database's error is raised.
    """
    if distribution.is_spread():
        return [None for _ in readings]

    @transaction.atomic(durable=True)
    def work() -> list[holds.Placed | None]:
        return holds.place_together([_asked(one.admission, one.asker) for one in readings], lock_ms=GROUP_LOCK_MS)

    return [
        None if placed is None else _show_placed(placed, reading.admission.customer.organization)
        for placed, reading in zip(retry(work, passing=RETRYABLE - {LOCK_NOT_AVAILABLE}), readings, strict=True)
    ]


def place_alone(reading: Reading) -> dict[str, Any]:
    """As ``place``, in a transaction of its own."""

    @transaction.atomic(durable=True)
    def work() -> dict[str, Any]:
        return place(reading.admission, asker=reading.asker)

    return retry(work)


def named(asker: Principal) -> OrganizationFacts:
    """The organization that a service key's header names. Raises ``MissingParameter``."""
    if asker.organization_id is None:
        raise errors.MissingParameter(f"{ORGANIZATION_HEADER} names the organization.", param=ORGANIZATION_HEADER)
    return organizations.find_ids([asker.organization_id])[asker.organization_id]


def find(shown: str, *, owner: OrganizationFacts) -> dict[str, Any]:
    """An authorization of an organization. Raises ``NotFound``."""
    found = holds.find(organization_id=owner.id, hold_id=_read_id(shown))
    if found is None:
        raise holds.absent()
    return _show_now(found, owner)


def release(shown: str, *, owner: OrganizationFacts) -> dict[str, Any]:
    """Give an authorization up, inside the caller's transaction; one that has ended stays as it ended.

    Raises ``NotFound``.
    """
    return _show_now(holds.release(organization_id=owner.id, hold_id=_read_id(shown)), owner)


def verify(body: Mapping[str, Any], *, asker: Principal) -> dict[str, Any]:
    """Who a customer's key is. The wallet is told and not judged: an empty one is for the gateway to heed.

    Raises an ``ApiError``.
    """
    question = admissions.read(body, Question)
    named = _organization(question.organization, asker)
    customer = _customer(_verified(question.key), named, asker=asker, client_ip=question.client_ip)
    if question.model is not None:
        _model(question.model, customer.principal)
    owner, expires_at = customer.organization, customer.key.expires_at
    return {
        "api_key_id": ids.show("key", customer.key.id),
        "organization": owner.slug,
        "wallet": _wallet(_payer(customer), owner),
        "models": sorted(customer.principal.models),
        "expires_at": None if expires_at is None else clock.to_unix(expires_at),
        "cache_seconds": settings.KEY_CACHE_SECONDS,
    }


def _organization(slug: str | None, asker: Principal) -> OrganizationFacts | None:
    """The organization that the body names, or else the header; None if neither does. Raises ``OrgAccessDenied``."""
    param = ORGANIZATION_HEADER if slug is None else "organization"
    try:
        read = principals.read_slug(asker.default_slug if slug is None else slug)
    except errors.OrgAccessDenied as error:
        raise errors.OrgAccessDenied(param=param) from error
    if read is None:
        return None
    found = organizations.find_slugs([read]).get(read)
    if found is None or found.closed or not may_name(asker.organizations, found.id):
        raise errors.OrgAccessDenied(param=param)
    return found


def _verified(secret: str) -> KeyFacts:
    """The customer's key behind a secret. Raises ``InvalidApiKey``."""
    try:
        key = keys.verify(secret)
    except errors.InvalidApiKey as error:
        raise errors.InvalidApiKey(param="key") from error
    if key.kind == Kind.SERVICE:
        raise errors.InvalidApiKey(param="key")
    return key


def _known(shown: str, named: OrganizationFacts | None, asker: Principal) -> KeyFacts:
    """The customer's key of an id; to a limited gateway the keys of others are as unknown as made-up ones.

    Raises ``InvalidApiKey``.
    """
    try:
        key_id = ids.read("key", shown)
    except ValueError as error:
        raise errors.InvalidApiKey(param="api_key_id") from error
    key = keys.find([key_id]).get(key_id)
    if key is None or not keys.is_good(key) or key.kind == Kind.SERVICE or not _is_theirs(key, named, asker):
        raise errors.InvalidApiKey(param="api_key_id")
    return key


def _is_theirs(key: KeyFacts, named: OrganizationFacts | None, asker: Principal) -> bool:
    """Whether a gateway may know a key: it is of one of its organizations, or of a member of the one it names."""
    assert key.organization_id is not None
    if may_name(asker.organizations, key.organization_id):
        return True
    if key.user_id is None or named is None:
        return False
    return members.find(organization_id=named.id, user_id=key.user_id) is not None


def _customer(key: KeyFacts, named: OrganizationFacts | None, *, asker: Principal, client_ip: str | None) -> Customer:
    """Whose a key's request is, if it may make one. Raises ``OrgAccessDenied``, ``IpNotAllowed``, ``ScopeMissing``."""
    assert key.organization_id is not None
    if named is None and not may_name(asker.organizations, key.organization_id):
        raise errors.OrgAccessDenied(param="organization")
    try:
        principal = principals.resolve(key=key, header=None if named is None else named.slug)
    except errors.OrgAccessDenied as error:
        raise errors.OrgAccessDenied(param="organization") from error
    address = None if client_ip is None else addresses.read(client_ip)
    if client_ip is not None and address is None:
        raise errors.OutOfRange("client_ip must be an IP address.", param="client_ip")
    principals.check_address(key, address)
    if permissions.CALLS_MAKE not in principal.permissions:
        raise errors.ScopeMissing("The key's owner has a role that may not make calls.", param="key")
    assert principal.organization_id is not None
    owner = organizations.find_ids([principal.organization_id])[principal.organization_id]
    fallback_id = key.organization_id if key.user_id is not None and key.organization_id != owner.id else None
    return Customer(key, principal, owner, fallback_id)


def _model(name: str, principal: Principal) -> CatalogModel:
    """The model, if the key may call it. Raises ``ModelNotFound``, ``ModelNotAllowed``."""
    found = admissions.find_model(name)
    catalog.check_allowed(principal.models, found)
    return found


def _payer(customer: Customer) -> wallets.State:
    """The wallet that would pay now: in fallback mode the personal one, once the organization's cannot."""
    own = wallets.state(customer.organization.id)
    if own.can_pay or own.mode != wallets.Mode.FALLBACK or customer.fallback_id is None:
        return own
    other = wallets.state(customer.fallback_id)
    return other if other.can_pay else own


def _read_id(shown: str) -> UUID:
    try:
        return ids.read("auth", shown)
    except ValueError as error:
        raise holds.absent() from error


def _show_now(hold: Hold, owner: OrganizationFacts) -> dict[str, Any]:
    """A hold as it stands, with its payer's wallet as it stands."""
    wallet = wallets.state(hold.payer_id)
    return _show(hold, owner, status=wallet.status, available_usd=wallet.available_usd)


def _show(hold: Hold, owner: OrganizationFacts, *, status: str, available_usd: Decimal) -> dict[str, Any]:
    """A hold on the wire."""
    return {
        "id": ids.show("auth", hold.id),
        "object": "authorization",
        "status": holds.STATUS[Hold.State(hold.state)],
        "api_key_id": None if hold.api_key_id is None else ids.show("key", hold.api_key_id),
        "organization": owner.slug,
        "wallet": _told(hold.payer_id, owner, status=status, available_usd=available_usd),
        "model": hold.model,
        "amount_usd": wire.number(hold.amount_usd),
        "max_output_tokens": hold.max_output_tokens,
        "created_at": clock.to_unix(hold.created_at),
        "expires_at": clock.to_unix(hold.expires_at),
        "settled_at": None if hold.settled_at is None else clock.to_unix(hold.settled_at),
        "usage_record_id": None if hold.record_id is None else ids.show("usage", hold.record_id),
    }


def _wallet(state: wallets.State, owner: OrganizationFacts) -> dict[str, Any]:
    return _told(state.organization_id, owner, status=state.status, available_usd=state.available_usd)


def _told(payer_id: UUID, owner: OrganizationFacts, *, status: str, available_usd: Decimal) -> dict[str, Any]:
    """Which wallet pays. How much a person has is not for the gateway of an organization to know."""
    payer = owner if payer_id == owner.id else organizations.find_ids([payer_id])[payer_id]
    return {
        "organization": payer.slug,
        "status": status,
        "available_usd": wire.number(available_usd) if payer is owner else None,
    }
