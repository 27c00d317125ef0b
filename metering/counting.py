"""The counts that a gateway did not report, worked out from text by the catalog's model (contract 16.2)."""

import logging
from collections.abc import Sequence

import msgspec

from core import errors
from metering import catalog, tokens
from metering.events import Event, Rejection, Uncounted

log = logging.getLogger(__name__)


def complete(items: Sequence[Event | Uncounted | Rejection]) -> list[Event | Rejection]:
    """The items, in order, every event with its counts; the texts end here.

    Raises ``Unavailable`` when something is to be counted and the token tables are unusable.
    """
    return [_count(item) if isinstance(item, Uncounted) else item for item in items]


def _count(item: Uncounted) -> Event:
    """The event with estimates, marked as such."""
    event = item.event
    counts: dict[str, int] = {}
    digests: dict[str, str] = {}
    for whole, text, least in (
        ("input_tokens", item.input, event.input_tokens),
        ("output_tokens", item.output, event.output_tokens),
    ):
        if text is None:
            continue
        counts[whole] = max(least, estimate(text, model=event.model))
        digests[whole] = text.digest()
    return msgspec.structs.replace(event, **counts, estimated=digests)


def estimate(text: tokens.Text, *, model: str) -> int:
    """Tokens of a text as the catalog's model counts them, with the margin for its vendor.

    A model that nobody knows has the widest margin. Raises ``Unavailable``.
    """
    found = catalog.listing().find(model)
    encoding = found.encoding if found and found.encoding in tokens.TABLES else tokens.DEFAULT_ENCODING
    try:
        return tokens.estimate(text, encoding=encoding, vendor=found.owned_by if found else None)
    except tokens.TableUnusable as error:
        log.critical("%s", error)
        raise errors.Unavailable("Tokens cannot be counted now; report the counts or send it again.") from error
