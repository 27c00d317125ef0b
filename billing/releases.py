"""Charging what waited in quarantine: once, at the price of the instant when it happened.

Run after a price is published and by a sweep. A row, its claim, its record and its charge change
in one transaction, so a row is charged by whoever gets it first, killed or not.
"""

from itertools import takewhile
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from billing import charges
from core import failpoints, ids
from core.transactions import retry
from metering import attribution, catalog, quarantine, usage
from metering.attribution import Attributed
from metering.models import UsageClaim
from orgs import organizations

CHUNK = 200
ROUNDS_MAX = 10_000


class Released(NamedTuple):
    """How many rows were charged, and how many still wait."""

    charged: int
    left: int


def release() -> Released:
    """Try every open row once."""
    charged = left = 0
    after: UUID | None = None
    for _ in range(ROUNDS_MAX):
        done = retry(lambda after=after: _release_some(after))  # type: ignore[misc]
        if done is None:
            break
        failpoints.reach("release.after_commit")
        charged, left, after = charged + done[0], left + done[1], done[2]
    return Released(charged, left)


@transaction.atomic(durable=True)
def _release_some(after: UUID | None) -> tuple[int, int, UUID] | None:
    """One chunk of open rows beyond ``after``: charged, left, the last one seen; None when there is none."""
    at = usage.started_at()
    listing = catalog.listing()
    models = [
        name for name in quarantine.models_waiting() if (model := listing.find(name)) and listing.versions[model.slug]
    ]
    rows = quarantine.waiting(models=models, after=after, limit=CHUNK)
    if not rows:
        return None
    failpoints.reach("release.after_rows")
    # Records keep who reported them, so a chunk is of one reporter.
    rows = list(takewhile(lambda row: row.reported_by == rows[0].reported_by, rows))
    owners = organizations.find_ids({row.organization_id for row in rows if row.organization_id is not None})
    for row in rows:
        if row.organization_id is not None:
            row.event.organization = owners[row.organization_id].slug
    outcomes = attribution.attribute([row.event for row in rows], reporter=rows[0].reported_by)
    found = {outcome.place: outcome for outcome in outcomes if isinstance(outcome, Attributed)}
    # And as many of them as one transaction may be about: on a sharded database, one organization's.
    first = {item.place for group in charges.together(list(found.values()))[:1] for item in group}
    end = min(found.keys() - first, default=len(rows))
    rows, found = rows[:end], {place: item for place, item in found.items() if place < end}
    stamps = ids.run(at=at)
    lines = [line for line in charges.price(found.values(), stamps) if line.unpriced is None]
    # An unpriced event holds its claim already; an orphan's belongs to nobody yet.
    held = usage.reclaim([line.claim for line in lines])
    failpoints.reach("release.after_reclaim")
    rest = [line for line in lines if line.item.key not in held]
    standing = usage.claim([line.claim for line in rest])
    failpoints.reach("release.after_claims")
    lost = {line.item.place for line in rest if line.item.key in standing}
    won = [line for line in lines if line.item.place not in lost]
    # Its id was charged meanwhile under the organization that it turned out to belong to: nothing is left to do.
    duplicates = {
        place for place in lost if _is_settled(standing[found[place].organization_id, found[place].event.event_id])
    }
    quarantine.resolve([rows[line.item.place].id for line in won] + [rows[place].id for place in duplicates], at=at)
    failpoints.reach("release.after_resolve")
    charges.book(won, stamps=stamps, at=at, reported_by=rows[0].reported_by)
    failpoints.reach("release.before_commit")
    closed = len(won) + len(duplicates)
    return len(won), len(rows) - closed, rows[-1].id


def _is_settled(claim: usage.Claim) -> bool:
    return claim.state != UsageClaim.State.QUARANTINED
