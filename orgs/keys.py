"""API keys: issue, rotate, revoke, delete, verify. The only module that writes ``ApiKey``.

A secret is ``dtk_``, 32 random bytes in base62 padded to 43 characters, and the CRC-32 of all
that in base62 padded to 6: a scanner can tell a real key from noise without asking us, and a
mistyped key is refused before anything is looked up. Only the SHA-256 of the secret is kept;
it has 256 random bits, so a slow hash would protect nothing more.
"""

import hashlib
import re
import secrets
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from core import clock, ids, logs
from core.errors import Conflict, InvalidApiKey, NotFound, OutOfRange
from orgs import addresses, audit, caches, permissions
from orgs.audit import Actor
from orgs.models import ApiKey, Kind, Organization, Project, User

PREFIX = "dtk_"
RANDOM_BYTES = 32
BODY_LENGTH = 43
CHECK_LENGTH = 6
NAME_LENGTH_MAX = 100
LIST_MAX = 100
MODEL_LENGTH_MAX = 200
CIDR_LENGTH_MAX = 64

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{BODY_LENGTH + CHECK_LENGTH}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key and its secret, which exists nowhere else and is shown once."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a process keeps of a key; never its secret.

    ``revoked`` is also true of a deleted key, of an inactive person's and of a closed organization's.
    """

    id: UUID
    kind: Kind
    name: str
    organization_id: UUID | None
    user_id: UUID | None
    project_id: UUID | None
    scopes: frozenset[str]
    models: frozenset[str]
    networks: tuple[addresses.Network, ...]
    organizations: frozenset[UUID]
    trust_client_header: bool
    expires_at: datetime | None
    revoked: bool


def new_secret() -> str:
    """A fresh secret with its checksum."""
    body = _base62(int.from_bytes(secrets.token_bytes(RANDOM_BYTES)), BODY_LENGTH)
    return PREFIX + body + _checksum(PREFIX + body)


def well_formed(secret: str) -> bool:
    """Whether the shape and the checksum are right; says nothing about whether such a key exists."""
    return _SHAPE.fullmatch(secret) is not None and _checksum(secret[:-CHECK_LENGTH]) == secret[-CHECK_LENGTH:]


def mentions(text: str) -> bool:
    """Whether a text holds what has the shape of a key, whether there is such a key or not."""
    return _SHAPE.search(text) is not None


def digest(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def issue(
    *,
    kind: Kind,
    name: str,
    by: Actor,
    organization: Organization | None = None,
    user: User | None = None,
    project_id: UUID | None = None,
    scopes: Collection[str] = (),
    models: Collection[str] = (),
    cidrs: Collection[str] = (),
    organizations: Collection[UUID] = (),
    trust_client_header: bool = False,
    expires_at: datetime | None = None,
    created_by: User | None = None,
) -> IssuedKey:
    """Make a key and tell its secret, once.

    A personal key's ``organization`` is its owner's personal one; a service key has none and may
    be limited to ``organizations``. Raises ``OutOfRange`` for a value that is not allowed.
    """
    assert user is None or (organization is not None and organization.personal_of_id == user.pk)
    if project_id is not None:
        assert organization is not None
        assert Project.objects.for_org(organization.pk).filter(pk=project_id).exists()
    _check_name(name)
    check_models(models)
    known = permissions.SERVICE_SCOPES if kind == Kind.SERVICE else permissions.CUSTOMER_SCOPES
    if unknown := sorted(set(scopes) - known):
        raise OutOfRange(
            f"There is no scope {unknown[0][:64]!r}; there are {', '.join(sorted(known))}.", param="scopes"
        )
    if expires_at is not None and expires_at <= clock.now():
        raise OutOfRange("expires_at must be in the future.", param="expires_at")
    secret = new_secret()
    with transaction.atomic():
        key = ApiKey.objects.create(
            kind=kind,
            name=name,
            digest=digest(secret),
            last_four=secret[-4:],
            organization=organization,
            user=user,
            project_id=project_id,
            scopes=sorted(set(scopes)),
            allowed_models=sorted(set(models)),
            cidrs=[str(each) for each in networks(cidrs)],
            organizations=sorted(set(organizations)),
            trust_client_header=trust_client_header,
            expires_at=expires_at,
            created_by=created_by,
        )
        details = {
            "name": name,
            "kind": kind,
            "scopes": key.scopes,
            "models": key.allowed_models,
            "cidrs": key.cidrs,
            "organizations": [ids.show("org", each) for each in key.organizations],
            "project": None if project_id is None else ids.show("proj", project_id),
        }
        audit.note(actor=by, verb="key.issued", subject=key, organization=organization, details=details)
        caches.bump()
    return IssuedKey(key=key, secret=secret)


@transaction.atomic
def rotate(*, key_id: UUID, by: Actor) -> IssuedKey:
    """Replace a key's secret; the old one stops working at once.

    Raises ``NotFound`` for a deleted key and ``Conflict`` for a revoked one.
    """
    key = _lock(key_id)
    if key.revoked_at is not None:
        raise Conflict("A revoked key cannot be rotated; create another.")
    secret = new_secret()
    key.digest, key.last_four = digest(secret), secret[-4:]
    key.save(update_fields=["digest", "last_four"])
    audit.note(actor=by, verb="key.rotated", subject=key, organization=key.organization)
    caches.bump()
    return IssuedKey(key=key, secret=secret)


@transaction.atomic
def revoke(*, key_id: UUID, by: Actor) -> ApiKey:
    """Stop a key for good; revoking it again changes nothing. Raises ``NotFound`` for a deleted key."""
    key = _lock(key_id)
    if key.revoked_at is None:
        key.revoked_at = clock.now()
        key.save(update_fields=["revoked_at"])
        audit.note(actor=by, verb="key.revoked", subject=key, organization=key.organization)
        caches.bump()
    return key


@transaction.atomic
def delete(*, key_id: UUID, by: Actor) -> None:
    """Revoke a key and take it out of every list; what it was used for stays. Raises ``NotFound``."""
    key = _lock(key_id)
    now = clock.now()
    key.revoked_at = key.revoked_at or now
    key.deleted_at = now
    key.save(update_fields=["revoked_at", "deleted_at"])
    audit.note(actor=by, verb="key.deleted", subject=key, organization=key.organization)
    caches.bump()


def verify(secret: str) -> KeyFacts:
    """The key behind a secret. Raises ``InvalidApiKey`` for whatever is wrong with it.

    A bad checksum costs no lookup; a known key costs none either until the cache is stale.
    """
    if not well_formed(secret):
        raise InvalidApiKey
    key = _by_digest.get(digest(secret))
    if key is None or not is_good(key):
        raise InvalidApiKey
    return key


def is_good(key: KeyFacts) -> bool:
    """Whether a key still works: neither revoked nor past its end."""
    return not key.revoked and (key.expires_at is None or key.expires_at > clock.now())


def find(key_ids: Collection[UUID]) -> dict[UUID, KeyFacts]:
    """Keys by id, the revoked and deleted ones too: what they were used for is still charged."""
    return _by_id.get_many(key_ids)


def check_models(models: Collection[str]) -> None:
    """Whether names could be those of models, whatever the catalog holds. Raises ``OutOfRange``."""
    _check_list("models", models)
    if any(not 0 < len(model) <= MODEL_LENGTH_MAX or not model.isprintable() for model in models):
        raise OutOfRange(f"A model id has 1 to {MODEL_LENGTH_MAX} printable characters.", param="models")
    if any(logs.SECRETS.search(model) for model in models):
        raise OutOfRange("models holds what looks like a secret.", param="models")


def networks(cidrs: Collection[str]) -> list[addresses.Network]:
    """The networks written in a list of CIDRs. Raises ``OutOfRange``."""
    _check_list("cidrs", cidrs)
    if any(len(each) > CIDR_LENGTH_MAX for each in cidrs):
        raise OutOfRange("cidrs holds something too long for a network.", param="cidrs")
    try:
        return [addresses.network(each) for each in cidrs]
    except ValueError as error:
        raise OutOfRange(f"cidrs: {error}.", param="cidrs") from error


def _lock(key_id: UUID) -> ApiKey:
    found = (
        ApiKey.objects.select_for_update(of=("self",), no_key=True)
        .select_related("organization")
        .filter(pk=key_id, deleted_at__isnull=True)
        .first()
    )
    if found is None:
        raise NotFound
    return found


def _facts(condition: Q) -> Sequence[tuple[bytes, KeyFacts]]:
    """Digests and facts of the keys that match, in one query."""
    rows = ApiKey.objects.filter(condition).select_related("user", "organization")
    return [(bytes(row.digest), _fact(row)) for row in rows]


def _fact(row: ApiKey) -> KeyFacts:
    idle = row.user is not None and not row.user.is_active
    closed = row.organization is not None and row.organization.closed_at is not None
    return KeyFacts(
        id=row.pk,
        kind=Kind(row.kind),
        name=row.name,
        organization_id=row.organization_id,
        user_id=row.user_id,
        project_id=row.project_id,
        scopes=frozenset(row.scopes),
        models=frozenset(row.allowed_models),
        networks=tuple(addresses.network(each) for each in row.cidrs),
        organizations=frozenset(row.organizations),
        trust_client_header=row.trust_client_header,
        expires_at=row.expires_at,
        revoked=row.revoked_at is not None or idle or closed,
    )


def _load_by_digest(digests: Collection[bytes]) -> Mapping[bytes, KeyFacts]:
    return dict(_facts(Q(digest__in=list(digests))))


def _load_by_id(key_ids: Collection[UUID]) -> Mapping[UUID, KeyFacts]:
    return {facts.id: facts for _, facts in _facts(Q(pk__in=list(key_ids)))}


_by_digest: caches.Cached[bytes, KeyFacts] = caches.Cached(_load_by_digest)
_by_id: caches.Cached[UUID, KeyFacts] = caches.Cached(_load_by_id)


def _base62(number: int, length: int) -> str:
    letters = []
    while number:
        number, remainder = divmod(number, 62)
        letters.append(_ALPHABET[remainder])
    return "".join(reversed(letters)).rjust(length, _ALPHABET[0])


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), CHECK_LENGTH)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise OutOfRange(f"name has 1 to {NAME_LENGTH_MAX} printable characters.", param="name")
    if logs.SECRETS.search(name):
        raise OutOfRange("name looks like a secret; call the key after its use.", param="name")


def _check_list(param: str, values: Collection[str]) -> None:
    if len(values) > LIST_MAX:
        raise OutOfRange(f"{param} holds at most {LIST_MAX} entries.", param=param)
