"""Members and roles: who may come, change and leave."""

from typing import Any

import pytest

from core.errors import ApiError, Conflict, NotFound, OutOfRange, PermissionDenied
from orgs import members, permissions
from orgs.models import AuditEntry, Member, Role
from tests.books import Books
from tests.orgs import world


def owner_of(organization: Any) -> Member:
    return Member.objects.for_org(organization.pk).get(role__name="owner", removed_at__isnull=True)


@pytest.mark.django_db
def test_the_roles_in_the_database_are_those_of_the_design() -> None:
    granted = {role.name: set(role.permissions) for role in Role.objects.all()}
    assert granted["owner"] == permissions.ALL
    assert granted["admin"] == permissions.ALL - {"organization:manage"}
    assert granted["billing"] == {"usage:read_all", "wallet:read", "billing:read", "billing:manage"}
    assert granted["member"] == {"calls:make", "usage:read_own", "wallet:read"}
    assert granted["viewer"] == {"usage:read_all", "wallet:read", "billing:read"}
    assert len(granted) == 5


@pytest.mark.django_db
def test_a_member_is_found_with_the_permissions_of_the_role() -> None:
    acme = world.organization()
    member = world.member(acme, "ada@example.com", "viewer")
    found = members.find(organization_id=acme.pk, user_id=member.user_id)
    assert found == members.MemberFacts(
        id=member.pk, role="viewer", permissions=frozenset({"usage:read_all", "wallet:read", "billing:read"})
    )


@pytest.mark.django_db
def test_many_memberships_are_found_in_one_query_and_others_are_left_out(django_assert_num_queries: Any) -> None:
    acme, other = world.organization("acme-labs"), world.organization("other")
    ada, bob = world.member(acme, "ada@example.com"), world.member(other, "bob@example.com")
    pairs = [(each.pk, person.user_id) for each in (acme, other) for person in (ada, bob)]
    with django_assert_num_queries(1):
        found = members.find_many(pairs)
    assert set(found) == {(acme.pk, ada.user_id), (other.pk, bob.user_id)}


@pytest.mark.django_db
def test_nobody_is_a_member_twice() -> None:
    acme = world.organization()
    world.member(acme, "ada@example.com")
    with pytest.raises(Conflict):
        world.member(acme, "ada@example.com", "viewer")


@pytest.mark.django_db
def test_who_has_left_may_come_back_and_both_stays_are_kept() -> None:
    acme = world.organization()
    first = world.member(acme, "ada@example.com")
    members.remove(organization=acme, member_id=first.pk, by=world.BY)
    second = world.member(acme, "ada@example.com", "admin")
    assert second.pk != first.pk
    assert Member.objects.filter(user=first.user, organization=acme).count() == 2
    found = members.find(organization_id=acme.pk, user_id=first.user_id)
    assert found is not None
    assert found.id == second.pk


@pytest.mark.django_db
def test_there_is_no_role_but_those_that_exist() -> None:
    with pytest.raises(OutOfRange) as refusal:
        world.member(world.organization(), "ada@example.com", "emperor")
    assert refusal.value.param == "role"


@pytest.mark.django_db
def test_nobody_joins_a_personal_organization() -> None:
    with pytest.raises(Conflict):
        world.member(world.personal(world.person()), "bob@example.com")


@pytest.mark.django_db
def test_the_last_owner_can_neither_leave_nor_step_down() -> None:
    acme = world.organization()
    owner = owner_of(acme)
    world.member(acme, "admin@example.com", "admin")
    with pytest.raises(Conflict):
        members.remove(organization=acme, member_id=owner.pk, by=world.BY)
    with pytest.raises(Conflict):
        members.change_role(organization=acme, member_id=owner.pk, role="admin", by=world.BY)
    world.member(acme, "second@example.com", "owner")
    members.remove(organization=acme, member_id=owner.pk, by=world.BY)
    assert owner_of(acme).user.email == "second@example.com"


def test_two_owners_who_leave_at_once_do_not_leave_the_organization_alone(books: Books) -> None:
    acme = world.organization()
    both = [owner_of(acme), world.member(acme, "second@example.com", "owner")]

    def leave(member: Member) -> bool:
        try:
            members.remove(organization=acme, member_id=member.pk, by=world.BY)
        except Conflict:
            return False
        return True

    left = books.together([lambda each=each: leave(each) for each in both])  # type: ignore[misc]
    assert sorted(left) == [False, True]
    assert owner_of(acme) in both


@pytest.mark.django_db
def test_a_member_of_another_organization_is_not_there() -> None:
    acme, other = world.organization("acme-labs"), world.organization("other")
    stranger = world.member(other, "ada@example.com")
    for verb in (
        lambda: members.remove(organization=acme, member_id=stranger.pk, by=world.BY),
        lambda: members.change_role(organization=acme, member_id=stranger.pk, role="admin", by=world.BY),
    ):
        with pytest.raises(NotFound):
            verb()
    assert members.find(organization_id=other.pk, user_id=stranger.user_id) is not None


@pytest.mark.django_db
def test_every_change_of_a_membership_leaves_an_audit_row() -> None:
    acme = world.organization()
    member = world.member(acme, "ada@example.com")
    members.change_role(organization=acme, member_id=member.pk, role="admin", by=world.BY)
    members.change_role(organization=acme, member_id=member.pk, role="admin", by=world.BY)
    members.remove(organization=acme, member_id=member.pk, by=world.BY)
    rows = AuditEntry.objects.for_org(acme.pk).filter(details__user__isnull=False).order_by("at")
    trail = [(row.verb, row.details.get("from"), row.details.get("to") or row.details.get("role")) for row in rows]
    assert trail == [
        ("member.added", None, "owner"),
        ("member.added", None, "member"),
        ("member.role_changed", "member", "admin"),
        ("member.removed", None, "admin"),
    ]


def test_a_changed_role_counts_at_once(books: Books) -> None:
    acme = world.organization()
    member = world.member(acme, "ada@example.com")
    members.find(organization_id=acme.pk, user_id=member.user_id)
    members.change_role(organization=acme, member_id=member.pk, role="admin", by=world.BY)
    found = members.find(organization_id=acme.pk, user_id=member.user_id)
    assert found is not None
    assert found.role == "admin"


@pytest.mark.django_db
def test_a_custom_role_is_made_and_changed_and_its_members_follow() -> None:
    acme = world.organization()
    members.define_role(name="auditor", granted=["usage:read_all"], by=world.BY)
    member = world.member(acme, "ada@example.com", "auditor")
    members.define_role(name="auditor", granted=["usage:read_all", "billing:read"], by=world.BY)
    found = members.find(organization_id=acme.pk, user_id=member.user_id)
    assert found is not None
    assert found.permissions == {"usage:read_all", "billing:read"}
    verbs = AuditEntry.objects.filter(subject_type="role").order_by("at").values_list("verb", flat=True)
    assert list(verbs) == ["role.created", "role.changed"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "granted"), [("owner", ["calls:make"]), ("root", ["everything"]), (" ", ["calls:make"]), ("a\nb", [])]
)
def test_a_role_that_makes_no_sense_is_refused(name: str, granted: list[str]) -> None:
    with pytest.raises(ApiError):
        members.define_role(name=name, granted=granted, by=world.BY)
    assert Role.objects.count() == 5
    assert set(Role.objects.get(name="owner").permissions) == permissions.ALL


@pytest.mark.django_db
def test_nobody_gives_a_role_that_may_more_than_their_own() -> None:
    acme = world.organization()
    admin, bob = world.member(acme, "ada@example.com", "admin"), world.member(acme, "bob@example.com")
    eve = world.person("eve@example.com")
    with pytest.raises(PermissionDenied, match="organization:manage"):
        members.add(organization=acme, user=eve, role="owner", by=world.BY, acting=admin.pk)
    for member in (admin, bob):
        with pytest.raises(PermissionDenied, match="organization:manage"):
            members.change_role(organization=acme, member_id=member.pk, role="owner", by=world.BY, acting=admin.pk)
    assert list(Member.objects.for_org(acme.pk).filter(role__name="owner")) == [owner_of(acme)]
    joined = members.add(organization=acme, user=eve, role="admin", by=world.BY, acting=admin.pk)
    assert joined.role.name == "admin"


@pytest.mark.django_db
def test_nobody_takes_a_role_that_may_more_than_their_own() -> None:
    acme = world.organization()
    admin = world.member(acme, "ada@example.com", "admin")
    world.member(acme, "second@example.com", "owner")
    owner = Member.objects.for_org(acme.pk).get(user__email="second@example.com")
    with pytest.raises(PermissionDenied):
        members.remove(organization=acme, member_id=owner.pk, by=world.BY, acting=admin.pk)
    with pytest.raises(PermissionDenied):
        members.change_role(organization=acme, member_id=owner.pk, role="member", by=world.BY, acting=admin.pk)
    assert Member.objects.get(pk=owner.pk).role.name == "owner"
    members.remove(organization=acme, member_id=admin.pk, by=world.BY, acting=owner.pk)


@pytest.mark.django_db
def test_who_does_not_manage_members_may_only_leave() -> None:
    acme, other = world.organization(), world.organization("other")
    bob, eve = world.member(acme, "bob@example.com"), world.member(acme, "eve@example.com", "viewer")
    stranger = owner_of(other)
    for acting in (bob, stranger):
        with pytest.raises(PermissionDenied, match="members:manage"):
            members.remove(organization=acme, member_id=eve.pk, by=world.BY, acting=acting.pk)
        with pytest.raises(PermissionDenied, match="members:manage"):
            members.change_role(organization=acme, member_id=bob.pk, role="viewer", by=world.BY, acting=acting.pk)
    members.remove(organization=acme, member_id=bob.pk, by=world.BY, acting=bob.pk)
    with pytest.raises(PermissionDenied):
        members.add(organization=acme, user=world.person("new@example.com"), role="viewer", by=world.BY, acting=bob.pk)


@pytest.mark.django_db
def test_who_may_read_all_usage_may_let_others_read_their_own() -> None:
    acme = world.organization()
    members.define_role(
        name="hosts", granted=["members:manage", "calls:make", "usage:read_all", "wallet:read"], by=world.BY
    )
    host = world.member(acme, "host@example.com", "hosts")
    bob = world.member(acme, "bob@example.com", "hosts")
    members.change_role(organization=acme, member_id=bob.pk, role="member", by=world.BY, acting=host.pk)
    with pytest.raises(PermissionDenied, match="billing:read"):
        members.change_role(organization=acme, member_id=bob.pk, role="viewer", by=world.BY, acting=host.pk)
