"""What customers pay instead of the catalog's price: markups, discounts, contracts.

The only module that writes ``PriceRule``. One rule applies to a request, the most specific that
holds: an organization's own before its group's, a model's before its provider's. Rules are
appended and never changed; of two with the same scope the later start wins. That one ends before its
time is appended too, and what is less specific, or began earlier, holds again from then on.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction

from core import errors, ids
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

    def until(self, at: datetime | None) -> "Rule":
        """The rule as it holds if it ends at an instant, if not before; ``None`` changes nothing."""
        ends = min((end for end in (self.effective_to, at) if end is not None), default=None)
        return self._replace(effective_to=ends)


class Rulebook:
    """All rules in memory, by scope."""

    def __init__(self, rows: Sequence[tuple[Scope, Rule]]) -> None:
        self.by_scope: dict[Scope, list[Rule]] = {}
        for scope, rule in sorted(rows, key=lambda row: row[1].effective_from, reverse=True):
            self.by_scope.setdefault(scope, []).append(rule)

    def plus(self, scope: Scope, rule: Rule) -> "Rulebook":
        """The book with one rule more."""
        return Rulebook([(scope, rule), *self._rows()])

    def ending(self, rule_id: UUID, at: datetime) -> "Rulebook":
        """The book in which a rule ends at an instant, if not before."""
        return Rulebook([(scope, rule.until(at) if rule.id == rule_id else rule) for scope, rule in self._rows()])

    def _rows(self) -> Iterator[tuple[Scope, Rule]]:
        return ((scope, rule) for scope, found in self.by_scope.items() for rule in found)

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
    found = list(PriceRule.objects.select_related("model"))
    ends: dict[UUID, datetime] = {}
    for row in found:
        if row.ends_id is not None:
            ends[row.ends_id] = min(row.effective_from, ends.get(row.ends_id, row.effective_from))
    rows = [(scope_of(row), _rule(row).until(ends.get(row.pk))) for row in found if row.ends_id is None]
    return dict.fromkeys(keys, Rulebook(rows))


def scope_of(row: PriceRule) -> Scope:
    """Whom and what a row is for."""
    return Scope(row.organization_id, row.price_group, row.provider, row.model.slug if row.model else None)


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


def check(
    *,
    reason: str,
    organization: Organization | None = None,
    group: str | None = None,
    provider: str | None = None,
    model: CatalogModel | None = None,
    factor: Decimal | None = None,
    rates: Mapping[str, Any] | None = None,
) -> None:
    """Raise ``OutOfRange`` that names the parameter for what cannot be a rule, whenever it starts."""
    check_reason(reason)
    if organization is not None and group is not None:
        raise errors.OutOfRange("A rule is for an organization or for a group, not both.", param="group")
    # A rule for nobody, or for what nobody makes, would stand there and never apply.
    if group is not None:
        organizations.check_group(group)
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


def check_reason(reason: str) -> None:
    """Raise ``OutOfRange`` for a reason that says nothing."""
    if not reason.strip():
        raise errors.OutOfRange("reason says why, in words.", param="reason")


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
    rule_id: UUID | None = None,
    asked_by: str | None = None,
) -> PriceRule:
    """Append a rule: a factor on the catalog's rates, or for one model rates of its own.

    It starts where no request can have been rated yet, as prices do (``catalog.earliest_start``).
    ``rule_id`` is the id under which a second person was asked, ``asked_by`` who asked.
    Raises ``OutOfRange`` that names the parameter.
    """
    check(
        reason=reason, organization=organization, group=group, provider=provider, model=model, factor=factor,
        rates=rates,
    )  # fmt: skip
    if effective_to is not None and effective_to <= effective_from:
        raise errors.OutOfRange("A rule ends after it starts.", param="effective_to")
    _refuse_late(effective_from, what="A rule starts", param="effective_from")
    rule = PriceRule(
        id=ids.new() if rule_id is None else rule_id,
        organization=organization,
        price_group=group,
        provider=provider,
        model=model,
        effective_from=effective_from,
        effective_to=effective_to,
        factor=factor,
        rates=None if rates is None else dict(rates),
        reason=reason.strip(),
        created_by=asked_by or by.label,
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


@transaction.atomic
def end(*, rule: PriceRule, at: datetime, by: Actor, reason: str, asked_by: str | None = None) -> PriceRule:
    """Let a rule hold until ``at`` only: another row says so. One that has not started by then never holds.

    Raises ``OutOfRange`` that names the parameter, and ``Conflict`` for one that ends before that anyway.
    """
    check_reason(reason)
    if rule.ends_id is not None:
        raise errors.Conflict("This ends a rule, and is none.")
    known = ends_at(rule)
    if known is not None and known <= at:
        raise errors.Conflict(f"This rule ends at {known.isoformat()} anyway.", param="at")
    _refuse_late(at, what="A rule ends", param="at")
    said = PriceRule(
        organization=rule.organization,
        price_group=rule.price_group,
        provider=rule.provider,
        model=rule.model,
        effective_from=at,
        ends=rule,
        reason=reason.strip(),
        created_by=asked_by or by.label,
    )
    said.save(force_insert=True)
    audit.note(
        actor=by,
        verb="price_rule.ended",
        subject=rule,
        organization=rule.organization,
        details={"at": at.isoformat(), "reason": said.reason},
    )
    caches.bump()
    return said


def ends_of(found: Sequence[PriceRule]) -> dict[UUID, datetime | None]:
    """Until when rules hold, by themselves or by what was said since; ``None`` for ever. One query."""
    said: dict[UUID, datetime] = {}
    rows = PriceRule.objects.filter(ends__in=[rule.pk for rule in found]).order_by("-effective_from")
    for ended, at in rows.values_list("ends_id", "effective_from"):
        assert ended is not None
        said[ended] = at
    return {
        rule.pk: min((end for end in (rule.effective_to, said.get(rule.pk)) if end is not None), default=None)
        for rule in found
    }


def ends_at(rule: PriceRule) -> datetime | None:
    """Until when a rule holds."""
    return ends_of([rule])[rule.pk]


def _refuse_late(at: datetime, *, what: str, param: str) -> None:
    soonest = catalog.earliest_start()
    if at < soonest:
        raise errors.OutOfRange(f"{what} at {soonest.isoformat()} or later.", param=param)


def _is_factor(factor: Decimal) -> bool:
    return factor.is_finite() and 0 <= factor <= FACTOR_MAX and factor == round(factor, FACTOR_DECIMALS)
