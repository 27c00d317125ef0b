"""What pure arithmetic costs an event, and counting tokens a text."""

import json
import time
from datetime import UTC, datetime, timedelta

from tests.benchmarks.stage import BATCH, Figure, Stage, batches, median_seconds

# Prose with what gateways see besides: code, other scripts, an emoji.
SAMPLE = """It was the best of times, it was the worst of times, it was the age of wisdom.
def price(*, tokens: int) -> int:
    return tokens * 270_000  # pico-dollars 🙂
天地玄黄，宇宙洪荒。Übermäßig viele Größen; où est la bibliothèque?
"""
SAMPLE_CHARS = 1_000_000


def figures(stage: Stage) -> list[Figure]:
    """Microseconds an event for reading JSON strictly and for rating; tokens counted a second."""
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
        *_tokens(),
        Figure("decode", decode * per_event, "µs/event", plain * per_event, "limit: json.loads of the same body"),
        Figure("rating", median_seconds(rate, rounds=20) * per_event, "µs/event", 5.0, "limit: the promise, 5 µs"),
    ]


def _tokens() -> list[Figure]:
    """A million characters as an event's text is counted, against tiktoken in one go, by each table."""
    import tiktoken

    from metering import tokens

    text = (SAMPLE * (SAMPLE_CHARS // len(SAMPLE) + 1))[:SAMPLE_CHARS]
    found = []
    for encoding in tokens.TABLES:
        counted = tokens.count_text(text, encoding=encoding)
        plain = tiktoken.get_encoding(encoding)
        took = median_seconds(lambda encoding=encoding: tokens.count_text(text, encoding=encoding), rounds=10)  # type: ignore[misc]
        limit = median_seconds(lambda plain=plain: plain.encode_ordinary(text), rounds=10)  # type: ignore[misc]
        found.append(
            Figure(
                f"tokens_{encoding}", counted / took / 1e6, "M/s", counted / limit / 1e6, "limit: tiktoken in one go"
            )
        )
    return found
