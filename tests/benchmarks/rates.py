"""What pure arithmetic costs an event."""

import json
import time
from datetime import UTC, datetime, timedelta

from tests.benchmarks.stage import BATCH, Figure, Stage, batches, median_seconds


def figures(stage: Stage) -> list[Figure]:
    """Microseconds an event for reading JSON strictly, and for rating."""
    from metering import catalog, events, rating

    body = batches(stage.slugs, 1)[0]
    limits = events.Limits(BATCH, datetime.now(UTC), timedelta(days=35), timedelta(minutes=5))
    read = events.decode(body, media_type="application/json", limits=limits).items
    price = catalog.listing().price_at("deepseek-chat", datetime.fromtimestamp(time.time(), UTC))
    assert price is not None

    def rate() -> None:
        for one in read:
            assert isinstance(one, events.Event)
            rating.rate(price.card, one, one.occurred_at)

    plain = median_seconds(lambda: json.loads(body), rounds=20)
    decode = median_seconds(lambda: events.decode(body, media_type="application/json", limits=limits), rounds=20)
    per_event = 1e6 / BATCH
    return [
        Figure("decode", decode * per_event, "µs/event", plain * per_event, "limit: json.loads of the same body"),
        Figure("rating", median_seconds(rate, rounds=20) * per_event, "µs/event", 5.0, "limit: the promise, 5 µs"),
    ]
