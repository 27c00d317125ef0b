"""Who plays: a hundred organizations with money, a gateway's key, a customer's key."""

from decimal import Decimal
from pathlib import Path

from tests.benchmarks.stage import ORGANIZATIONS, Stage


def stage(url: str, folder: Path) -> Stage:
    """Make them; the first organization's key reads."""
    from django.db import transaction

    from billing import grants
    from orgs import keys, organizations
    from orgs.audit import system
    from orgs.models import Kind

    by = system("benchmark")
    owner = organizations.ensure_user("owner@example.com", by=by)
    slugs, customer_key = [], ""
    for place in range(ORGANIZATIONS):
        with transaction.atomic():
            organization = organizations.create(slug=f"bench-{place:03}", owner=owner, by=by)
            if place == 0:
                issued = keys.issue(kind=Kind.ORGANIZATION, name="reader", by=by, organization=organization)
                customer_key = issued.secret
            grants.promote(
                organization_id=organization.pk,
                amount_usd=Decimal(1_000_000),
                reference="benchmark",
                actor="",
                reason="",
            )
        slugs.append(organization.slug)
    service = keys.issue(kind=Kind.SERVICE, name="gateway", by=by, scopes=["events:write", "authorizations:write"])
    return Stage(url=url, folder=folder, service_key=service.secret, customer_key=customer_key, slugs=slugs)
