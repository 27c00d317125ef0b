"""What the books can be made to do, as functions that a process of its own can run: arguments and results are JSON.

Each act is of one organization and its neighbour, so that what it left can be told from what others
left, and may be repeated: the same arguments are the same act.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from unittest import mock
from uuid import UUID

from billing import charges, corrections, releases, rerating, tasks
from billing.models import Rerating
from core import clock
from metering import attribution, catalog, rating, usage
from metering.attribution import Attributed
from metering.catalog import Listing, Version
from orgs.audit import system
from orgs.models import Organization
from tests.billing import world
from tests.metering import world as metering

BY = system("tests")
# What the seed asks for ``metering.MODEL``, and twice that.
RATES = {"input": "0.27", "cached_input": "0.07", "output": "1.10"}
DOUBLE = {"terms": [{"when": {}, "rates": {"input": "0.54", "cached_input": "0.14", "output": "2.20"}}]}


def charge(slug: str, model: str = metering.MODEL) -> list[str]:
    """Charge a batch: two priced events, one failed, one that nobody priced, a neighbour's; the verdicts' words."""
    events = [
        metering.event(organization=slug, event_id="priced", model=model),
        metering.event(organization=slug, event_id="priced-too", model=model),
        metering.event(organization=slug, event_id="failed", status=429),
        metering.event(organization=slug, event_id="unpriced", model="nobody-priced-this"),
        metering.event(organization=neighbour(slug), event_id="priced", model=model),
    ]
    for one in events:
        # The same act again is the same story.
        one.occurred_at = _at(slug)
    found = [item for item in attribution.attribute(events) if isinstance(item, Attributed)]
    assert len(found) == len(events)
    return world.statuses(charges.record(found, reported_by=None))


def charge_one(slug: str, event_id: str) -> str:
    """Charge a single event; its verdict's word."""
    owner = Organization.objects.get(slug=slug)
    (verdict,) = world.charge(owner, metering.event(event_id=event_id, occurred_at=owner.created_at))
    return str(verdict.status)


def void(slug: str, event_id: str = "priced") -> str:
    """Take an event's charge back; what it gave back, or ``again`` if it had been taken back before."""
    owner = Organization.objects.get(slug=slug)
    done = corrections.void(organization_id=owner.pk, event_id=event_id, reason="a test", by=BY)
    return str(done.cost_usd) if done.first else "again"


def release() -> int:
    """Charge what waits in quarantine; how many were charged."""
    return releases.release().charged


def plan(slug: str) -> str:
    """Plan to re-rate all that an organization was charged for, at twice its price; the act's id."""
    now = clock.now()
    owner = Organization.objects.get(slug=slug)
    with doubled():
        act = rerating.plan(
            start=now - timedelta(hours=1), end=now + timedelta(milliseconds=500), reason="typo", by=BY,
            organization_ids=[owner.pk],
        )  # fmt: skip
    return str(act.pk)


def rerate(act: str) -> str:
    """Apply it, two records a transaction; by how much the costs have changed."""
    with doubled(), mock.patch.object(rerating, "CHUNK", 2):
        return str(rerating.apply(Rerating.objects.get(pk=UUID(act)), by=BY).difference_usd)


@contextmanager
def doubled() -> Iterator[None]:
    """The price book says twice the price, and every period is over."""
    price_at = Listing.price_at

    def twice(self: Listing, slug: str, at: Any) -> Version | None:
        version = price_at(self, slug, at)
        if slug == metering.MODEL and version is not None:
            return version._replace(card=rating.read_card(DOUBLE))
        return version

    with (
        mock.patch.object(Listing, "price_at", twice),
        mock.patch.object(usage, "FINAL_AFTER", timedelta(seconds=-1)),
    ):
        yield


def publish(model: str) -> None:
    """Publish a price for a model that had none: as much as ``metering.MODEL`` costs."""
    entry: dict[str, Any] = {
        "id": model, "name": model, "vendor": "New", "brand": "New", "provider": "New", "owned_by": "new",
        "released_at": 1_700_000_000,
        "prices": [
            {
                "effective_from": "2025-01-01T00:00:00+00:00", "effective_to": None, "source": "a test",
                "rates": {"terms": [{"when": {}, "rates": RATES}]},
            }
        ],
    }  # fmt: skip
    catalog.load({"format": catalog.FORMAT, "models": [entry]})


def _at(slug: str) -> Any:
    """When an organization's events happened: a moment ago, and always the same."""
    return Organization.objects.values_list("created_at", flat=True).get(slug=slug)


def neighbour(slug: str) -> str:
    """The slug of the organization next door."""
    return f"{slug}-next-door"


class Effect(NamedTuple):
    """What the books hold of an organization and its neighbour."""

    claims: int = 0
    records: int = 0
    failures: int = 0
    waiting: int = 0
    corrections: int = 0
    charged: Decimal = Decimal(0)
    given_back: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)


def effect(slug: str) -> Effect:
    """What is there now."""
    owners = list(Organization.objects.filter(slug__in=(slug, neighbour(slug))).values_list("pk", flat=True))

    def one(what: str, table: str, condition: str = "true") -> Any:
        query = f"SELECT {what} FROM {table} WHERE organization_id = ANY(%s) AND {condition}"
        return world.rows(query, owners)[0][0]

    return Effect(
        claims=one("count(*)", "usage_claim"),
        records=one("count(*)", "usage_record"),
        failures=one("count(*)", "request_log"),
        waiting=one("count(*)", "quarantine", "resolved_at IS NULL"),
        corrections=one("count(*)", "correction"),
        charged=one("coalesce(sum(amount_usd), 0)", "transfer", "debit = 'wallet' AND credit = 'revenue'"),
        given_back=one("coalesce(sum(amount_usd), 0)", "transfer", "debit = 'revenue' AND credit = 'wallet'"),
        spent=one("coalesce(sum(spent_usd), 0)", "wallet"),
    )


def begin_rerating() -> None:
    """Decide that the one planned re-rating is posted."""
    rerating.begin(Rerating.objects.get(state=Rerating.State.PLANNED), by=BY)


def settle_grants() -> str:
    """Run the job as a person does."""
    said: str = tasks.settle_grants()
    return said
