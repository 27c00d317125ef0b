"""What customers pay instead of the catalog's price: markups, discounts, contracts.

The only module that writes ``PriceRule``. One rule applies to a request, the most specific that
holds: an organization's own before its group's, a model's before its provider's. Rules are
appended and never changed; of two with the same scope the later start wins.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction

from core import errors
from metering import catalog, rating
from metering.models import CatalogModel, PriceRule
from orgs import audit, caches, organizations
from orgs.audit import Actor
from orgs.models import Organization

FACTOR_MAX = Decimal(1000)
FACTOR_DECIMALS = 6


class Scope(NamedTuple):
    """Whom a rule is for; ``None`` means any. A rule names an organization or a group, not both."""

    organization_id: UUID | None
    group: str | None
    provider: str | None
    model: str | None


class Rule(NamedTuple):
    """A rule as rating uses it: ``factor`` in millionths, or rates of its own."""

    id: UUID
    effective_from: datetime
    effective_to: datetime | None
    factor_millionths: int | None
    card: rating.RateCard | None

    def holds(self, at: datetime) -> bool:
        """Whether it is for what happened at an instant: start inclusive, end exclusive."""
        return self.effective_from <= at and (self.effective_to is None or at < self.effective_to)


class Rulebook:
    """All rules in memory, by scope."""

    def __init__(self, rows: Sequence[tuple[Scope, Rule]]) -> None:
        self.by_scope: dict[Scope, list[Rule]] = {}
        for scope, rule in sorted(rows, key=lambda row: row[1].effective_from, reverse=True):
            self.by_scope.setdefault(scope, []).append(rule)

    def find(self, *, organization_id: UUID, group: str, provider: str, model: str, at: datetime) -> Rule | None:
        """The one rule for a request that was accepted at ``at``."""
        if not self.by_scope:
            return None
        for owner, named_group in ((organization_id, None), (None, group), (None, None)):
            for maker, named_model in ((None, model), (provider, None), (None, None)):
                for rule in self.by_scope.get(Scope(owner, named_group, maker, named_model), ()):
                    if rule.holds(at):
                        return rule
        return None


def _load(keys: Collection[str]) -> Mapping[str, Rulebook]:
    rows = [
        (
            Scope(row.organization_id, row.price_group, row.provider, row.model.slug if row.model else None),
            _rule(row),
        )
        for row in PriceRule.objects.select_related("model")
    ]
    return dict.fromkeys(keys, Rulebook(rows))


def _rule(row: PriceRule) -> Rule:
    return Rule(
        id=row.id,
        effective_from=row.effective_from,
        effective_to=row.effective_to,
        factor_millionths=None if row.factor is None else int(row.factor.scaleb(FACTOR_DECIMALS)),
        card=None if row.rates is None else rating.read_card(row.rates),
    )


_books: caches.Cached[str, Rulebook] = caches.Cached(_load)


def book() -> Rulebook:
    """The rules as this process knows them, at most half a second behind a change elsewhere."""
    found = _books.get("rules")
    assert found is not None
    return found


# A price version and a rule are both frozen, so their ids decide the card for ever.
_cards: dict[tuple[UUID, UUID], rating.RateCard] = {}
_CARDS_MAX = 4096


def customer_card(version_id: UUID, base: rating.RateCard, rule: Rule | None) -> rating.RateCard:
    """What a customer under ``rule`` pays where the catalog says ``base``: each rate rounded once (decisions 5)."""
    if rule is None or rule.card is not None:
        return derive_card(base, rule)
    key = (version_id, rule.id)
    card = _cards.get(key)
    if card is None:
        if len(_cards) >= _CARDS_MAX:
            _cards.clear()
        card = _cards[key] = derive_card(base, rule)
    return card


def derive_card(base: rating.RateCard, rule: Rule | None) -> rating.RateCard:
    """``customer_card`` from what is given alone, whatever this process remembers."""
    if rule is None:
        return base
    if rule.card is not None:
        return rule.card
    assert rule.factor_millionths is not None
    return rating.scaled(base, rule.factor_millionths)


def row(rule_id: UUID) -> PriceRule:
    """A rule by id, for ever: records keep it."""
    return PriceRule.objects.select_related("model", "organization").get(pk=rule_id)


def as_rule(found: PriceRule | None) -> Rule | None:
    """A row as rating uses it."""
    return None if found is None else _rule(found)


@transaction.atomic
def publish(
    *,
    by: Actor,
    reason: str,
    effective_from: datetime,
    effective_to: datetime | None = None,
    organization: Organization | None = None,
    group: str | None = None,
    provider: str | None = None,
    model: CatalogModel | None = None,
    factor: Decimal | None = None,
    rates: Mapping[str, Any] | None = None,
) -> PriceRule:
    """Append a rule: a factor on the catalog's rates, or for one model rates of its own.

    It starts where no request can have been rated yet, as prices do (``catalog.earliest_start``).
    Raises ``OutOfRange`` that names the parameter.
    """
    if not reason.strip():
        raise errors.OutOfRange("reason says why, in words.", param="reason")
    if organization is not None and group is not None:
        raise errors.OutOfRange("A rule is for an organization or for a group, not both.", param="group")
    # A rule for nobody, or for what nobody makes, would stand there and never apply.
    if group is not None and not organizations.is_slug(group):
        raise errors.OutOfRange("group has 1 to 63 lower-case letters, digits and inner hyphens.", param="group")
    if provider is not None and not CatalogModel.objects.filter(provider=provider).exists():
        raise errors.OutOfRange("No model of the catalog is of that provider.", param="provider")
    if provider is not None and model is not None:
        raise errors.OutOfRange("A rule is for a provider or for a model, not both.", param="provider")
    if (factor is None) == (rates is None):
        raise errors.OutOfRange("A rule has a factor or rates, one of them.", param="factor")
    if factor is not None and not _is_factor(factor):
        raise errors.OutOfRange(
            f"factor lies between 0 and {FACTOR_MAX} and has at most {FACTOR_DECIMALS} decimals.", param="factor"
        )
    if rates is not None:
        if model is None:
            raise errors.OutOfRange("Rates of its own are for one model.", param="rates")
        try:
            rating.check_card(rates)
        except ValueError as error:
            raise errors.OutOfRange(str(error), param="rates") from error
    if effective_to is not None and effective_to <= effective_from:
        raise errors.OutOfRange("A rule ends after it starts.", param="effective_to")
    soonest = catalog.earliest_start()
    if effective_from < soonest:
        raise errors.OutOfRange(f"A rule starts at {soonest.isoformat()} or later.", param="effective_from")
    rule = PriceRule(
        organization=organization,
        price_group=group,
        provider=provider,
        model=model,
        effective_from=effective_from,
        effective_to=effective_to,
        factor=factor,
        rates=None if rates is None else dict(rates),
        reason=reason.strip(),
        created_by=by.label,
    )
    rule.save(force_insert=True)
    audit.note(
        actor=by,
        verb="price_rule.published",
        subject=rule,
        organization=organization,
        details={"factor": None if factor is None else str(factor), "reason": rule.reason},
    )
    caches.bump()
    return rule


def _is_factor(factor: Decimal) -> bool:
    return factor.is_finite() and 0 <= factor <= FACTOR_MAX and factor == round(factor, FACTOR_DECIMALS)
