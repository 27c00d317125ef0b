"""Books in which everything has happened, once a run of the tests that need them; each test gets a copy.

Several organizations: with credit, in overdraft, with a contract, with a markup, without anything.
Charges of several models, one of them a smart route; free ones; failures; voids; a re-rating after a
corrected price, and one that was undone; quarantine that waits, was withdrawn, was charged, and has
nobody to charge.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

from django.db import transaction
from django.test import override_settings

from billing import corrections, releases, rerating
from billing.models import Rerating
from core import clock
from metering import attribution, catalog, rules, usage
from metering.attribution import Orphan
from metering.models import CatalogModel, Price
from orgs import caches, organizations
from tests import books as own_books
from tests.billing.world import charge, organization, record
from tests.books import Books
from tests.database import Server
from tests.metering.world import MODEL, event
from tests.orgs.world import BY

# Beyond any number that the other databases of a run have.
_numbers = itertools.count(1_000_000)
SECOND = timedelta(seconds=1)


def at_once() -> Any:
    """What is published holds from now on, not later."""
    return override_settings(CACHE_SECONDS=0, EVENT_AHEAD_MAX_SECONDS=0)


def card(input_rate: str, output_rate: str) -> dict[str, Any]:
    """Ordinary rates, USD per 1M tokens."""
    return {"terms": [{"when": {}, "rates": {"input": input_rate, "output": output_rate}}]}


def entry(slug: str, *prices: tuple[datetime, datetime | None, str]) -> dict[str, Any]:
    """A model of a catalog document, with the input rate of each price."""
    return {
        "id": slug, "name": slug, "vendor": "New", "brand": "New", "provider": "New", "owned_by": "new",
        "released_at": 1_700_000_000,
        "prices": [
            {
                "effective_from": start.isoformat(), "effective_to": end and end.isoformat(), "source": "tests",
                "rates": card(rate, "0"),
            }
            for start, end, rate in prices
        ],
    }  # fmt: skip


def publish(*entries: dict[str, Any]) -> None:
    """Load a catalog document."""
    catalog.load({"format": catalog.FORMAT, "models": list(entries)})


def append(price: Price) -> None:
    """Publish a version."""
    with transaction.atomic():
        catalog.append(price)


def correct(slug: str, rates: dict[str, Any]) -> Price:
    """Publish a correction of a model's last version that is in force."""
    version = catalog.listing().price_at(slug, clock.now())
    assert version is not None
    price = Price(
        model=CatalogModel.objects.get(slug=slug), effective_from=version.effective_from, revision=2, rates=rates,
        source="tests",
    )  # fmt: skip
    with at_once():
        append(price)
    return price


def rerate(reason: str) -> Rerating:
    """Apply today's price book to the last hour."""
    act = rerating.plan(start=clock.now() - timedelta(hours=1), end=clock.now() + SECOND, reason=reason, by=BY)
    rerating.apply(act, by=BY)
    return act


def happen() -> None:
    """Everything, on fresh books."""
    acme, umbrella = organization("acme", usd="1"), organization("umbrella")
    initech, hooli = organization("initech", usd="2"), organization("hooli", usd="3")
    organization("idle")
    organizations.set_price_group(organization=hooli, group="partners", by=BY)
    soon = clock.now() + SECOND
    with at_once():
        rules.publish(by=BY, reason="partners", effective_from=soon, group="partners", factor=Decimal("1.2"))
        rules.publish(
            by=BY, reason="contract", effective_from=soon, organization=initech, rates=card("0.2", "1"),
            model=CatalogModel.objects.get(slug=MODEL),
        )  # fmt: skip
    ended, now = clock.now() - timedelta(days=3), clock.now()
    publish(entry("ended-1", (ended - timedelta(days=3), ended, "1"), (ended, None, "2")))
    publish(entry("unused-1", (ended, now + timedelta(days=3), "1"), (now + timedelta(days=3), None, "2")))
    for of in (acme, umbrella, initech, hooli):
        charge(of, event(event_id="one"), event(event_id="two"), event(event_id="failure", status=429))
        charge(of, event(event_id="unpriced", model="nobody-priced-this"), event(event_id="late", model="late-1"))
        charge(of, event(event_id="given-up", model="nobody-priced-this"))
        charge(of, event(event_id="free", model="gemma-4-31b-it", cached_input_tokens=0))
        charge(of, event(event_id="smart", model="deepai-chat", routed_model=MODEL, provider="deepseek"))
        charge(of, event(event_id="before", model="ended-1", occurred_at=ended - SECOND), event(model="ended-1"))
        charge(of, event(event_id="three", occurred_at=soon), event(event_id="four", model="gpt-4o"))
        charge(of, event(event_id="ruled", occurred_at=soon))
        for event_id in ("three", "given-up"):
            corrections.void(organization_id=of.pk, event_id=event_id, reason="tests", by=BY)
    orphans = attribution.attribute([event(event_id="orphan", organization="nobodys-labs")])
    record([item for item in orphans if isinstance(item, Orphan)])
    publish(entry("late-1", (ended, None, "2.5")))
    assert releases.release().charged == 4
    correct("gpt-4o", card("2", "8"))
    rerate("a wrong price")
    correct("ended-1", card("3", "0"))
    rerating.undo(rerate("one too many"), reason="it was right", by=BY)
    charge(acme, event(event_id="five", model="gpt-4o"))


@contextmanager
def template(server: Server, make: Callable[[], None] = happen) -> Iterator[Server]:
    """The server, with books in which everything has happened for a template."""
    with own_books.opened(server=server, number=next(_numbers)) as own:
        caches.forget_all()
        # All records are final: nothing else writes here.
        with mock.patch.object(usage, "FINAL_AFTER", -2 * SECOND):
            make()
        furnished = copy.copy(server)
        furnished.template = f"{own.name}_furnished"
        own_books.point(database=server.main, url=server.url(server.main))
        server.create(furnished.template, template=own.name)
    yield furnished
    server.drop(furnished.template)


@contextmanager
def opened(furnished: Server) -> Iterator[Books]:
    """A copy of them, in force until the end of the block."""
    with own_books.opened(server=furnished, number=next(_numbers)) as own:
        caches.forget_all()
        yield own
