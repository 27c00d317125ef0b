"""Whose an event is: what its key, its organization and the header say, together and against each other."""

from typing import Any
from uuid import UUID

import pytest

from core import errors, ids
from metering import attribution
from metering.attribution import Attributed, Orphan
from metering.events import Event, Rejection
from metering.models import Quarantine
from orgs import keys, members
from orgs.keys import IssuedKey
from orgs.models import Member, Organization, User
from tests.metering.world import event
from tests.orgs import world

Reason = Quarantine.Reason


class Cast:
    """Two organizations, a person who is a member of the first, and a key of each kind."""

    def __init__(self) -> None:
        self.acme: Organization = world.organization("acme")
        self.umbrella: Organization = world.organization("umbrella")
        self.member: Member = world.member(self.acme, "ada@example.com")
        self.ada: User = self.member.user
        self.personal: Organization = world.personal(self.ada)
        self.of_acme: IssuedKey = world.organization_key(self.acme)
        self.of_umbrella: IssuedKey = world.organization_key(self.umbrella)
        self.of_ada: IssuedKey = world.personal_key(self.ada)
        self.of_gateway: IssuedKey = world.service_key()


@pytest.fixture
def cast(db: None) -> Cast:
    return Cast()


def shown(issued: IssuedKey) -> str:
    return ids.show("key", issued.key.pk)


def judge(
    *, header: str | None = None, limits: frozenset[UUID] = frozenset(), single: bool = True, **fields: Any
) -> attribution.Outcome:
    """What becomes of one event."""
    (found,) = attribution.attribute([event(**fields)], single=single, default_slug=header, limits=limits)
    return found


def attributed(**options: Any) -> Attributed:
    found = judge(**options)
    assert isinstance(found, Attributed), found
    return found


def orphan(**options: Any) -> Orphan:
    found = judge(**options)
    assert isinstance(found, Orphan), found
    return found


def refused(**options: Any) -> errors.ApiError:
    found = judge(**options)
    assert isinstance(found, Rejection), found
    return found.error


def test_an_organization_alone_is_enough(cast: Cast) -> None:
    found = attributed(organization="acme")
    assert (found.organization_id, found.payer_id) == (cast.acme.pk, cast.acme.pk)
    assert (found.api_key_id, found.member_id, found.project_id) == (None, None, None)


@pytest.mark.parametrize("named", ["ACME", " acme ", "Acme"])
def test_an_organization_is_named_in_any_case(cast: Cast, named: str) -> None:
    assert attributed(organization=named).organization_id == cast.acme.pk


def test_the_header_names_the_organization_of_events_that_name_none(cast: Cast) -> None:
    assert attributed(header="acme").organization_id == cast.acme.pk
    assert attributed(header="acme", organization="").organization_id == cast.acme.pk
    assert attributed(header="acme", organization="umbrella").organization_id == cast.umbrella.pk


def test_a_key_implies_its_organization(cast: Cast) -> None:
    found = attributed(api_key_id=shown(cast.of_acme))
    assert (found.organization_id, found.api_key_id, found.member_id) == (cast.acme.pk, cast.of_acme.key.pk, None)


def test_a_personal_key_implies_the_personal_organization_and_its_member(cast: Cast) -> None:
    found = attributed(api_key_id=shown(cast.of_ada))
    assert found.organization_id == cast.personal.pk
    assert found.member_id == Member.objects.get(organization=cast.personal, user=cast.ada).pk


@pytest.mark.parametrize("how", ["organization", "header"])
def test_a_personal_key_may_be_used_for_an_organization_of_its_owner(cast: Cast, how: str) -> None:
    found = attributed(api_key_id=shown(cast.of_ada), **{how: "acme"})
    assert (found.organization_id, found.api_key_id) == (cast.acme.pk, cast.of_ada.key.pk)
    assert found.member_id == cast.member.pk


@pytest.mark.parametrize("how", ["organization", "header"])
def test_a_personal_key_for_an_organization_without_its_owner_is_kept_for_finance(cast: Cast, how: str) -> None:
    found = orphan(api_key_id=shown(cast.of_ada), **{how: "umbrella"})
    assert (found.reason, found.organization_id) == (Reason.NOT_A_MEMBER, cast.umbrella.pk)


def test_whoever_left_is_no_member(cast: Cast) -> None:
    members.remove(organization=cast.acme, member_id=cast.member.pk, by=world.BY)
    assert orphan(api_key_id=shown(cast.of_ada), organization="acme").reason == Reason.NOT_A_MEMBER


@pytest.mark.parametrize("how", ["organization", "header"])
def test_an_organizations_key_with_another_organization_is_rejected(cast: Cast, how: str) -> None:
    error = refused(api_key_id=shown(cast.of_acme), **{how: "umbrella"})
    assert isinstance(error, errors.OutOfRange)
    assert error.param == "api_key_id"
    assert attributed(api_key_id=shown(cast.of_acme), **{how: "acme"}).organization_id == cast.acme.pk


def test_the_events_organization_goes_before_the_header_also_in_a_conflict(cast: Cast) -> None:
    found = attributed(api_key_id=shown(cast.of_acme), organization="acme", header="umbrella")
    assert found.organization_id == cast.acme.pk


def test_an_event_that_names_nobody_is_rejected(cast: Cast) -> None:
    error = refused()
    assert isinstance(error, errors.MissingParameter)
    assert error.param == "organization"


def test_a_gateways_own_key_is_nobodys_key(cast: Cast) -> None:
    assert refused(api_key_id=shown(cast.of_gateway)).param == "api_key_id"
    assert refused(api_key_id=shown(cast.of_gateway), organization="acme").param == "api_key_id"


def test_an_unknown_organization_is_kept_for_finance(cast: Cast) -> None:
    for named in ({"organization": "nobody"}, {"header": "nobody"}):
        found = orphan(**named)
        assert (found.reason, found.organization_id) == (Reason.UNKNOWN_ORGANIZATION, None)
        assert "nobody" in found.detail
    assert orphan(organization="nobody", api_key_id=shown(cast.of_acme)).reason == Reason.UNKNOWN_ORGANIZATION


@pytest.mark.parametrize("key", ["key_" + "0" * 26, "key_nonsense", "nonsense", "usage_" + "0" * 26])
def test_an_unknown_key_is_kept_for_finance(cast: Cast, key: str) -> None:
    found = orphan(api_key_id=key, organization="acme")
    assert (found.reason, found.organization_id) == (Reason.UNKNOWN_KEY, cast.acme.pk)
    assert orphan(api_key_id=key).organization_id is None


def test_the_usage_of_a_revoked_or_deleted_key_is_charged(cast: Cast) -> None:
    keys.revoke(key_id=cast.of_acme.key.pk, by=world.BY)
    keys.delete(key_id=cast.of_umbrella.key.pk, by=world.BY)
    assert attributed(api_key_id=shown(cast.of_acme)).organization_id == cast.acme.pk
    assert attributed(api_key_id=shown(cast.of_umbrella)).organization_id == cast.umbrella.pk


def test_an_orphan_sent_again_is_the_same_orphan_and_others_are_others(cast: Cast) -> None:
    taken: dict[str, Any] = {"event_id": "e", "occurred_at": event().occurred_at}
    first = orphan(organization="nobody", **taken)
    again = orphan(organization="Nobody", **taken)
    assert (again.key, again.fingerprint) == (first.key, first.fingerprint)
    others = [
        orphan(header="somebody", **taken),
        orphan(organization="nobody", api_key_id="key_nonsense", **taken),
        orphan(organization="acme", api_key_id="key_nonsense", **taken),
        orphan(organization="umbrella", api_key_id="key_nonsense", **taken),
        orphan(api_key_id="key_nonsense", **taken),
    ]
    assert len({found.key for found in (first, *others)}) == 6
    assert orphan(header="nobody", **taken).key == first.key
    assert orphan(organization="nobody", event_id="e", output_tokens=1).fingerprint != first.fingerprint


def test_a_limited_gateway_reports_for_its_own_and_learns_nothing_of_others(cast: Cast) -> None:
    limits = frozenset({cast.acme.pk})
    assert attributed(limits=limits, organization="acme").organization_id == cast.acme.pk
    assert attributed(limits=limits, api_key_id=shown(cast.of_acme)).organization_id == cast.acme.pk
    answers = {
        (type(error), error.param, str(error))
        for error in (
            refused(limits=limits, organization="umbrella"),
            refused(limits=limits, organization="nobody"),
            refused(limits=limits, header="umbrella"),
            refused(limits=limits, api_key_id=shown(cast.of_umbrella)),
            refused(limits=limits, api_key_id="key_nonsense"),
            refused(limits=limits),
        )
    }
    assert answers == {(errors.OrgAccessDenied, "organization", str(errors.OrgAccessDenied()))}


def test_a_fingerprint_names_the_organization_and_the_key(cast: Cast) -> None:
    taken: dict[str, Any] = {"event_id": "e", "occurred_at": event().occurred_at}
    stories = [
        attributed(organization="acme", **taken),
        attributed(organization="umbrella", **taken),
        attributed(api_key_id=shown(cast.of_acme), **taken),
        attributed(api_key_id=shown(cast.of_ada), organization="acme", **taken),
    ]
    assert len({found.fingerprint for found in stories}) == 4
    assert attributed(header="acme", **taken).fingerprint == stories[0].fingerprint


def test_outcomes_keep_the_order_and_name_fields_by_place(cast: Cast) -> None:
    bad = Rejection("bad", errors.InvalidType(param="events[1].model"))
    items: list[Event | Rejection] = [
        event(organization="acme"),
        bad,
        event(organization="umbrella", api_key_id=shown(cast.of_acme)),
        event(organization="nobody"),
        event(),
    ]
    found = attribution.attribute(items, single=False)
    assert [type(one) for one in found] == [Attributed, Rejection, Rejection, Orphan, Rejection]
    assert found[1] is bad
    named = [one.error.param for one in found if isinstance(one, Rejection)]
    assert named == ["events[1].model", "events[2].api_key_id", "events[4].organization"]
    assert [one.place for one in found if not isinstance(one, Rejection)] == [0, 3]


def test_a_batch_is_looked_up_at_once_however_many_it_names(cast: Cast, django_assert_max_num_queries: Any) -> None:
    items = [
        event(organization=slug, api_key_id=key)
        for _ in range(50)
        for slug, key in (("acme", None), ("umbrella", shown(cast.of_umbrella)), (None, shown(cast.of_ada)))
    ]
    with django_assert_max_num_queries(4):
        found = attribution.attribute(items, single=False)
    assert {type(one) for one in found} == {Attributed}
