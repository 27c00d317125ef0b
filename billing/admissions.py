"""What a request may cost at most, before it begins: the debit's own pricing at the worst case (contract 17).

A hold is worth what it covers, so everything that is not known counts at its dearest: the pool that each
token falls into, the minute that the request is accepted in, the version of the price. Who asks may say
more and hold less: ``image_input_tokens: 0`` promises that no token of the input is an image's.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from django.conf import settings

from core import clock, errors, money, wire
from metering import counting, pricing, rating, tokens
from metering.events import PAIRS_MAX, Label, Name, Short, explain_error, phrases
from metering.models import CatalogModel
from orgs import organizations

CHOICES_MAX = 128
# A gateway accepts a request before it asks about it, by a clock of its own.
REACH_BACK = timedelta(minutes=1)
# Windows and rules begin on minutes.
_STEP = timedelta(minutes=1)

Choices = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)]
S = TypeVar("S", bound=msgspec.Struct)


@wire.readable
class Request(msgspec.Struct, kw_only=True):
    """What a request means to use. An absent part of the input or output may be as large as the whole."""

    model: Name
    service_tier: Short | None = None
    batch: bool = False
    input_tokens: rating.Count | None = None
    image_input_tokens: rating.Count | None = None
    audio_input_tokens: rating.Count | None = None
    max_output_tokens: rating.Count | None = None
    image_output_tokens: rating.Count | None = None
    audio_output_tokens: rating.Count | None = None
    n: Choices = 1
    units: dict[Label, rating.Count] = {}
    messages: Any = None
    input_text: Any = None
    tools: Any = None


class Most(NamedTuple):
    """The most that a request can come to: ``max_output_tokens`` caps each choice, ``tokens`` are input and output."""

    model: str
    max_output_tokens: int
    tokens: int
    amount_usd: Decimal


def read(body: Mapping[str, Any], kind: type[S], **must_be: str) -> S:
    """A body as a struct; ``null`` is the same as absent, unknown fields are dropped.

    ``must_be`` says in words what a field must be. Raises an ``ApiError`` that names the field.
    """
    told = {name: value for name, value in body.items() if value is not None}
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError as error:
        raise explain_error(str(error), must_be={**phrases(kind), **_MUST_BE, **must_be}) from error


_MUST_BE = {"n": f"an integer from 1 to {CHOICES_MAX}"}


def find_model(name: str) -> CatalogModel:
    """The catalog's model of an id or alias. Raises ``ModelNotFound``, which repeats nothing of the name."""
    found = pricing.book().listing.find(name)
    if found is None:
        raise errors.ModelNotFound("No model with this id is in the catalog.", param="model")
    return found


def most(request: Request, *, model: CatalogModel, organization_id: UUID, seconds: int) -> Most:
    """The most that a request can cost an organization if it is accepted within ``seconds`` from now.

    Raises ``OutOfRange`` where there is no price for what it may use, and what ``tokens.prompt`` and
    ``counting.estimate`` raise where the input is to be counted.
    """
    if len(request.units) > PAIRS_MAX:
        raise errors.OutOfRange(f"units holds at most {PAIRS_MAX} names.", param="units")
    now = clock.now()
    book = pricing.book()
    group = organizations.find_ids([organization_id])[organization_id].price_group

    def offer(at: datetime) -> pricing.Offer | None:
        return book.offer(model, organization_id=organization_id, group=group, at=at)

    present = offer(now)
    if present is None:
        raise errors.OutOfRange("This model has no price.", param="model")
    cap = _cap(request, model, present.card)
    bounds = _bounds(request, cap)
    try:
        dearest = rating.worst_case(present.card, bounds, now)
        for at in _minutes(now - REACH_BACK, now + timedelta(seconds=seconds)):
            found = offer(at)
            # Where a price has ended nothing is charged.
            if found is not None and (found.card is not present.card or _has_windows(found.card)):
                dearest = max(dearest, rating.worst_case(found.card, bounds, at))
    except rating.Unpriced as unpriced:
        param = _ASKED_AS.get(unpriced.param, unpriced.param)
        raise errors.OutOfRange(f"This model has no price for {param}.", param=param) from unpriced
    amount = money.from_pico(dearest)
    if amount >= money.USD_MAX:
        raise errors.OutOfRange("The request could cost more than a wallet can hold.", param="max_output_tokens")
    return Most(model.slug, cap, bounds.input_tokens + bounds.output_tokens, amount)


# What a field of the counts is called in a request.
_ASKED_AS = {"output_tokens": "max_output_tokens"}


def _cap(request: Request, model: CatalogModel, card: rating.RateCard) -> int:
    """Output tokens of one choice: as asked, else the default; no more than the model makes, whatever is asked."""
    cap: int | None = request.max_output_tokens
    if cap is None:
        cap = settings.OUTPUT_TOKENS_DEFAULT if rating.prices_output(card) else 0
    return min(cap, model.max_output_tokens or cap)


def _bounds(request: Request, cap: int) -> rating.Bounds:
    """What is known of a request's use, its input counted where that is not told."""
    images, audio = request.image_input_tokens, request.audio_input_tokens
    told = (images or 0) + (audio or 0)
    tokens_in = request.input_tokens
    if tokens_in is None:
        text = tokens.prompt(messages=request.messages, text=request.input_text, tools=request.tools)
        # Parts that are neither text nor image cannot be counted and are refused.
        audio = audio or 0
        if images is None and not tokens.has_images(request.messages):
            images = 0
        tokens_in = max(counting.estimate(text, model=request.model), told)
    elif told > tokens_in:
        raise errors.InconsistentUsage("The parts of the input exceed input_tokens.", param="input_tokens")
    return rating.Bounds(
        tokens_in, request.n * cap, images, audio, request.image_output_tokens, request.audio_output_tokens,
        request.units, request.service_tier, request.batch,
    )  # fmt: skip


def _has_windows(card: rating.RateCard) -> bool:
    return any(entry.windows for entry in card.terms)


def _minutes(start: datetime, end: datetime) -> Iterator[datetime]:
    """The start, each whole minute after it, and the end."""
    yield start
    at = start.replace(second=0, microsecond=0) + _STEP
    while at < end:
        yield at
        at += _STEP
    yield end
