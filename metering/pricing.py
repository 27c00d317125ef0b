"""What a request costs whom: the catalog's version, the rule on it, and the card they make.

One place for the debit, the quote and the re-rating, so that they cannot disagree.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from metering import catalog, rating, rules
from metering.catalog import Listing, Version
from metering.models import CatalogModel
from metering.rules import Rule, Rulebook


class Offer(NamedTuple):
    """A card, and the two frozen versions that it is made of."""

    version: Version
    rule: Rule | None
    card: rating.RateCard


class Book(NamedTuple):
    """The catalog and the rules as this process knows them, taken once for a batch."""

    listing: Listing
    rulebook: Rulebook

    @property
    def has_rules(self) -> bool:
        """Whether anybody pays anything but the catalog's price."""
        return bool(self.rulebook.by_scope)

    def offer(self, model: CatalogModel, *, organization_id: UUID, group: str, at: datetime) -> Offer | None:
        """What an organization of a group pays for a model at an instant; None if it has no price then."""
        version = self.listing.price_at(model.slug, at)
        if version is None:
            return None
        rule = self.rulebook.find(
            organization_id=organization_id, group=group, provider=model.provider, model=model.slug, at=at
        )
        return Offer(version, rule, rules.customer_card(version.id, version.card, rule))


def book() -> Book:
    """The catalog and the rules, at most half a second behind a change elsewhere."""
    return Book(catalog.listing(), rules.book())
