"""What pages call the keys, members and projects whose ids usage records hold. One query for all of a kind.

What belongs to others has no name here: ids also come from whoever types an address.
"""

from collections.abc import Collection
from uuid import UUID

from django.db.models import Q

from core import ids
from orgs.models import ApiKey, Member, Organization, Project


def keys(key_ids: Collection[UUID], *, of: Organization) -> dict[UUID, str]:
    """Names of keys; a person's own key, which they named for themselves, by whose it is."""
    people = Member.objects.for_org(of.pk).values("user_id")
    found = ApiKey.objects.filter(Q(organization=of) | Q(user__in=people), pk__in=key_ids).select_related("user")
    named = {
        key.pk: f"{key.name if key.organization_id == of.pk else f'personal key of {key.user}'} (…{key.last_four})"
        for key in found
    }
    return {key_id: named.get(key_id) or ids.show("key", key_id) for key_id in key_ids}


def members(member_ids: Collection[UUID], *, of: Organization) -> dict[UUID, str]:
    """Members by their addresses, and when they left if they did."""
    named = {
        member.pk: member.user.email + (f" (left {member.removed_at:%-d %B %Y})" if member.removed_at else "")
        for member in Member.objects.for_org(of.pk).filter(pk__in=member_ids).select_related("user")
    }
    return {member_id: named.get(member_id) or ids.show("mem", member_id) for member_id in member_ids}


def projects(project_ids: Collection[UUID], *, of: Organization) -> dict[UUID, str]:
    """Names of projects, and that one is archived."""
    named = {
        project.pk: project.name + (" (archived)" if project.archived_at else "")
        for project in Project.objects.for_org(of.pk).filter(pk__in=project_ids)
    }
    return {project_id: named.get(project_id) or ids.show("proj", project_id) for project_id in project_ids}
