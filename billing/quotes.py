"""What a request would cost: the debit's own pricing, without a debit."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from billing.explain import Part, parts_of
from core import clock, errors, money, wire
from metering import counting, pricing, rating, tokens
from metering.events import Name, Short, explain_error, least_input, least_output, phrases
from orgs import organizations


@wire.readable
class Request(rating.Counts, kw_only=True):
    """What ``POST /v1/estimate`` is asked: counts, or text to count."""

    model: Name
    service_tier: Short | None = None
    max_output_tokens: rating.Count | None = None
    messages: Any = None
    input_text: Any = None
    output_text: Any = None
    tools: Any = None


_MUST_BE = phrases(Request)


class Asked(NamedTuple):
    """A request with its counts settled; ``estimated`` if text was counted."""

    model: str
    counts: rating.Counts
    estimated: bool


def read(body: Mapping[str, Any]) -> Asked:
    """What a body asks. A count that is present is believed; only an absent one is counted from text.

    Raises an ``ApiError`` that names the field.
    """
    told = {name: value for name, value in body.items() if value is not None}
    try:
        request = msgspec.convert(told, Request)
    except msgspec.ValidationError as error:
        raise explain_error(str(error), must_be=_MUST_BE) from error
    estimated = False
    if "input_tokens" not in told:
        if request.messages is None and request.input_text is None:
            raise errors.MissingParameter("input_tokens is required, or messages or input_text.", param="input_tokens")
        text = tokens.prompt(messages=request.messages, text=request.input_text, tools=request.tools)
        counted = counting.estimate(text, model=request.model)
        request.input_tokens, estimated = max(least_input(request), counted), True
    if "output_tokens" not in told:
        if request.output_text is not None:
            text = tokens.passage(request.output_text, param="output_text")
            counted = counting.estimate(text, model=request.model)
            request.output_tokens, estimated = max(least_output(request), counted), True
        else:
            request.output_tokens = request.max_output_tokens or 0
    return Asked(request.model, request, estimated)


class Quote(NamedTuple):
    """A cost and what it is made of, by the book of this moment."""

    model: str
    cost_usd: Decimal
    parts: Sequence[Part]
    price_id: UUID
    rule_id: UUID | None


def quote(*, model: str, counts: rating.Counts, organization_id: UUID | None) -> Quote:
    """Price counts for an organization, or by the plain catalog without one.

    Raises ``ModelNotFound`` for an unknown model, ``OutOfRange`` for one (or a use) without a price,
    ``InconsistentUsage`` for counts that contradict each other.
    """
    book = pricing.book()
    found = book.listing.find(model)
    if found is None:
        raise errors.ModelNotFound(f"No model with the id {model} is in the catalog.", param="model")
    now = clock.now()
    group = ""
    if organization_id is not None:
        group = organizations.find_ids([organization_id])[organization_id].price_group
    # The nil id is nobody's, so only rules for everybody apply.
    offer = book.offer(found, organization_id=organization_id or UUID(int=0), group=group, at=now)
    if offer is None:
        raise errors.OutOfRange(f"{model} has no price.", param="model")
    try:
        rated = rating.rate(offer.card, counts, now)
    except rating.Unpriced as unpriced:
        raise errors.OutOfRange(f"{model}: {unpriced}.", param=unpriced.param) from unpriced
    except rating.Inconsistent as wrong:
        raise errors.InconsistentUsage(f"{wrong}.", param=wrong.param) from wrong
    return Quote(
        found.slug,
        money.from_pico(rated.cost_pico),
        parts_of(offer.card, rated.terms, counts),
        offer.version.id,
        offer.rule.id if offer.rule else None,
    )
