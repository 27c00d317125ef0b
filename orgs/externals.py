"""Ids that other systems use, and whom we charge for each. The only module that writes ``ExternalId``.

A proxy knows its own keys, users, teams and organizations. Each of its ids can stand for one of our
keys, people or organizations, for every reporter or for the one service key that reports it: two
proxies may well call different teams the same.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Model, Q, QuerySet

from core import ids, logs
from core.errors import Conflict, NotFound, OutOfRange
from orgs import audit, caches, keys, organizations
from orgs.audit import Actor
from orgs.models import ApiKey, ExternalId, Kind, Organization, User

VALUE_LENGTH_MAX = 128

M = TypeVar("M", bound=Model)

# The reporting service key (None: whichever), what kind of id it is, and the id.
Name = tuple[UUID | None, str, str]


@dataclass(frozen=True, slots=True)
class ExternalFacts:
    """Whom an external id stands for; ``organization_id`` pays where nothing else is said.

    With a key, it and its person; with a person, their personal organization.
    """

    organization_id: UUID
    api_key_id: UUID | None = None
    user_id: UUID | None = None


@transaction.atomic
def put(
    *,
    kind: str,
    value: str,
    by: Actor,
    reporter: ApiKey | None = None,
    api_key: ApiKey | None = None,
    user: User | None = None,
    organization: Organization | None = None,
) -> ExternalId:
    """Let an external id stand for a key, a person or an organization, in place of what it stood for before.

    Raises ``OutOfRange`` for what cannot be mapped and ``Conflict`` if somebody else maps it right now.
    """
    if kind not in ExternalId.Kind.values:
        raise OutOfRange(f"kind is one of {', '.join(ExternalId.Kind.values)}.", param="kind")
    if not 0 < len(value) <= VALUE_LENGTH_MAX or not value.isprintable() or value.strip() != value:
        raise OutOfRange(f"value has 1 to {VALUE_LENGTH_MAX} printable characters.", param="value")
    if keys.mentions(value) or logs.SECRETS.search(value):
        raise OutOfRange("value looks like a secret; map the id or the hash of it.", param="value")
    if sum(each is not None for each in (api_key, user, organization)) != 1:
        raise OutOfRange("An external id stands for a key, a person or an organization.", param="value")
    if api_key is not None and (api_key.kind == Kind.SERVICE or api_key.deleted_at is not None):
        raise OutOfRange("An external id stands for a customer's key.", param="api_key")
    if reporter is not None and reporter.kind != Kind.SERVICE:
        raise OutOfRange("Only a service key reports usage.", param="reporter")
    if user is not None:
        organizations.ensure_personal(user, by=by)
    found = ExternalId.objects.select_for_update(no_key=True).filter(kind=kind, value=value, reporter=reporter).first()
    row = found or ExternalId(kind=kind, value=value, reporter=reporter)
    before = _target(row)
    row.api_key, row.user, row.organization = api_key, user, organization
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise Conflict("This id is being mapped by somebody else.", param="value") from error
    details = {"kind": kind, "value": value, "from": before, "to": _target(row)}
    audit.note(actor=by, verb="external_id.mapped", subject=row, organization=_whose(row), details=details)
    caches.bump()
    return row


def put_shown(
    *,
    kind: str,
    value: str,
    by: Actor,
    organization: str = "",
    user: str = "",
    api_key: str = "",
    reporter: str = "",
) -> ExternalId:
    """As ``put``, of what people type: a slug, an e-mail address, ids of keys. Raises ``OutOfRange``."""
    return put(
        kind=kind,
        value=value,
        by=by,
        reporter=_key("reporter", reporter),
        api_key=_key("api_key", api_key),
        user=_one("user", User.objects.filter(email=user.strip().lower()), user),
        organization=_one("organization", Organization.objects.filter(slug=organization.strip().lower()), organization),
    )


def _key(param: str, shown: str) -> ApiKey | None:
    if not shown:
        return None
    try:
        key_id = ids.read("key", shown.strip())
    except ValueError as error:
        raise OutOfRange(f"{param} is the id of a key: key_…", param=param) from error
    return _one(param, ApiKey.objects.filter(pk=key_id, deleted_at__isnull=True), shown)


def _one(param: str, rows: QuerySet[M], told: str) -> M | None:
    """The row that somebody named, none if they named nothing. Raises ``OutOfRange``."""
    if not told:
        return None
    found = rows.first()
    if found is None:
        raise OutOfRange(f"There is no such {param}.", param=param)
    return found


@transaction.atomic
def drop(*, external_id: UUID, by: Actor) -> None:
    """Let an external id stand for nobody: what is reported of it waits for finance. Raises ``NotFound``."""
    row = ExternalId.objects.select_for_update(of=("self",), no_key=True).filter(pk=external_id).first()
    if row is None:
        raise NotFound
    details = {"kind": row.kind, "value": row.value, "from": _target(row)}
    audit.note(actor=by, verb="external_id.dropped", subject=row, organization=_whose(row), details=details)
    ExternalId.objects.filter(pk=row.pk).delete()
    caches.bump()


def find_shown(*, kind: str, value: str, reporter: str = "") -> ExternalId:
    """The mapping that holds for exactly this reporter's id as shown, or for all. Raises ``NotFound``."""
    row = ExternalId.objects.filter(kind=kind, value=value, reporter=_key("reporter", reporter)).first()
    if row is None:
        raise NotFound("This id is not mapped.")
    return row


def resolve(named: Collection[tuple[str, str]], *, reporter: UUID | None) -> dict[tuple[str, str], ExternalFacts]:
    """Whom (kind, id) pairs of a reporter stand for, its own mapping before the general one; at most one query."""
    wanted: list[Name] = [(None, *name) for name in named]
    if reporter is not None:
        wanted += [(reporter, *name) for name in named]
    found = _by_name.get_many(wanted)
    told: dict[tuple[str, str], ExternalFacts] = {}
    for name in named:
        facts = found.get((reporter, *name)) or found.get((None, *name))
        if facts is not None:
            told[name] = facts
    return told


def _target(row: ExternalId) -> str | None:
    """What a row stands for, as shown; None for a new one."""
    shown: Sequence[tuple[str, UUID | None]] = (
        ("key", row.api_key_id), ("user", row.user_id), ("org", row.organization_id),
    )  # fmt: skip
    return next((ids.show(prefix, each) for prefix, each in shown if each is not None), None)


def _whose(row: ExternalId) -> Organization | None:
    """In whose trail the change belongs."""
    if row.organization is not None:
        return row.organization
    return row.api_key.organization if row.api_key is not None else None


def _load(names: Collection[Name]) -> Mapping[Name, ExternalFacts]:
    wanted = Q(kind__in={kind for _, kind, _ in names}, value__in={value for _, _, value in names})
    found: dict[Name, ExternalFacts] = {}
    rows = list(ExternalId.objects.filter(wanted).select_related("api_key"))
    people = {row.user_id for row in rows if row.user_id is not None}
    personal = dict(Organization.objects.filter(personal_of__in=people).values_list("personal_of", "pk"))
    for row in rows:
        name = (row.reporter_id, row.kind, row.value)
        if name not in names:
            continue
        key = row.api_key
        if key is not None:
            assert key.organization_id is not None
            found[name] = ExternalFacts(key.organization_id, api_key_id=key.pk, user_id=key.user_id)
        elif row.user_id is not None:
            found[name] = ExternalFacts(personal[row.user_id], user_id=row.user_id)
        else:
            assert row.organization_id is not None
            found[name] = ExternalFacts(row.organization_id)
    return found


_by_name: caches.Cached[Name, ExternalFacts] = caches.Cached(_load)
