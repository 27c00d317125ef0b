"""What waited in quarantine is charged once, at the price of when it happened."""

import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any

from billing import charges, releases
from core import clock, failpoints
from metering import attribution, catalog
from metering.models import UsageRecord
from metering.verdicts import Status
from orgs import caches
from tests.billing import world
from tests.books import JOIN_SECONDS, Books
from tests.metering import world as metering
from tests.proofs import proves

MODEL = "newcomer-1"


def publish(*prices: tuple[str, str]) -> None:
    """Give the newcomer input prices, each from an RFC 3339 instant on."""
    entry: dict[str, Any] = {
        "id": MODEL, "name": MODEL, "vendor": "New", "brand": "New", "provider": "New", "owned_by": "new",
        "released_at": 1_700_000_000,
        "prices": [
            {
                "effective_from": start, "effective_to": None, "source": "a test",
                "rates": {"terms": [{"when": {}, "rates": {"input": rate, "output": "0"}}]},
            }
            for start, rate in prices
        ],
    }  # fmt: skip
    catalog.load({"format": catalog.FORMAT, "models": [entry]})


@proves("I11", guard="quarantined_claims_turn_once")
def test_an_unpriced_event_is_charged_once_when_its_price_is_published(books: Books) -> None:
    acme = world.organization("acme", usd="10")
    (verdict,) = world.charge(acme, metering.event(model=MODEL, input_tokens=1_000_000, cached_input_tokens=0))
    assert verdict.status is Status.QUARANTINED
    assert world.standing(acme).balance == 10
    assert releases.release().charged == 0

    publish(("2025-01-01T00:00:00+00:00", "2.5"))
    # Nobody goes on before all have looked at what waits, or have found nothing to look at.
    looked, mine = threading.Barrier(4, timeout=JOIN_SECONDS), threading.local()

    def wait() -> None:
        if not hasattr(mine, "looked"):
            mine.looked = True
            looked.wait()

    def release() -> releases.Released:
        found = releases.release()
        wait()
        return found

    with failpoints.armed("release.after_rows", wait):
        done = books.together([release] * 4)

    assert sum(one.charged for one in done) == 1
    assert releases.release().charged == 0
    assert world.standing(acme).balance == Decimal("7.5")
    assert UsageRecord.objects.get(organization_id=acme.pk).model == MODEL
    world.assert_sound()


def test_the_price_is_that_of_the_instant_when_it_happened(books: Books) -> None:
    acme = world.organization("acme", usd="10")
    then = clock.now() - timedelta(days=10)
    event = metering.event(
        model=MODEL, occurred_at=then, input_tokens=1_000_000, cached_input_tokens=0, output_tokens=0
    )
    world.charge(acme, event)
    publish(
        ("2025-01-01T00:00:00+00:00", "1"),
        ((clock.now() - timedelta(days=5)).replace(microsecond=0).isoformat(), "3"),
    )
    assert releases.release().charged == 1
    assert world.standing(acme).balance == 9


def test_an_event_sent_again_after_its_release_is_a_duplicate(books: Books) -> None:
    acme = world.organization("acme", usd="10")
    items = metering.attributed(acme, metering.event(model=MODEL))
    charges.record(items, reported_by=None)
    publish(("2025-01-01T00:00:00+00:00", "1"))
    releases.release()
    (verdict,) = charges.record(items, reported_by=None)
    assert verdict.status is Status.DUPLICATE
    assert verdict.record_id is not None
    world.assert_sound()


def test_an_orphan_is_charged_when_its_organization_exists(books: Books) -> None:
    event = metering.event(organization="late-labs")
    (orphan,) = attribution.attribute([event])
    assert isinstance(orphan, attribution.Orphan)
    (verdict,) = charges.record([orphan], reported_by=None)
    assert verdict.status is Status.QUARANTINED

    late = world.organization("late-labs", usd="1")
    caches.forget_all()
    assert releases.release().charged == 1
    assert world.standing(late).balance == Decimal("0.999638")
    world.assert_sound()


def test_more_rows_than_a_chunk_are_all_charged(books: Books) -> None:
    acme = world.organization("acme", usd="10")
    count = releases.CHUNK + 7
    world.charge(acme, *(metering.event(model=MODEL, input_tokens=1, cached_input_tokens=0) for _ in range(count)))
    publish(("2025-01-01T00:00:00+00:00", "1"))
    assert releases.release().charged == count
    world.assert_sound()
