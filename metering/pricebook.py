"""The price book: drafts, what they would change, and their publication.

The only module that writes ``PriceDraft`` and ``PriceDraftLine``. A draft's lines never change once
it is made, so what was approved is what is published. A change beyond finance's limit waits for a
second person. Publishing appends to the catalog; nothing that is published is ever overwritten.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import Error, transaction

from core import clock, errors, money
from metering import catalog, rating, rules, usage
from metering.models import CatalogModel, Price, PriceDraft, PriceDraftLine, UsageRecord
from ops import approvals
from orgs import audit, organizations
from orgs.audit import Actor

APPROVAL = "price_draft"
LINES_MAX = 10_000
# So many changes are told to whoever decides, and stand in the audit trail.
CHANGES_TOLD = 20
_CHUNK = 2_000

State = PriceDraft.State

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A price to draft. ``corrects`` names a published version that was wrong, whose start it takes."""

    model: str
    effective_from: datetime
    rates: Mapping[str, Any]
    source: str
    effective_to: datetime | None = None
    corrects: UUID | None = None


class Change(NamedTuple):
    """One rate that a draft changes: USD per 1M tokens, or each; ``None`` where there is none."""

    model: str
    where: str
    before: Decimal | None
    after: Decimal | None

    @property
    def difference(self) -> Decimal | None:
        """After less before."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def percent(self) -> Decimal | None:
        """The change in percent of before, to two decimals; ``None`` if there was nothing or nothing is left."""
        if self.before is None or self.after is None or not self.before:
            return None
        return ((self.after - self.before) * 10_000 // self.before).scaleb(-2)


class Touched(NamedTuple):
    """What an organization paid for the draft's models last month, and would have paid under the draft."""

    organization: str
    records: int
    before_usd: Decimal
    after_usd: Decimal


@transaction.atomic
def draft(*, lines: Sequence[Line], source: str, by: Actor, report: str = "") -> PriceDraft:
    """Keep prices that somebody means to publish. Raises ``OutOfRange`` that says which line is wrong."""
    if not 1 <= len(lines) <= LINES_MAX:
        raise errors.OutOfRange(f"A draft has 1 to {LINES_MAX} lines.", param="lines")
    models = {model.slug: model for model in CatalogModel.objects.filter(slug__in={line.model for line in lines})}
    made = PriceDraft.objects.create(source=source, created_by=by.label, report=report)
    rows = []
    for place, line in enumerate(lines):
        param = f"lines[{place}]"
        model = models.get(line.model)
        if model is None:
            raise errors.OutOfRange(f"{line.model} is not in the catalog.", param=param)
        try:
            rating.check_card(line.rates)
        except ValueError as error:
            raise errors.OutOfRange(f"{line.model}: {error}", param=param) from error
        wrong = _correctable(model, line, param)
        start = line.effective_from if wrong is None else wrong.effective_from
        if line.effective_to is not None and line.effective_to <= start:
            raise errors.OutOfRange(f"{line.model}: a price ends after it starts.", param=param)
        rows.append(
            PriceDraftLine(
                draft=made,
                model=model,
                effective_from=start,
                effective_to=line.effective_to,
                corrects=wrong,
                rates=dict(line.rates),
                source=line.source,
            )
        )
    PriceDraftLine.objects.bulk_create(rows)
    audit.note(actor=by, verb="price_draft.made", subject=made, details={"source": source, "lines": len(rows)})
    return made


def _correctable(model: CatalogModel, line: Line, param: str) -> Price | None:
    if line.corrects is None:
        return None
    wrong = Price.objects.filter(pk=line.corrects, model=model).first()
    if wrong is None:
        raise errors.OutOfRange(f"{line.model}: what it corrects is no price of it.", param=param)
    return wrong


def lines_of(made: PriceDraft) -> list[PriceDraftLine]:
    """A draft's lines, by model and start."""
    found = PriceDraftLine.objects.filter(draft=made).select_related("model", "corrects")
    return list(found.order_by("model__slug", "effective_from"))


def diff(made: PriceDraft) -> list[Change]:
    """What a draft changes against what is in force where its lines begin."""
    listing = catalog.listing()
    changes: list[Change] = []
    for line in lines_of(made):
        version = listing.price_at(line.model.slug, line.effective_from)
        changes += compare(line.model.slug, version.card if version else None, rating.read_card(line.rates))
    return changes


def compare(model: str, before: rating.RateCard | None, after: rating.RateCard) -> list[Change]:
    """The rates that differ between two cards. Pure."""
    old, new = _flat(before) if before else {}, _flat(after)
    return [
        Change(model, where, old.get(where), new.get(where))
        for where in sorted({*old, *new})
        if old.get(where) != new.get(where)
    ]


def _flat(card: rating.RateCard) -> dict[str, Decimal]:
    """Every rate of a card by where it stands: conditions and pool."""
    flat: dict[str, Decimal] = {}
    for terms in card.terms:
        conditions = [
            *([terms.service_tier] if terms.service_tier else []),
            *(["batch"] if terms.batch else []),
            *([f"above {terms.above_input_tokens}"] if terms.above_input_tokens else []),
            *(f"{window.start:%H:%M}-{window.end:%H:%M} {window.zone} {window.days}" for window in terms.windows),
        ]
        for pool, rate in zip(rating.Rates._fields, terms.rates, strict=True):
            if rate is not None:
                flat[" ".join([*conditions, pool])] = rating.per_million(rate)
    flat.update({name: money.from_pico(fee) for name, fee in card.units.items()})
    if card.request:
        flat["request"] = money.from_pico(card.request)
    return flat


def beyond_limit(changes: Iterable[Change]) -> list[Change]:
    """The changes that need a second person: more than ``PRICE_APPROVAL_PERCENT``, from or to free, or gone."""
    limit = Decimal(settings.PRICE_APPROVAL_PERCENT)
    return [
        change
        for change in changes
        if change.before is not None and (change.percent is None or abs(change.percent) > limit)
    ]


def touched(made: PriceDraft, *, records_max: int | None = None) -> list[Touched]:
    """Which organizations used the draft's models last calendar month (UTC), and what it would have cost them.

    Reads that month's records of these models, some 25,000 a second; run it off the request path on large books.
    Raises ``OutOfRange`` for more than ``records_max``.
    """
    this_month = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = (this_month - timedelta(days=1)).replace(day=1)
    cards = {line.model.slug: rating.read_card(line.rates) for line in lines_of(made)}
    sums: dict[UUID, tuple[int, Decimal, Decimal]] = {}
    offers: dict[tuple[str, UUID | None], rating.RateCard | None] = {}
    for read, record in enumerate(_records(start, this_month, list(cards))):
        if read == records_max:
            raise errors.OutOfRange(f"Last month has more than {records_max:,} records of these models.")
        under = (record.model, record.rule_id)
        if under not in offers:
            offers[under] = _under_rule(cards[record.model], record.rule_id)
        count, before, after = sums.get(record.organization_id, (0, money.ZERO, money.ZERO))
        would = _would_cost(record, offers[under])
        sums[record.organization_id] = (count + 1, before + record.cost_usd, after + would)
    owners = organizations.find_ids(list(sums))
    return sorted(
        (Touched(owners[owner].slug, count, before, after) for owner, (count, before, after) in sums.items()),
        key=lambda one: abs(one.after_usd - one.before_usd),
        reverse=True,
    )


def _records(start: datetime, end: datetime, models: Sequence[str]) -> Iterator[UsageRecord]:
    records = usage.created_before(usage.created_from(UsageRecord.objects.all(), start), end)
    wanted = records.filter(model__in=models, corrects_id__isnull=True).order_by()
    return wanted.iterator(chunk_size=_CHUNK)


def _under_rule(card: rating.RateCard, rule_id: UUID | None) -> rating.RateCard | None:
    """What a rule makes of a draft's card; ``None`` where a contract has rates of its own, which stay."""
    rule = None if rule_id is None else rules.as_rule(rules.row(rule_id))
    if rule is None:
        return card
    return None if rule.factor_millionths is None else rating.scaled(card, rule.factor_millionths)


def _would_cost(record: UsageRecord, card: rating.RateCard | None) -> Decimal:
    """A record's cost under a card; what the card cannot price stays as it was."""
    try:
        if card is not None:
            return money.from_pico(rating.rate(card, usage.counts_of(record), record.occurred_at).cost_pico)
    except rating.Unpriced:
        pass
    return Decimal(record.cost_usd)


def publish(made: PriceDraft, *, by: Actor) -> list[Price]:
    """Publish a draft, all of it or nothing.

    Raises ``ApprovalNeeded`` (and asks) if a change is beyond the limit and no second person has agreed,
    ``Refused`` if one has refused, ``Conflict`` if the draft is settled, ``OutOfRange`` if a line can no
    longer be published.
    """
    with transaction.atomic():
        locked = _open(made)
        ready = _approved(locked, by=by)
        if ready:
            return _publish(locked, by=by)
    # Outside, so that the question is not rolled back with the refusal.
    raise approvals.ApprovalNeeded


def schedule(made: PriceDraft, *, at: datetime, by: Actor) -> None:
    """Publish a draft by itself at ``at``, if it is approved by then. Raises as ``publish`` does."""
    with transaction.atomic():
        locked = _open(made)
        if at <= clock.now():
            raise errors.OutOfRange("A draft is scheduled for later.", param="at")
        locked.state, locked.publish_at = State.SCHEDULED, at
        locked.save(update_fields=["state", "publish_at"])
        audit.note(actor=by, verb="price_draft.scheduled", subject=locked, details={"at": at.isoformat()})
        _approved(locked, by=by)


def discard(made: PriceDraft, *, by: Actor) -> None:
    """Give a draft up. Raises ``Conflict`` if it is settled."""
    with transaction.atomic():
        _settle(_open(made), State.DISCARDED, by=by)


def publish_due(*, by: Actor) -> list[PriceDraft]:
    """Publish the scheduled drafts whose time has come and that are approved; those published.

    One that is refused, by the catalog or by a second person, is open again and its report says why;
    none keeps the others waiting. What went wrong in the database is raised when all have had their turn.
    """
    done = []
    failed: Error | None = None
    due = PriceDraft.objects.filter(state=State.SCHEDULED, publish_at__lte=clock.now()).order_by("publish_at")
    for made in due:
        try:
            published = _publish_scheduled(made, by=by)
        except errors.ApiError as refused:
            log.warning("scheduled draft %s was not published: %s", made, refused)
            _unschedule(made, str(refused), by=by)
        except Error as error:
            log.warning("scheduled draft %s cannot be published now: %s", made, error)
            failed = error
        else:
            done += published
    if failed is not None:
        raise failed
    return done


@transaction.atomic
def _publish_scheduled(made: PriceDraft, *, by: Actor) -> list[PriceDraft]:
    """Publish a draft if it is approved and nobody else deals with it; the draft, or nothing."""
    locked = PriceDraft.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=made.pk).first()
    if locked is None or locked.state != State.SCHEDULED or not _approved(locked, by=by):
        return []
    _publish(locked, by=by)
    return [locked]


@transaction.atomic
def _unschedule(made: PriceDraft, why: str, *, by: Actor) -> None:
    """Open a scheduled draft again, with what kept it from being published."""
    locked = PriceDraft.objects.select_for_update(no_key=True).get(pk=made.pk)
    if locked.state != State.SCHEDULED:
        return
    told = f"Not published at {clock.now():%Y-%m-%d %H:%M} UTC: {why}"
    locked.report = f"{locked.report}\n{told}" if locked.report else told
    locked.state, locked.publish_at = State.OPEN, None
    locked.save(update_fields=["state", "publish_at", "report"])
    audit.note(actor=by, verb="price_draft.not_published", subject=locked, details={"why": why})


def _open(made: PriceDraft) -> PriceDraft:
    locked = PriceDraft.objects.select_for_update(no_key=True).get(pk=made.pk)
    if locked.state not in {State.OPEN, State.SCHEDULED}:
        raise errors.Conflict(f"This draft is {locked.state}.")
    return locked


def _approved(locked: PriceDraft, *, by: Actor) -> bool:
    """Whether the draft may be published now; asks for a second person where one is needed. Raises ``Refused``."""
    refused = approvals.refusal(kind=APPROVAL, subject_id=locked.pk)
    if refused is not None:
        raise approvals.Refused(f"A second person refused this draft ({refused}); discard it and make another.")
    beyond = beyond_limit(diff(locked))
    if not beyond or approvals.granted(kind=APPROVAL, subject_id=locked.pk):
        return True
    approvals.ask(kind=APPROVAL, subject_id=locked.pk, by=by, details={"changes": _in_words(beyond)})
    return False


def _in_words(changes: Sequence[Change]) -> list[str]:
    """The first changes, as whoever decides and the audit trail read them."""
    return [f"{one.model} {one.where}: {_told(one.before)} to {_told(one.after)}" for one in changes[:CHANGES_TOLD]]


def _told(rate: Decimal | None) -> str:
    return "none" if rate is None else money.plain(rate)


def _publish(locked: PriceDraft, *, by: Actor) -> list[Price]:
    prices, changes = [], diff(locked)
    # The last first: where no price is in force several may begin in the past, and none is in the others' way.
    for line in reversed(lines_of(locked)):
        # What it corrects and nothing later: a correction that came between is not overridden unseen.
        revision = 1 if line.corrects is None else line.corrects.revision + 1
        price = Price(
            model=line.model, effective_from=line.effective_from, effective_to=line.effective_to, rates=line.rates,
            source=line.source, revision=revision,
        )  # fmt: skip
        try:
            catalog.append(price)
        except catalog.BadCatalog as error:
            raise errors.OutOfRange(str(error), param="lines") from error
        prices.append(price)
    _settle(locked, State.PUBLISHED, by=by, details={"changed": len(changes), "changes": _in_words(changes)})
    return prices


def _settle(
    locked: PriceDraft, state: PriceDraft.State, *, by: Actor, details: Mapping[str, Any] | None = None
) -> None:
    before = locked.state
    locked.state, locked.settled_by, locked.settled_at = state, by.label, clock.now()
    locked.save(update_fields=["state", "settled_by", "settled_at"])
    told = {"source": locked.source, "before": before, **(details or {})}
    audit.note(actor=by, verb=f"price_draft.{state}", subject=locked, details=told)
