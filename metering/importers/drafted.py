"""What an importer makes of a price list: drafts, and everything it could not or did not take."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from metering import names, rating
from metering.names import Name

MODEL_LENGTH_MAX = 200
_SHOWN_MAX = 300


class BadSource(ValueError):
    """A price list that cannot be read as a whole; the message says why. Nothing was drafted."""


class Absurd(ValueError):
    """What no honest list says: a negative price. Whoever finds one trusts nothing else in it."""


class Refusal(NamedTuple):
    """Something in the list that was not taken: where it stands, and why. Both are printable and short.

    ``grave`` means that the whole list is not to be trusted.
    """

    place: str
    reason: str
    grave: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class DraftPrice(NamedTuple):
    """A price somebody may publish.

    ``model`` is the id as the list writes it, ``name`` what that id is made of; which model of the
    catalog it is, ``metering.names.candidates`` helps to find. ``rates`` is a rate card's document
    and passes ``rating.read_card``. ``gaps`` is what the list charges for and the card cannot say:
    such use stays unpriced. ``assumed`` is what the card says and the list does not, in so many
    words, and ``implied`` the pools of each term that the list does not state. The times are set
    where the list sets them.
    """

    model: str
    name: Name
    rates: Mapping[str, Any]
    source: str
    gaps: tuple[Refusal, ...] = ()
    assumed: tuple[Refusal, ...] = ()
    effective_from: datetime | None = None
    effective_to: datetime | None = None
    implied: tuple[frozenset[str], ...] = ()

    def card(self) -> rating.RateCard:
        """The card as rating reads it."""
        return rating.read_card(self.rates)


class Drafted(NamedTuple):
    """A price list, read: the drafts; the models that got none; what is out of scope, each with its reason."""

    prices: tuple[DraftPrice, ...]
    refused: tuple[Refusal, ...]
    ignored: tuple[Refusal, ...]

    def report(self) -> str:
        """All findings as text, one a line, the gravest first."""
        gaps = [gap for price in self.prices for gap in price.gaps]
        assumed = [note for price in self.prices for note in price.assumed]
        kinds = (("refused", self.refused), ("gap", gaps), ("assumed", assumed), ("ignored", self.ignored))
        return "\n".join(f"{word} {finding}" for word, findings in kinds for finding in findings)


class Findings:
    """What is wrong with one entry, gathered so that a report names all of it, and then judged together."""

    def __init__(self, model: object) -> None:
        self.model = shown(model) or '""'
        self.refused: list[Refusal] = []
        self.gaps: list[Refusal] = []
        self.assumed: list[Refusal] = []

    def place(self, part: str) -> str:
        """Where a part of this entry stands."""
        return shown(f"{self.model}: {part}") if part else self.model

    def refuse(self, part: str, reason: object) -> None:
        """The entry gets no draft."""
        self.refused.append(Refusal(self.place(part), shown(reason), grave=isinstance(reason, Absurd)))

    def gap(self, part: str, reason: str) -> None:
        """The list charges for something that the card will not say."""
        self.gaps.append(Refusal(self.place(part), shown(reason)))

    def assume(self, part: str, reason: str) -> None:
        """The card will say something that the list only implies."""
        self.assumed.append(Refusal(self.place(part), shown(reason)))

    def draft(
        self,
        model: str,
        rates: Mapping[str, Any],
        *,
        source: str,
        part: str = "",
        check: Callable[[Mapping[str, Any]], rating.RateCard] = rating.read_card,
        name: Name | None = None,
        effective_from: datetime | None = None,
        effective_to: datetime | None = None,
        implied: tuple[frozenset[str], ...] = (),
    ) -> list[DraftPrice]:
        """The draft, unless something was refused or ``rates``, at ``part``, is no card: then the findings say so."""
        try:
            check(rates)
        except (OSError, ValueError) as error:  # a time zone may be the name of a directory
            self.refuse(part, error)
        if self.refused:
            return []
        found = name or names.parse(model)
        gaps, assumed = tuple(self.gaps), tuple(self.assumed)
        return [DraftPrice(model, found, rates, source, gaps, assumed, effective_from, effective_to, implied)]


def as_model(value: object) -> str:
    """A model id that a table and a page can hold. Raises ``ValueError``."""
    if not isinstance(value, str):
        raise ValueError(f"a model id is a string, not {kind(value)}")
    if not 0 < len(value) <= MODEL_LENGTH_MAX or not value.isprintable() or any(map(str.isspace, value)):
        raise ValueError(f"a model id has 1 to {MODEL_LENGTH_MAX} printable characters and no spaces")
    return value


def kind(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, Mapping):
        return "an object"
    return "an array" if isinstance(value, list) else "a number"


def shown(value: object) -> str:
    """Any value as one short printable line, whatever a stranger put into it."""
    text = str(value)
    cut = text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 1]}…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)
