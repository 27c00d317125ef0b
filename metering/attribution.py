"""Who an event belongs to: organization, key, member and project (contract 16.2, decisions 15, 17)."""

from collections.abc import Container, Sequence
from typing import NamedTuple
from uuid import UUID

from core import errors, ids
from metering import counting
from metering.events import Event, Rejection, Uncounted, fingerprint
from metering.models import Quarantine
from orgs import externals, keys, members, organizations
from orgs.externals import ExternalFacts
from orgs.keys import KeyFacts
from orgs.members import MemberFacts
from orgs.organizations import OrganizationFacts

Reason = Quarantine.Reason


class Attributed(NamedTuple):
    """An event and whose it is.

    ``payer_id`` names the wallet, ``fallback_id`` the caller's personal one, which may pay instead.
    """

    place: int
    event: Event
    organization_id: UUID
    payer_id: UUID
    api_key_id: UUID | None
    member_id: UUID | None
    project_id: UUID | None
    fingerprint: bytes
    authorization_id: UUID | None = None
    fallback_id: UUID | None = None

    @property
    def scope(self) -> str:
        """Within what the event id is unique."""
        return str(self.organization_id)

    @property
    def key(self) -> tuple[UUID | str, str]:
        """What the event is unique by."""
        return (self.organization_id, self.event.event_id)


class Orphan(NamedTuple):
    """An event that nobody can be charged for yet; finance will see it."""

    place: int
    event: Event
    scope: str
    reason: Reason
    detail: str
    organization_id: UUID | None
    fingerprint: bytes

    @property
    def key(self) -> tuple[UUID | str, str]:
        """What the event is unique by."""
        return (self.scope, self.event.event_id)


Outcome = Attributed | Orphan | Rejection


def attribute(
    given: Sequence[Event | Uncounted | Rejection],
    *,
    single: bool = False,
    default_slug: str | None = None,
    limits: frozenset[UUID] = frozenset(),
    reporter: UUID | None = None,
) -> list[Outcome]:
    """Whose each event is, in order. Three look-ups for the whole batch, all cached.

    A key implies its organization; an organization named by the event or the header must agree
    with it, else the event is rejected. What cannot be found is an ``Orphan``, not lost.
    ``limits`` are the organizations that the reporting key may speak for; empty means all.
    ``reporter`` is that key, whose external ids come first. Absent counts are worked out first, so
    nothing further on holds a text. Raises ``Unavailable`` when they cannot be.
    """
    items = counting.complete(given)
    people = _name_externals(items, reporter)
    names: set[tuple[str | None, str | None]] = set()
    for item in items:
        if isinstance(item, Event):
            # What waits in quarantine must still know whom the header named.
            item.organization = item.organization or default_slug
            names.add((item.organization, item.api_key_id))
    # A batch names few organizations and keys, so who they are is settled once for each.
    slugs = {organization: _slug(organization) for organization, _ in names}
    organizations_by_slug = organizations.find_slugs({slug for slug in slugs.values() if slug is not None})
    key_ids = {shown: _read("key", shown) for _, shown in names if shown}
    keys_by_id = keys.find([key_id for key_id in key_ids.values() if key_id is not None])
    named = {
        (organization, shown): (
            organizations_by_slug.get(slugs[organization] or ""),
            _known(keys_by_id, key_ids.get(shown) if shown else None),
        )
        for organization, shown in names
    }
    members_by_pair = members.find_many({pair for known in named.values() if (pair := _pair(*known)) is not None})
    settled: dict[tuple[str | None, str | None], _Who] = {}
    for (organization, shown), known in named.items():
        pair = _pair(*known)
        settled[organization, shown] = _Who(slugs[organization], *known, members_by_pair.get(pair) if pair else None)
    outcomes: list[Outcome] = []
    # What an event named says all but its story, so only the first that named it is looked at in full.
    like: dict[tuple[str | None, str | None], tuple[Attributed, bytes, bytes | None]] = {}
    for place, item in enumerate(items):
        if isinstance(item, Rejection):
            outcomes.append(item)
            continue
        name = item.organization, item.api_key_id
        same = None if place in people else like.get(name)
        if same is not None:
            first, own, key_id = same
            outcomes.append(
                Attributed(
                    place, item, first.organization_id, first.payer_id, first.api_key_id, first.member_id,
                    first.project_id, fingerprint(item, organization=own, key=key_id),
                    _read("auth", item.authorization_id) if item.authorization_id else None, first.fallback_id,
                )
            )  # fmt: skip
            continue
        outcome = _attribute(place, item, settled[name], limits=limits)
        if isinstance(outcome, Attributed) and place in people:
            outcome = _for_person(outcome, people[place])
        elif isinstance(outcome, Attributed):
            key = outcome.api_key_id
            like[name] = outcome, outcome.organization_id.bytes, None if key is None else key.bytes
        elif isinstance(outcome, Rejection) and not single:
            outcome.error.param = f"events[{place}].{outcome.error.param}"
        outcomes.append(outcome)
    return outcomes


def _name_externals(items: Sequence[Event | Rejection], reporter: UUID | None) -> dict[int, ExternalFacts]:
    """Have the events that name somebody in a proxy's terms name whom that is here, where that is known.

    What an event names already stays: it was found before, and has only waited for a price. The people
    who were found, by the place of their event, for whom no key says who they are.
    """
    found = {place: item for place, item in enumerate(items) if isinstance(item, Event) and item.external is not None}
    if not found:
        return {}
    told = {place: item.external for place, item in found.items() if item.external is not None}
    known = externals.resolve({name for each in told.values() for name in each.names}, reporter=reporter)
    clients = organizations.find_slugs({each.client for each in told.values() if each.client is not None})
    facts = {place: next((known[name] for name in each.names if name in known), None) for place, each in told.items()}
    slugs = organizations.find_ids({each.organization_id for each in facts.values() if each is not None})
    pairs = {
        (client.id, who.user_id)
        for place, who in facts.items()
        if who is not None and who.user_id is not None and (client := clients.get(told[place].client or ""))
    }
    memberships = members.find_many(pairs)
    people: dict[int, ExternalFacts] = {}
    for place, event in found.items():
        external, who = told[place], facts[place]
        client = clients.get(external.client or "")
        belongs = _belongs(client, who, memberships)
        if event.organization is None and event.api_key_id is None:
            if external.trusted and external.client is not None:
                event.organization = external.client
                if who is not None and who.api_key_id is not None and belongs:
                    event.api_key_id = ids.show("key", who.api_key_id)
            elif who is not None:
                chosen = client if client is not None and belongs else slugs[who.organization_id]
                event.organization = chosen.slug
                event.api_key_id = None if who.api_key_id is None else ids.show("key", who.api_key_id)
        if who is not None and who.user_id is not None and event.api_key_id is None:
            people[place] = who
    return people


def _belongs(
    client: OrganizationFacts | None, who: ExternalFacts | None, memberships: Container[tuple[UUID, UUID | None]]
) -> bool:
    """Whether somebody may spend what is an organization's: it is theirs, or they are a member."""
    return (
        client is not None
        and who is not None
        and (client.id == who.organization_id or (client.id, who.user_id) in memberships)
    )


def _for_person(found: Attributed, person: ExternalFacts) -> Attributed:
    """An event of somebody who is known without a key: a member, whose personal wallet may pay instead."""
    assert person.user_id is not None
    member = members.find(organization_id=found.organization_id, user_id=person.user_id)
    if member is None:
        return found
    fallback = person.organization_id if person.organization_id != found.organization_id else None
    return found._replace(member_id=member.id, fallback_id=fallback)


class _Who(NamedTuple):
    """What an event named, looked up."""

    slug: str | None
    organization: OrganizationFacts | None
    key: KeyFacts | None
    member: MemberFacts | None


def _known(keys_by_id: dict[UUID, KeyFacts], key_id: UUID | None) -> KeyFacts | None:
    return None if key_id is None else keys_by_id.get(key_id)


def _pair(organization: OrganizationFacts | None, key: KeyFacts | None) -> tuple[UUID, UUID] | None:
    """The membership that a personal key's event rests on: (organization, user)."""
    if key is None or key.user_id is None or key.organization_id is None:
        return None
    return (organization.id if organization else key.organization_id, key.user_id)


def _attribute(place: int, event: Event, who: _Who, *, limits: frozenset[UUID]) -> Outcome:
    organization, key = who.organization, who.key
    if key is not None and key.user_id is None and limits and key.organization_id not in limits:
        # Nor does a limited key learn which keys others have: theirs are as unknown as made-up ones.
        key = None
    organization_id = organization.id if organization else key.organization_id if key else None
    if event.external is not None and who.slug is None and not event.api_key_id:
        names = [f"{kind} {name}" for kind, name in event.external.names] or ["nothing"]
        return _orphan(place, event, Reason.UNKNOWN_KEY, names[0], f"nobody is mapped to {', '.join(names)}")
    # A limited key learns nothing about organizations it may not report for.
    if limits and organization_id not in limits:
        return Rejection(event.event_id, errors.OrgAccessDenied(param="organization"))
    if organization is None and who.slug is not None:
        return _orphan(place, event, Reason.UNKNOWN_ORGANIZATION, who.slug, f"no organization {who.slug}")
    if key is None and event.api_key_id:
        return _orphan(place, event, Reason.UNKNOWN_KEY, organization_id, f"no key {event.api_key_id}")
    if organization_id is None:
        error: errors.ApiError
        if key is not None:
            error = errors.OutOfRange("api_key_id names a service key.", param="api_key_id")
        else:
            error = errors.MissingParameter(
                "organization or api_key_id is required, or X-DeepToken-Org.", param="organization"
            )
        return Rejection(event.event_id, error)
    if key is not None and key.user_id is None and key.organization_id != organization_id:
        return Rejection(
            event.event_id, errors.OutOfRange("api_key_id belongs to another organization.", param="api_key_id")
        )
    if key is not None and key.user_id is not None and who.member is None:
        return _orphan(place, event, Reason.NOT_A_MEMBER, organization_id, "the key's owner is no member")
    return Attributed(
        place,
        event,
        organization_id,
        organization_id,
        key.id if key else None,
        who.member.id if who.member else None,
        key.project_id if key else None,
        fingerprint(event, organization=organization_id.bytes, key=key.id.bytes if key else None),
        _read("auth", event.authorization_id) if event.authorization_id else None,
        key.organization_id if key and key.user_id and key.organization_id != organization_id else None,
    )


def _slug(named: str | None) -> str | None:
    """The organization named, lower-cased; an empty name is none."""
    return (named or "").strip().lower() or None


def _read(prefix: str, text: str) -> UUID | None:
    """An id as shown; one that cannot be read names nothing."""
    try:
        return ids.read(prefix, text)
    except ValueError:
        return None


def _orphan(place: int, event: Event, reason: Reason, named: UUID | str | None, detail: str) -> Orphan:
    """An event for finance; unique within what it named, so sending it again is a duplicate there too.

    ``named`` is the organization's id, or the slug or the external id that nobody has.
    """
    scope = f"{named or ''}/{event.api_key_id or ''}"
    story = fingerprint(event, organization=scope.encode(), key=None)
    return Orphan(place, event, scope, reason, detail, named if isinstance(named, UUID) else None, story)
