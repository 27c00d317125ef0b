"""Whose prices are to change: what one person asks for, what it would change, and what a second one's yes does.

A rule, the end of one, and an organization's price group move every request that follows, so nobody decides about
them alone. The question keeps all that is asked for; granting it publishes (``approvals.ON_GRANT``). What has no start
of its own starts as soon as a rule can, counted from the yes, and so does what would by then have started earlier.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import transaction

from core import errors, ids, money, reasons
from metering import catalog, pricing, rating, rules
from metering.importers import overlay
from metering.models import CatalogModel, PriceRule
from metering.pricing import Book
from metering.rules import Rule, Scope
from ops import approvals
from ops.models import Approval
from orgs import organizations
from orgs.audit import Actor
from orgs.models import Organization

RULE: Final = "price_rule"
END: Final = "price_rule_end"
GROUP: Final = "price_group"

TOUCHED_MAX: Final = 100
# No organization: what everybody pays who has no rule of their own.
NOBODY: Final = UUID(int=0)


class Wish(NamedTuple):
    """A rule that somebody means to publish: for an organization or a group, a provider or a model; ``None`` is any."""

    organization: Organization | None = None
    group: str | None = None
    provider: str | None = None
    model: CatalogModel | None = None
    factor: Decimal | None = None
    rates: Mapping[str, Any] | None = None
    effective_from: datetime | None = None
    effective_to: datetime | None = None

    @property
    def scope(self) -> Scope:
        """Whom and what it is for."""
        owner, model = self.organization, self.model
        return Scope(owner.pk if owner else None, self.group, self.provider, model.slug if model else None)

    @property
    def starts_at(self) -> datetime:
        """When it starts if it is agreed to now."""
        return _not_before(self.effective_from)


class Line(NamedTuple):
    """What a model costs somebody before and after, and by the catalog."""

    model: str
    listed: rating.RateCard
    before: rating.RateCard
    after: rating.RateCard


class Touched(NamedTuple):
    """An organization, and for how many models it pays something else afterwards."""

    organization: Organization
    models: int


class Foreseen(NamedTuple):
    """What would change at an instant: for whom it is meant, and for each organization that it may be for.

    ``later`` are rules for the same that start after it and hold instead from then on.
    """

    at: datetime
    lines: Sequence[Line]
    touched: Sequence[Touched]
    has_more: bool
    later: Sequence[Rule]


def contract(model: CatalogModel, told: Mapping[str, Decimal], *, at: datetime) -> dict[str, Any]:
    """A rate card with rates of somebody's own: USD per 1M tokens by pool, all else as the catalog has it at ``at``.

    Raises ``OutOfRange``.
    """
    version = catalog.listing().price_at(model.slug, at)
    if version is None:
        raise errors.OutOfRange(f"{model.slug} has no price then, and so no rates for the rest of it.", param="model")
    rates = {pool: money.plain(rate) for pool, rate in told.items()}
    own = {"terms": [{"when": {}, "rates": rates}]}
    return overlay.lay_over(catalog.price(version.id).rates, own, implied=[()]).document


def check(wish: Wish, *, reason: str) -> None:
    """Raise ``OutOfRange`` that names what is wrong with a wish."""
    rules.check(
        reason=reason, organization=wish.organization, group=wish.group, provider=wish.provider, model=wish.model,
        factor=wish.factor, rates=wish.rates,
    )  # fmt: skip
    if wish.effective_to is not None and wish.effective_to <= wish.starts_at:
        raise errors.OutOfRange("A rule ends after it starts.", param="effective_to")


def ask_rule(*, wish: Wish, reason: str, by: Actor) -> Approval:
    """Ask for a rule; a second person publishes it. Its id is the question's subject. Raises ``OutOfRange``."""
    check(wish, reason=reason)
    told = {
        "organization": wish.organization and wish.organization.slug,
        "group": wish.group,
        "provider": wish.provider,
        "model": wish.model and wish.model.slug,
        "factor": None if wish.factor is None else money.plain(wish.factor),
        "rates": wish.rates and dict(wish.rates),
        "effective_from": _told(wish.effective_from),
        "effective_to": _told(wish.effective_to),
    }
    return _ask(RULE, ids.new(), told, reason=reason, by=by)


def wish_of(asked: Approval) -> Wish:
    """The rule that a question is about. Raises ``OutOfRange`` if its model or organization is gone."""
    told = asked.details
    model, owner = told.get("model"), told.get("organization")
    try:
        return Wish(
            organization=Organization.objects.get(slug=owner) if owner else None,
            group=told.get("group"),
            provider=told.get("provider"),
            model=CatalogModel.objects.get(slug=model) if model else None,
            factor=Decimal(told["factor"]) if "factor" in told else None,
            rates=told.get("rates"),
            effective_from=_read(told.get("effective_from")),
            effective_to=_read(told.get("effective_to")),
        )
    except (CatalogModel.DoesNotExist, Organization.DoesNotExist) as error:
        raise errors.OutOfRange("Whom or what this rule is for is not there any more.") from error


def ask_end(*, rule: PriceRule, at: datetime | None, reason: str, by: Actor) -> Approval:
    """Ask for a rule to end early; a second person ends it. Raises ``OutOfRange`` and ``Conflict``."""
    rules.check_reason(reason)
    ends = rules.ends_at(rule)
    if rule.ends_id is not None or (ends is not None and ends <= _not_before(at)):
        raise errors.Conflict("This ends before that anyway.", param="at")
    return _ask(END, rule.pk, {"rule": str(rule), "at": _told(at)}, reason=reason, by=by)


def ask_group(*, organization: Organization, group: str, reason: str, by: Actor) -> Approval:
    """Ask for an organization to be put into a price group; a second person does it.

    Raises ``OutOfRange``, and ``Conflict`` where it is in that group.
    """
    check_group(organization, group)
    rules.check_reason(reason)
    told = {"organization": organization.slug, "group": {"before": organization.price_group, "after": group}}
    return _ask(GROUP, organization.pk, told, reason=reason, by=by)


def check_group(organization: Organization, group: str) -> None:
    """Raise ``OutOfRange`` for what is no group's name, and ``Conflict`` for the group that it is in."""
    organizations.check_group(group)
    if group == organization.price_group:
        raise errors.Conflict(f"{organization.slug} is in that group.", param="group")


def _ask(kind: str, subject_id: UUID, told: Mapping[str, Any], *, reason: str, by: Actor) -> Approval:
    """Ask, and raise ``Conflict`` if something else is asked about the same already."""
    details = {name: value for name, value in told.items() if value is not None}
    details["reason"] = reason.strip()
    asked = approvals.ask(kind=kind, subject_id=subject_id, by=by, details=details)
    if any(asked.details.get(name) != value for name, value in details.items()):
        raise errors.Conflict(f"Another change of this waits for a second person already: {asked}.")
    return asked


def foresee_rule(wish: Wish) -> Foreseen:
    """What a rule would change if it were agreed to now."""
    at, book = wish.starts_at, pricing.book()
    card = None if wish.rates is None else rating.read_card(wish.rates)
    millionths = None if wish.factor is None else int(wish.factor.scaleb(rules.FACTOR_DECIMALS))
    rule = Rule(ids.new(), at, wish.effective_to, millionths, card)
    then = book._replace(rulebook=book.rulebook.plus(wish.scope, rule))
    return _foresee(wish.scope, at, book, then)


def foresee_end(rule: PriceRule, at: datetime | None) -> Foreseen:
    """What the end of a rule would change if it were agreed to now, at its end or where it would have started."""
    ending, book = _not_before(at), pricing.book()
    then = book._replace(rulebook=book.rulebook.ending(rule.pk, ending))
    return _foresee(rules.scope_of(rule), max(ending, rule.effective_from), book, then)


def foresee_group(organization: Organization, group: str) -> Foreseen:
    """What an organization would pay in another group, once all of that group's rules have started."""
    book = pricing.book()
    own = [rule for scope, found in book.rulebook.by_scope.items() if scope.group == group for rule in found]
    at = max([_not_before(None), *(rule.effective_from for rule in own)])
    lines = list(_lines(_everything(book), organization.pk, (organization.price_group, group), at, (book, book)))
    return Foreseen(at, lines, [Touched(organization, len(lines))], has_more=False, later=())


def _foresee(scope: Scope, at: datetime, book: Book, then: Book) -> Foreseen:
    models, group = _models(book, scope), scope.group or ""
    if scope.organization_id is None:
        lines = list(_lines(models, NOBODY, (group, group), at, (book, then)))
        owners = Organization.objects.filter(closed_at__isnull=True).order_by("slug")
        owners = owners if scope.group is None else owners.filter(price_group=scope.group)
        found = list(owners[: TOUCHED_MAX + 1])
    else:
        found = [Organization.objects.get(pk=scope.organization_id)]
        group = found[0].price_group
        lines = list(_lines(models, found[0].pk, (group, group), at, (book, then)))
    touched = [
        Touched(
            owner, sum(1 for _ in _lines(models, owner.pk, (owner.price_group, owner.price_group), at, (book, then)))
        )
        for owner in found[:TOUCHED_MAX]
    ]
    later = [rule for rule in book.rulebook.by_scope.get(scope, ()) if rule.effective_from > at]
    return Foreseen(at, lines, touched, has_more=len(found) > TOUCHED_MAX, later=later)


def _models(book: Book, scope: Scope) -> list[CatalogModel]:
    """The models that a rule is for and that somebody can call."""
    return [
        model
        for model in _everything(book)
        if (scope.model is None or model.slug == scope.model)
        and (scope.provider is None or model.provider == scope.provider)
    ]


def _everything(book: Book) -> list[CatalogModel]:
    return sorted(
        (model for model in book.listing.models.values() if model.retired_at is None), key=lambda model: model.slug
    )


def _lines(
    models: Sequence[CatalogModel], payer: UUID, groups: tuple[str, str], at: datetime, books: tuple[Book, Book]
) -> Iterator[Line]:
    """The models that cost somebody something else: in another group, or by another book."""
    for model in models:
        before, after = (
            book.offer(model, organization_id=payer, group=group, at=at)
            for book, group in zip(books, groups, strict=True)
        )
        if before is not None and after is not None and before.card != after.card:
            yield Line(model.slug, before.version.card, before.card, after.card)


def _publish(asked: Approval, by: Actor) -> None:
    wish, told = wish_of(asked), asked.details
    rules.publish(
        by=by, reason=told["reason"], organization=wish.organization, group=wish.group, provider=wish.provider,
        model=wish.model, factor=wish.factor, rates=wish.rates, effective_from=wish.starts_at,
        effective_to=wish.effective_to, rule_id=asked.subject_id, asked_by=approvals.asker(asked),
    )  # fmt: skip


def _end(asked: Approval, by: Actor) -> None:
    told = asked.details
    rules.end(
        rule=rules.row(asked.subject_id), at=_not_before(_read(told.get("at"))), by=by, reason=told["reason"],
        asked_by=approvals.asker(asked),
    )  # fmt: skip


@transaction.atomic
def _change_group(asked: Approval, by: Actor) -> None:
    told = asked.details
    found = Organization.objects.select_for_update(no_key=True).get(pk=asked.subject_id)
    if found.price_group != told["group"]["before"]:
        raise errors.Conflict(f"{found.slug} is in the group {found.price_group} by now: refuse this and ask again.")
    with reasons.given(told["reason"]):
        organizations.set_price_group(organization=found, group=told["group"]["after"], by=by)


# What a yes does, by kind.
GRANTED: Final[Mapping[str, Callable[[Approval, Actor], None]]] = {
    RULE: _publish,
    END: _end,
    GROUP: _change_group,
}


def _not_before(at: datetime | None) -> datetime:
    """An instant, or the full minute from which a change of prices can hold, whichever is later."""
    # A second and more ahead, for the verb looks at the clock once more.
    soonest = (catalog.earliest_start() + timedelta(seconds=61)).replace(second=0, microsecond=0)
    return soonest if at is None else max(at, soonest)


def _told(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _read(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
