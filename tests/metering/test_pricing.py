"""The one place where a version and a rule become a card."""

from datetime import UTC, datetime
from uuid import uuid4

from metering import pricing, rating
from metering.catalog import Listing, Version
from metering.models import CatalogModel
from metering.rules import Rule, Rulebook, Scope

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CARD = rating.read_card({"terms": [{"when": {}, "rates": {"input": "2", "output": "4"}}]})


class Shelf(Listing):
    """A catalog of one model."""

    def __init__(self) -> None:
        self.model = CatalogModel(slug="m", provider="P")
        self.models, self.names = {"m": self.model}, {"m": "m"}
        self.versions = {"m": [Version(uuid4(), NOW, None, CARD)]}


def test_without_a_rule_the_offer_is_the_catalogs_card() -> None:
    shelf = Shelf()
    book = pricing.Book(shelf, Rulebook([]))
    offer = book.offer(shelf.model, organization_id=uuid4(), group="g", at=NOW)
    assert offer is not None
    assert (offer.card, offer.rule, book.has_rules) == (CARD, None, False)


def test_with_a_rule_the_offer_names_both_frozen_versions() -> None:
    shelf = Shelf()
    rule = Rule(uuid4(), NOW, None, 500_000, None)
    book = pricing.Book(shelf, Rulebook([(Scope(None, "g", None, None), rule)]))
    offer = book.offer(shelf.model, organization_id=uuid4(), group="g", at=NOW)
    assert offer is not None
    assert (offer.version, offer.rule) == (shelf.versions["m"][0], rule)
    assert offer.card.terms[0].rates.input == 1_000_000
    # Frozen ids give the same card without making it again.
    again = book.offer(shelf.model, organization_id=uuid4(), group="g", at=NOW)
    assert again is not None
    assert again.card is offer.card


def test_before_the_first_price_there_is_no_offer() -> None:
    shelf = Shelf()
    book = pricing.Book(shelf, Rulebook([]))
    early = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
    assert book.offer(shelf.model, organization_id=uuid4(), group="", at=early) is None
