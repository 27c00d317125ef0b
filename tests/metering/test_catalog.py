"""The catalog: prices only ever added, one in force at an instant, and documents refused before they do harm."""

import hashlib
import importlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.utils import IntegrityError
from hypothesis import given
from hypothesis import strategies as st

from core import clock, errors, ids
from metering import catalog
from metering.catalog import BadCatalog, Version
from metering.models import CatalogModel, Price
from metering.rating import RateCard
from tests.billing.world import rows
from tests.books import Books

NOW = clock.now()
TICK = timedelta(microseconds=1)


def at(days: float) -> datetime:
    return NOW + timedelta(days=days)


def price(start: datetime, end: datetime | None = None, *, rate: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "effective_from": start.isoformat(),
        "effective_to": end and end.isoformat(),
        "source": "tests",
        "rates": {"terms": [{"when": {}, "rates": {"input": rate}}]},
        **more,
    }


def model(slug: str, *prices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": slug, "name": slug.upper(), "vendor": "V", "brand": "B", "provider": "P", "owned_by": "v",
        "released_at": 0, "prices": list(prices), **more,
    }  # fmt: skip


def load(*models: Any, **options: Any) -> catalog.Loaded:
    return catalog.load({"format": catalog.FORMAT, "models": list(models)}, **options)


def rate_of(slug: str, when: datetime) -> int | None:
    """Pico-dollars an input token costs, if the model is priced then."""
    version = catalog.listing().price_at(slug, when)
    return None if version is None else version.card.terms[0].rates.input


def held() -> list[tuple[Any, ...]]:
    """All prices, as they stand."""
    return rows("SELECT id, model_id, effective_from, effective_to, rates::text, source FROM price ORDER BY id")


# In force


instants = st.integers(0, 40).map(lambda hours: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours))
versions = st.lists(
    st.tuples(instants, st.none() | st.integers(1, 12)), max_size=6, unique_by=lambda pair: pair[0]
).map(
    lambda pairs: [
        Version(UUID(int=n), start, None if hours is None else start + timedelta(hours=hours), RateCard((), {}, 0))
        for n, (start, hours) in enumerate(sorted(pairs, key=lambda pair: pair[0]))
    ]
)


@given(chosen=versions, when=instants, shift=st.sampled_from([-TICK, timedelta(0), TICK]))
def test_the_version_in_force_is_the_last_to_begin_unless_it_has_ended(
    chosen: list[Version], when: datetime, shift: timedelta
) -> None:
    when += shift
    begun = [version for version in chosen if version.effective_from <= when]
    last = max(begun, key=lambda version: version.effective_from, default=None)
    expected = last if last and (last.effective_to is None or when < last.effective_to) else None
    assert catalog.in_force(chosen, when) == expected


def test_a_price_starts_inclusive_and_ends_exclusive(books: Books) -> None:
    load(model("m", price(at(-10), at(-5), rate="1"), price(at(-5), at(-2), rate="2")))
    assert [rate_of("m", when) for when in (at(-10) - TICK, at(-10), at(-5) - TICK)] == [None, 10**6, 10**6]
    assert [rate_of("m", when) for when in (at(-5), at(-2) - TICK, at(-2))] == [2 * 10**6, 2 * 10**6, None]


def test_a_later_version_closes_an_open_one_without_touching_it(books: Books) -> None:
    load(model("m", price(at(-10), rate="1"), price(at(-5), rate="2")))
    assert (rate_of("m", at(-5) - TICK), rate_of("m", at(-5))) == (10**6, 2 * 10**6)
    assert rows("SELECT count(*) FROM price WHERE effective_to IS NULL AND source = 'tests'") == [(2,)]


def test_a_model_is_found_by_its_id_and_its_aliases_and_by_nothing_else(books: Books) -> None:
    load(model("m", price(at(-1)), aliases=["m-latest", "vendor/m"]))
    listing = catalog.listing()
    assert {name: found.slug for name in ("m", "m-latest", "vendor/m") if (found := listing.find(name))} == {
        "m": "m", "m-latest": "m", "vendor/m": "m",
    }  # fmt: skip
    assert [listing.find(name) for name in ("M", "m ", "", "catalog")] == [None] * 4
    assert listing.price_at("m-latest", NOW) is None, "prices belong to ids"


# Loading


def test_a_document_loaded_again_adds_nothing(books: Books) -> None:
    document = model("m", price(at(-10), at(-5)), price(at(-5)), aliases=["a"])
    assert load(document)[:4] == (1, 0, 2, 0)
    before = held()
    assert load(document)[:4] == (0, 0, 0, 2)
    assert held() == before


def test_a_models_words_may_change_and_its_prices_may_not(books: Books) -> None:
    load(model("m", price(at(-10))))
    before = held()
    assert load(model("m", price(at(-10)), name="Other", aliases=["b"]))[:4] == (0, 1, 0, 1)
    assert CatalogModel.objects.get(slug="m").name == "Other"
    for changed in (price(at(-10), rate="2"), price(at(-10), at(-1)), price(at(-10), at(5))):
        with pytest.raises(BadCatalog, match="never changes"):
            load(model("m", changed))
    assert held() == before


def test_a_change_is_seen_at_once_by_this_process(books: Books) -> None:
    assert catalog.listing().find("m") is None
    load(model("m", price(at(-1))))
    assert rate_of("m", NOW) == 10**6


def test_without_publishing_everything_is_checked_and_nothing_kept(db: None) -> None:
    before = held()
    assert load(model("m", price(at(-1))), publish=False)[:4] == (1, 0, 1, 0)
    assert CatalogModel.objects.filter(slug="m").count() == 0
    assert held() == before
    assert catalog.listing().find("m") is None
    with pytest.raises(BadCatalog):
        load(model("m", price(at(-1), rate="x")), publish=False)


def test_a_document_is_loaded_as_a_whole_or_not_at_all(db: None) -> None:
    before = held()
    with pytest.raises(BadCatalog, match="bad"):
        load(model("good", price(at(-1))), model("bad", price(at(-1), rate="-1")))
    assert CatalogModel.objects.filter(slug__in=["good", "bad"]).count() == 0
    assert held() == before


# Two cache lives, and what an event's time may lie ahead of ours.
SOON = timedelta(seconds=2 * settings.CACHE_SECONDS + settings.EVENT_AHEAD_MAX_SECONDS)


def test_where_a_price_is_in_force_a_new_one_starts_where_nothing_can_have_been_charged(books: Books) -> None:
    load(model("m", price(at(-10))))
    for start in (at(-20) + timedelta(days=11), at(-1), NOW, clock.now() + SOON - timedelta(seconds=2)):
        with pytest.raises(BadCatalog, match="in force"):
            load(model("m", price(start)))
    assert load(model("m", price(clock.now() + SOON + timedelta(seconds=5), rate="2"))).prices_added == 1


def test_where_no_price_is_in_force_one_may_start_in_the_past(books: Books) -> None:
    load(model("m", price(at(-10), at(-5))))
    assert load(model("m", price(at(-20), rate="2"), price(at(-5), rate="3"))).prices_added == 2
    assert [rate_of("m", at(days)) for days in (-15, -7, -1)] == [2 * 10**6, 10**6, 3 * 10**6]


def test_late_prices_may_be_left_out_and_named(db: None) -> None:
    load(model("m", price(at(-10))))
    told = load(model("m", price(at(-5)), price(at(5), rate="2")), model("n", price(at(-5))), skip_late=True)
    assert (told.prices_added, len(told.late)) == (2, 1)
    assert "m" in told.late[0]


@pytest.mark.parametrize(("taken", "how"), [("m-latest", "id"), ("m-latest", "alias"), ("m", "alias")])
@pytest.mark.parametrize("where", ["standing", "same document"])
def test_a_name_means_one_model(db: None, taken: str, how: str, where: str) -> None:
    first = model("m", price(at(-1)), aliases=["m-latest"])
    second = model(taken, price(at(-1))) if how == "id" else model("other", price(at(-1)), aliases=[taken])
    if where == "standing":
        load(first)
        with pytest.raises(BadCatalog, match="another model"):
            load(second)
    else:
        for turned in ((first, second), (second, first)):
            with pytest.raises(BadCatalog, match="another model"):
                load(*turned)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"name": None}, "name"),
        ({"vendor": ""}, "vendor"),
        ({"kind": "toaster"}, "toaster"),
        ({"released_at": "soon"}, "soon"),
        ({"released_at": None}, "m"),
        ({"max_stop_sequences": "many"}, "many"),
        ({"aliases": "m-latest"}, "aliases"),
        ({"aliases": [""]}, "aliases"),
        ({"aliases": [1]}, "aliases"),
        ({"capabilities": {"tools": True}}, "capabilities"),
        ({"categories": None}, "categories"),
        ({"prices": [price(at(-1)), price(at(-1), rate="2")]}, "two prices"),
        ({"prices": [price(at(-1), at(-2))]}, "before its end"),
        ({"prices": [price(at(-1), at(-1))]}, "before its end"),
        ({"prices": [price(at(-1).replace(tzinfo=None))]}, "zone"),
        ({"prices": [price(at(-2), at(-1).replace(tzinfo=None))]}, "zone"),
        ({"prices": [price(at(-1), effective_from="yesterday")]}, "m"),
        ({"prices": [price(at(-1), effective_from=5)]}, "m"),
        ({"prices": [price(at(-1), source="")]}, "source"),
        ({"prices": [price(at(-1), rates=None)]}, "m"),
        ({"prices": [price(at(-1), rates=[])]}, "m"),
        ({"prices": [price(at(-1), rates={"terms": []})]}, "terms"),
        ({"prices": ["free"]}, "m"),
        ({"context_window": "many"}, "context_window must be a whole number up to 9007199254740992, not 'many'"),
        ({"context_window": -1}, "context_window"),
        ({"max_output_tokens": 2**53 + 1}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"max_stop_sequences": 40_000}, "max_stop_sequences"),
        ({"released_at": 10**12}, "released_at"),
        ({"name": "A\x00B"}, "printable"),
        ({"aliases": ["a\ud800"]}, "printable"),
        ({"encoding": ["o200k_base"]}, "encoding"),
    ],
    ids=lambda part: str(part)[:50],
)
def test_a_malformed_entry_is_refused_by_name(db: None, bad: dict[str, Any], why: str) -> None:
    before = held()
    with pytest.raises(BadCatalog, match=why):
        load(model("good", price(at(-1))), {**model("m", price(at(-1))), **bad})
    assert held() == before
    assert catalog.listing().find("good") is None


@pytest.mark.parametrize("missing", ["id", "name", "vendor", "brand", "provider", "owned_by", "released_at"])
def test_an_entry_without_a_field_is_refused(db: None, missing: str) -> None:
    entry = model("m", price(at(-1)))
    with pytest.raises(BadCatalog, match=missing):
        load({name: value for name, value in entry.items() if name != missing})


@pytest.mark.parametrize("entry", ["m", 5, None, ["m"]])
def test_what_is_no_entry_is_refused(db: None, entry: Any) -> None:
    with pytest.raises(BadCatalog, match="object"):
        load(entry)


def test_a_model_told_twice_is_refused(db: None) -> None:
    with pytest.raises(BadCatalog, match="twice"):
        load(model("m", price(at(-2))), model("m", price(at(-1))))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format": "tollbook/catalog-2", "models": []},
        {"format": catalog.FORMAT},
        {"format": catalog.FORMAT, "models": {}},
    ],
    ids=str,
)
def test_another_kind_of_document_is_refused(db: None, document: dict[str, Any]) -> None:
    with pytest.raises(BadCatalog, match="format"):
        catalog.load(document)


# What stands


def test_a_version_keeps_a_digest_of_all_that_it_says(books: Books) -> None:
    start = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    load(model("m", price(start, start + timedelta(days=1), source="Zürich \U0001f4b6")))
    row = Price.objects.get(model__slug="m")
    said = "".join(
        (
            f'{{"active_from":null,"created_at":"{row.created_at.isoformat("T", "microseconds")}",',
            '"effective_from":"2026-01-02T01:04:05.000678+00:00","effective_to":"2026-01-03T01:04:05.000678+00:00",',
            f'"format":"tollbook/price-1","id":"{row.id}","model":"{row.model_id}",',
            '"rates":{"terms":[{"rates":{"input":"1"},"when":{}}]},"revision":1,',
            '"source":"Z\\u00fcrich \\ud83d\\udcb6"}',
        )
    )
    assert bytes(row.digest) == hashlib.sha256(said.encode()).digest()
    assert catalog.altered() == []


def test_every_shipped_price_reads_back_as_it_was_published(db: None) -> None:
    assert Price.objects.count() > 300
    assert catalog.altered() == []


def test_versions_published_before_there_were_digests_get_theirs(books: Books) -> None:
    before = rows("SELECT id, digest FROM price ORDER BY id")
    rows("ALTER TABLE price ALTER digest DROP NOT NULL; ALTER TABLE price DISABLE TRIGGER append_only")
    rows("UPDATE price SET digest = NULL; ALTER TABLE price ENABLE TRIGGER append_only")
    migration = importlib.import_module("metering.migrations.0005_price_digest")
    with connection.schema_editor() as editor:
        migration.fill(apps, editor)
    assert rows("SELECT id, digest FROM price ORDER BY id") == before
    with pytest.raises(IntegrityError, match="append-only"):
        rows("UPDATE price SET digest = 'x'")


CHANGES: list[Callable[[Price], Any]] = [
    lambda row: Price.objects.filter(pk=row.pk).update(rates={}),
    lambda row: Price.objects.filter(pk=row.pk).update(effective_from=NOW),
    lambda row: Price.objects.filter(pk=row.pk).update(effective_to=at(100)),
    lambda row: Price.objects.filter(pk=row.pk).delete(),
    lambda row: row.delete(),
    lambda row: rows("UPDATE price SET source = 'other'"),
    lambda row: rows("UPDATE price SET digest = 'x'"),
    lambda row: rows("TRUNCATE price CASCADE"),
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_a_published_price_is_never_changed_or_removed(books: Books, change: Callable[[Price], Any]) -> None:
    load(model("m", price(at(-10))))
    before = held()
    with pytest.raises(IntegrityError, match="append-only"):
        change(Price.objects.get(model__slug="m"))
    assert held() == before


def test_a_model_with_prices_cannot_be_removed(books: Books) -> None:
    load(model("m", price(at(-10))))
    with pytest.raises(IntegrityError):
        rows("DELETE FROM model WHERE slug = 'm'")


def test_the_name_of_the_catalog_itself_is_no_model(books: Books) -> None:
    with pytest.raises(IntegrityError, match="model_slug_not_reserved"):
        load(model("catalog", price(at(-1))))


def test_a_price_is_found_for_ever_by_its_id(books: Books) -> None:
    load(model("m", price(at(-10), at(-5), rate="1"), price(at(-5), rate="2")))
    for row in Price.objects.filter(model__slug="m"):
        assert catalog.price(row.pk).rates == row.rates
    with pytest.raises(Price.DoesNotExist):
        catalog.price(ids.new())


def test_what_is_offered_is_sorted_and_leaves_out_the_retired(books: Books) -> None:
    load(model("zz", price(at(-1))), model("aa", price(at(-1))))
    CatalogModel.objects.filter(slug="zz").update(retired_at=at(-1))
    slugs = [one.slug for one in catalog.offered()]
    assert slugs == sorted(slugs)
    assert "aa" in slugs
    from orgs import caches

    caches.forget_all()
    assert "zz" not in [one.slug for one in catalog.offered()]
    assert catalog.listing().find("zz") is not None, "its usage is still charged"
    assert catalog.strangers(["zz", "yy", "aa"]) == ["yy"], "a key may still name it"


def test_an_empty_list_of_a_key_lets_every_model_through_and_a_filled_one_only_its_own() -> None:
    found = CatalogModel(slug="gpt-5", aliases=["openai/gpt-5"])
    for names in ((), ("gpt-5",), ("other", "openai/gpt-5")):
        catalog.check_allowed(frozenset(names), found)
    with pytest.raises(errors.ModelNotAllowed, match=r"may not call gpt-5\.") as refusal:
        catalog.check_allowed(frozenset({"deepai-chat"}), found)
    assert refusal.value.param == "model"
