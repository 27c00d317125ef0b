"""Projects: parts of an organization that keys may belong to. The only module that writes ``Project``.

A key's project is settled when the key is made; archiving a project keeps its keys and takes no new ones.
"""

from uuid import UUID

from django.db import IntegrityError, transaction

from core import clock, ids, logs
from core.errors import Conflict, NotFound, OutOfRange
from orgs import audit
from orgs.audit import Actor
from orgs.models import Organization, Project

NAME_LENGTH_MAX = 100


@transaction.atomic
def create(*, organization: Organization, name: str, by: Actor) -> Project:
    """Make a project. Raises ``OutOfRange`` for a bad name, ``Conflict`` for one that is in use."""
    if organization.is_personal:
        raise Conflict("A personal organization has no projects.")
    project = Project(organization=organization, name=_check_name(name))
    _keep(project, new=True)
    audit.note(
        actor=by, verb="project.created", subject=project, organization=organization, details={"name": project.name}
    )
    return project


@transaction.atomic
def rename(*, organization: Organization, project_id: UUID, name: str, by: Actor) -> Project:
    """Call a project something else. Raises ``NotFound``, and as ``create``."""
    project = _lock(organization, project_id)
    before, project.name = project.name, _check_name(name)
    if before == project.name:
        return project
    _keep(project, new=False)
    details = {"from": before, "to": project.name}
    audit.note(actor=by, verb="project.renamed", subject=project, organization=organization, details=details)
    return project


@transaction.atomic
def archive(*, organization: Organization, project_id: UUID, by: Actor) -> Project:
    """Close a project to new keys; its name is free again. Done twice it is done once. Raises ``NotFound``."""
    project = _lock(organization, project_id)
    if project.archived_at is None:
        project.archived_at = clock.now()
        project.save(update_fields=["archived_at"])
        audit.note(actor=by, verb="project.archived", subject=project, organization=organization)
    return project


def find_open(*, organization_id: UUID, shown: str) -> Project:
    """The organization's project of an id on the wire, if it takes keys. Raises ``OutOfRange``, one for all others."""
    try:
        wanted = ids.read("proj", shown)
    except ValueError:
        found = None
    else:
        found = Project.objects.for_org(organization_id).filter(pk=wanted, archived_at__isnull=True).first()
    if found is None:
        raise OutOfRange("There is no such project.", param="project")
    return found


def _lock(organization: Organization, project_id: UUID) -> Project:
    found = Project.objects.for_org(organization.pk).select_for_update(no_key=True).filter(pk=project_id).first()
    if found is None:
        raise NotFound
    return found


def _keep(project: Project, *, new: bool) -> None:
    """Store a project. Raises ``Conflict`` if another has its name."""
    try:
        with transaction.atomic():
            project.save(force_insert=new)
    except IntegrityError as error:
        raise Conflict("A project of that name exists.", param="name") from error


def _check_name(name: str) -> str:
    """The name as it is kept. Raises ``OutOfRange``."""
    name = name.strip()
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        raise OutOfRange(f"name has 1 to {NAME_LENGTH_MAX} printable characters.", param="name")
    if logs.SECRETS.search(name):
        raise OutOfRange("name looks like a secret; call the project after its purpose.", param="name")
    return name
