"""What a price list would change in the price book: the lines of a draft, and the report that is read before them.

A list of another house names models in its own way, prices models that nobody sells here, and is
silent about much that a card of ours charges for. ``propose`` finds the catalog's model of each of
its prices, keeps what the list is silent about, and proposes a line where anything then differs.
``propose_catalog`` does it for our own format, whose prices are dated and complete. Nothing here
writes: ``pricebook.draft`` keeps a proposal, and publishing it is an act of its own.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import DataError, IntegrityError

from core import clock, ids, money
from metering import catalog, names, pricebook, rating
from metering.catalog import Listing, Version
from metering.importers import compare, document, litellm, openrouter, overlay, tollbook
from metering.importers.compare import Disagreement
from metering.importers.drafted import BadSource, Drafted, DraftPrice, Refusal, shown
from metering.models import CatalogModel, Price, PriceDraft, PriceDraftLine
from metering.pricebook import Change, Line

OURS = "tollbook"
READERS: Mapping[str, Callable[[bytes], Drafted]] = {
    "litellm": litellm.read,
    "openrouter": openrouter.read,
    OURS: tollbook.read,
}
# Time for people to read a draft and to agree, before its prices begin.
LEAD = timedelta(days=1)
JUMP = 10
UNKNOWN_SHOWN = 20
# A stranger's list is as long as he likes, and a report is not.
LISTED_MAX = 1000
FAULTS_SHOWN = 50

_OPEN = (PriceDraft.State.OPEN, PriceDraft.State.SCHEDULED)


class BadList(ValueError):
    """A price list, or what was asked of it, is wrong; the message says what and where. Nothing was changed."""


class Proposed(NamedTuple):
    """A line, what it is proposed against, and what a person should know before it is published.

    ``listed`` is the id in the list; ``before`` and ``since`` are what is in force where the line begins.
    """

    line: Line
    listed: str
    before: rating.RateCard | None
    since: str
    notes: tuple[str, ...]

    @property
    def after(self) -> rating.RateCard:
        """The card that would be in force."""
        return rating.read_card(self.line.rates)

    @property
    def changes(self) -> list[Change]:
        """Every rate that differs."""
        return pricebook.compare(self.line.model, self.before, self.after)

    @property
    def disagreements(self) -> list[Disagreement]:
        """The rates that differ by more than 1 %."""
        if self.before is None:
            return []
        return compare.between(self.before, self.after, model=self.line.model, other_model=self.listed)


class Proposal(NamedTuple):
    """The lines of a draft, and what a person reads before anything is published."""

    lines: Sequence[Line]
    report: str


class Matched(NamedTuple):
    """A price of a list and the model of the catalog that it is for; of several the lowest rank is meant."""

    rank: int
    price: DraftPrice


def read(raw: bytes, *, form: str) -> Drafted:
    """A price list that can be trusted as a whole. Raises ``BadList`` with every place that is wrong.

    That is: no JSON, NaN, a key that stands twice, a negative price. Our own format has to be right
    in everything; in a list of another house an entry that no card can hold is refused by itself.
    """
    try:
        drafted = READERS[form](raw)
        wrong = [*document.faults(document.read(raw))]
    except BadSource as error:
        raise BadList(str(error)) from error
    wrong += [refusal for refusal in drafted.refused if refusal.grave or form == OURS]
    if wrong:
        raise BadList("\n".join(_some(wrong, FAULTS_SHOWN)))
    return drafted


def propose(
    drafted: Drafted,
    *,
    models: Collection[str] = (),
    starts_at: datetime | None = None,
) -> Proposal:
    """What another house's list would change of the vendors' models in the catalog. Raises ``BadList``.

    Without ``starts_at`` a line begins ``LEAD`` and up to an hour from now, or at once where no price
    is in force. ``models`` narrows the lines to these.
    """
    listing = catalog.listing()
    shelf = Shelf(listing)
    wanted = _slugs(listing, models)
    matched, unknown = shelf.sort(drafted.prices)
    now = clock.now()
    usual = (now + LEAD).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    starts = {slug: starts_at or (usual if listing.price_at(slug, now) else now) for slug in matched}
    versions = {slug: listing.price_at(slug, start) for slug, start in starts.items()}
    published = _rows(version for version in versions.values() if version)
    proposed: list[Proposed] = []
    unchanged: list[str] = []
    aside: list[str] = []
    twice: list[str] = []
    refused: list[Refusal] = []
    for slug in sorted(matched):
        version = versions[slug]
        others = _others(matched[slug])
        if others and others[0].rank == matched[slug][0].rank:
            listed = ", ".join(one.price.model for one in matched[slug])
            refused.append(Refusal(slug, f"{listed} price it differently, and none is its id to the letter"))
            continue
        twice += _told_twice(slug, matched[slug][0], others)
        try:
            found = _proposed(slug, matched[slug][0].price, starts[slug], version and published[version.id])
        except ValueError as error:
            refused.append(Refusal(slug, str(error)))
            continue
        if not found.changes:
            unchanged.append(slug)
        elif wanted and slug not in wanted:
            aside.append(slug)
        else:
            following = _following(listing, slug, starts[slug])
            proposed.append(found._replace(notes=(*found.notes, *following)))
    if starts_at is not None:
        _refuse_late(proposed, versions)
    refused = _ours_first([*refused, *drafted.refused], shelf)
    absent = [model.slug for model in catalog.offered() if model.slug not in matched and shelf.has(model.slug)]
    report = [
        f"{len(drafted.prices)} prices read, {len(drafted.refused)} refusals, {len(drafted.ignored)} out of scope.",
        *_on_lines(proposed),
        *_section("These differ too and were not asked for", aside),
        *_section("Told twice, by ids of one model that are priced differently", twice),
        *_section("Refused", _some(refused), size=len(refused)),
        *_section("Unchanged", unchanged, in_line=True),
        *_section("In the catalog and not in the list", absent, in_line=True),
        *_section("In the list and not in the catalog", _first(unknown), size=len(unknown), in_line=True),
        *_section("What rate cards have no place for", _keys(drafted.prices)),
        *_section("Out of scope", _reasons(drafted.ignored), size=len(drafted.ignored)),
    ]
    return Proposal([found.line for found in proposed], "\n".join(report))


def propose_catalog(raw: bytes, *, models: Collection[str] = (), skip_late: bool = False) -> Proposal:
    """The prices of a catalog file that are not published yet, as they stand. Raises ``BadList``.

    A draft has prices only: what else publishing the file would do is told, and prices of models
    that the catalog does not have are left out and named.
    """
    read(raw, form=OURS)
    loaded = load_catalog(raw, publish=False, skip_late=skip_late)
    listing = catalog.listing()
    wanted = _slugs(listing, models)
    proposed: list[Proposed] = []
    new: list[str] = []
    aside: list[str] = []
    for price in loaded.added:
        slug, start = price.model.slug, price.effective_from
        if slug not in listing.models:
            new.append(f"{slug}, from {_shown(start)}")
        elif wanted and slug not in wanted:
            aside.append(f"{slug}, from {_shown(start)}")
        else:
            version = listing.price_at(slug, start)
            before, since = (version.card, catalog.price(version.id).source) if version else (None, "")
            line = Line(slug, start, price.rates, price.source, effective_to=price.effective_to)
            proposed.append(Proposed(line, slug, before, since, tuple(_following(listing, slug, start))))
    words = []
    if loaded.models_changed:
        words = ["", f"{loaded.models_changed} models are described differently: a draft changes prices only."]
    report = [
        f"{loaded.prices_added} new prices, {loaded.prices_known} published before.",
        *_on_lines(proposed),
        *_section("These are new too and were not asked for", aside),
        *_section(
            "Left out, for their models are new and a draft adds none (--publish brings in both)",
            _some(new),
            size=len(new),
        ),
        *_section("Left out, for they would change what is in force", [shown(late) for late in loaded.late]),
        *words,
    ]
    return Proposal([found.line for found in proposed], "\n".join(report))


def load_catalog(raw: bytes, *, publish: bool, skip_late: bool) -> catalog.Loaded:
    """Load a catalog file that ``read`` trusts. Raises ``BadList``."""
    try:
        return catalog.load(document.read(raw), publish=publish, skip_late=skip_late)
    except catalog.BadCatalog as error:
        raise BadList(shown(error)) from error
    except (DataError, IntegrityError) as error:
        raise BadList(f"the database refuses it: {shown(error)}") from error


def compare_lists(one: Drafted, other: Drafted, *, other_name: str) -> list[str]:
    """What two lists tell differently by more than 1 %, as a paragraph of a report."""
    found = compare.compare(one, other)
    title = f"Differences of more than 1 % from {shown(other_name)}, which has the second figure"
    return _section(title, _some(map(_disagreement, found)), size=len(found)) or ["", f"{title}: none"]


class Shelf:
    """The vendors' models of the catalog, by every way to write their names.

    Products of the platform's own routes are left out: nobody else's list prices them.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._plain: dict[str, set[str]] = {}
        for name, slug in listing.names.items():
            if self.has(slug):
                self._plain.setdefault(names.parse(name).id, set()).add(slug)

    def has(self, slug: str) -> bool:
        """Whether a list can price this model."""
        return self._listing.models[slug].kind == CatalogModel.Kind.VENDOR

    def find(self, text: str) -> tuple[CatalogModel, int] | None:
        """The model that an id of the list names and prices, and how roughly: 0 is its own id to the letter.

        The vendor has to be the model's, and so has the way: whoever serves a model in a region or
        through a cloud of his own has prices of his own.
        """
        name = names.parse(text)
        if text in self._listing.models and self.has(text):
            return self._listing.models[text], 0
        if name.region not in {"", "global"}:
            return None
        for candidate in names.candidates(text, exact=True):
            plain = names.parse(candidate).id
            slugs = self._plain.get(plain, set())
            if len(slugs) == 1:
                model = self._listing.models[next(iter(slugs))]
                break
        else:
            return None
        if name.vendor not in {"", model.owned_by} or name.route != names.parse(f"{model.provider}/x").route:
            return None
        if name.id != plain:
            return model, 3
        return model, 1 if name.id == names.parse(model.slug).id else 2

    def sort(self, prices: Iterable[DraftPrice]) -> tuple[dict[str, list[Matched]], list[DraftPrice]]:
        """The prices of each model, the one that is meant first, and the prices of no model here."""
        matched: dict[str, list[Matched]] = {}
        unknown = []
        for price in prices:
            if found := self.find(price.model):
                matched.setdefault(found[0].slug, []).append(Matched(found[1], price))
            else:
                unknown.append(price)
        for several in matched.values():
            several.sort(key=lambda one: one.rank)
        return matched, unknown


def _slugs(listing: Listing, models: Collection[str]) -> set[str]:
    """The ids of models by id or alias. Raises ``BadList``."""
    found = {name: listing.find(name) for name in models}
    if missing := [name for name, model in found.items() if model is None]:
        raise BadList(f"{shown(missing[0])} is not in the catalog")
    return {model.slug for model in found.values() if model}


def _rows(versions: Iterable[Version]) -> dict[UUID, Price]:
    return {price.pk: price for price in Price.objects.filter(pk__in=[version.id for version in versions])}


def _others(several: Sequence[Matched]) -> list[Matched]:
    """The prices of a model that differ from the first."""
    first = several[0].price.card()
    return [other for other in several[1:] if pricebook.compare("", first, other.price.card())]


def _told_twice(slug: str, taken: Matched, others: Iterable[Matched]) -> list[str]:
    told = []
    for other in others:
        found = compare.between(
            taken.price.card(), other.price.card(), model=taken.price.model, other_model=other.price.model
        )
        told.append(
            f"{slug}: {taken.price.model} is taken; {other.price.model} has {len(found)} rates beyond 1 % of it"
        )
    return told


def _proposed(slug: str, price: DraftPrice, start: datetime, published: Price | None) -> Proposed:
    """The line for a model, changed or not. Raises ``ValueError`` for a card that cannot be published."""
    notes = [f"not taken: {gap}" for gap in price.gaps]
    assumed = [f"assumed: {note}" for note in price.assumed]
    if published is None:
        rating.check_card(price.rates)
        line = Line(slug, start, price.rates, price.source)
        return Proposed(line, price.model, None, "", (*notes, *assumed))
    overlaid = overlay.lay_over(published.rates, price.rates, implied=price.implied)
    rating.check_card(overlaid.document)
    source = price.source
    if overlaid.kept:
        notes.append(f"as before, for the list is silent: {'; '.join(overlaid.kept)}")
        source += "; what it does not tell as before"
    line = Line(slug, start, overlaid.document, source)
    return Proposed(line, price.model, rating.read_card(published.rates), published.source, (*notes, *assumed))


def _following(listing: Listing, slug: str, start: datetime) -> list[str]:
    """What ends a line that begins at ``start``, if it is published already."""
    later = [version.effective_from for version in listing.versions[slug] if version.effective_from > start]
    return [f"a published price follows from {_shown(later[0])}"] if later else []


def _refuse_late(proposed: Sequence[Proposed], versions: Mapping[str, Version | None]) -> None:
    """Raises ``BadList`` for a start that the price book would refuse."""
    soonest = catalog.earliest_start()
    for found in proposed:
        start, version = found.line.effective_from, versions[found.line.model]
        if version is None:
            continue
        if version.effective_from == start:
            raise BadList(f"{found.line.model}: a price that starts at {_shown(start)} is published")
        if start < soonest:
            raise BadList(
                f"{found.line.model}: a price is in force at {_shown(start)}; a new one starts after {_shown(soonest)}"
            )


def _on_lines(proposed: Sequence[Proposed]) -> list[str]:
    """The lines of the draft, by model, and what stands out among them."""
    if not proposed:
        return ["", "Nothing to draft."]
    told = []
    for found in proposed:
        end = f" to {_shown(found.line.effective_to)}" if found.line.effective_to else ""
        name = "" if found.listed == found.line.model else f", listed as {found.listed}"
        against = f"in force: {found.since}" if found.before else "no price is in force"
        told.append(f"{found.line.model} from {_shown(found.line.effective_from)}{end}{name}; {against}")
        told += [f"  {_change(change)}" for change in found.changes]
        told += [f"  {note}" for note in found.notes]
    differing = [each for found in proposed for each in found.disagreements]
    differing.sort(key=lambda each: (each.percent is not None, -(each.percent or 0), each.model, each.place))
    jumps = [each for each in differing if each.jump.reaches(JUMP)]
    before = [found.line.effective_from for found in proposed if found.before]
    deadline = []
    if before:
        last = min(before) - (catalog.earliest_start() - clock.now())
        deadline = ["", f"Publish it before {_shown(last)}; after that a line would change prices in force."]
    return [
        *_section(f"JUMPS of {JUMP} times or more, or to or from free", list(map(_disagreement, jumps))),
        *_section("Differences of more than 1 % from what is in force", list(map(_disagreement, differing))),
        *_section("Lines, in USD per 1M tokens or a use", told, size=len(proposed)),
        *_rivals(proposed),
        *deadline,
    ]


def _rivals(proposed: Sequence[Proposed]) -> list[str]:
    """Drafts that wait with lines for the same models."""
    models = {found.line.model for found in proposed}
    lines = PriceDraftLine.objects.filter(draft__state__in=_OPEN, model__slug__in=models)
    waiting = sorted(lines.values_list("draft_id", flat=True).distinct())
    return _section("Drafts of the same models that wait already", [ids.show("draft", draft) for draft in waiting])


def _ours_first(refusals: Iterable[Refusal], shelf: Shelf) -> list[Refusal]:
    """Refusals with those of the catalog's models ahead."""
    return sorted(refusals, key=lambda refusal: shelf.find(refusal.place.partition(": ")[0]) is None)


def _first(unknown: Iterable[DraftPrice]) -> list[str]:
    """A few ids that the catalog does not have; other ways to a model last."""
    ordered = sorted(unknown, key=lambda price: bool(names.parse(price.model).route or price.name.region))
    return [price.model for price in ordered[:UNKNOWN_SHOWN]]


def _keys(prices: Iterable[DraftPrice]) -> list[str]:
    """What a list charges for and cards cannot say, by its key, with the first that has it."""
    first: dict[str, str] = {}
    times: Counter[str] = Counter()
    for price in prices:
        for gap in price.gaps:
            key = gap.place.removeprefix(f"{price.model}: ")
            times[key] += 1
            first.setdefault(key, f"{gap.reason} ({price.model})")
    return [f"{key}, {times[key]} times: {first[key]}" for key in sorted(times)][:LISTED_MAX]


def _reasons(ignored: Iterable[Refusal]) -> list[str]:
    times = Counter(refusal.reason for refusal in ignored)
    return [f"{count}: {reason}" for reason, count in times.most_common(UNKNOWN_SHOWN)]


def _section(title: str, rows: Sequence[str], *, size: int | None = None, in_line: bool = False) -> list[str]:
    """A paragraph of the report, if there is anything to say in it."""
    if not rows:
        return []
    listed = [", ".join(rows)] if in_line else rows
    more = [f"  … and {size - len(rows)} more"] if size and in_line and size > len(rows) else []
    return ["", f"{title}: {size or len(rows)}", *(f"  {row}" for row in listed), *more]


def _some(rows: Iterable[object], most: int = LISTED_MAX) -> list[str]:
    """The first rows, and how many are left."""
    found = list(map(str, rows))
    more = [f"… and {len(found) - most} more"] if len(found) > most else []
    return found[:most] + more


def _change(change: Change) -> str:
    old, new = (("none" if rate is None else money.plain(rate)) for rate in (change.before, change.after))
    percent = "" if change.percent is None else f" ({change.percent:+} %)"
    return f"{change.where}: {old} -> {new}{percent}"


def _disagreement(found: Disagreement) -> str:
    percent = "to or from free" if found.percent is None else f"{found.percent} %"
    listed = "" if found.other_model == found.model else f" ({found.other_model})"
    return (
        f"{found.model}{listed}, {found.place}: {money.plain(found.usd)} and {money.plain(found.other_usd)}, {percent}"
    )


def _shown(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
