"""The one place where a version and a rule become a card; smart routes; prices that change meanwhile."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from billing import releases, rerating
from core import clock
from metering import catalog, pricing, rating, rules, usage
from metering.catalog import Listing, Version
from metering.models import CatalogModel, Price, UsageRecord
from metering.rules import Rule, Rulebook, Scope
from tests.billing import history
from tests.billing.world import assert_sound, charge, organization, rows, standing, statuses
from tests.books import Books
from tests.metering.world import COST, MODEL, event
from tests.orgs.world import BY

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


# Smart routes: sold under a name of their own, served by whatever model suits.


SMART = "deepai-chat"
# 360 × 0.30 + 640 × 0.08 + 200 × 1.20 millionths of a dollar.
SMART_COST = Decimal("0.0003992")


def records() -> list[UsageRecord]:
    """What was charged, in order, with no corrections."""
    return list(UsageRecord.objects.filter(corrects_id__isnull=True).order_by("id"))


def test_a_smart_route_costs_its_own_rates_whatever_it_was_routed_to(books: Books) -> None:
    acme = organization("acme", usd="1")
    assert Decimal(COST) == Decimal("0.000362") != SMART_COST
    routes = (MODEL, "gpt-4o", "gemma-4-31b-it", "nobody-priced-this", None)
    told = charge(acme, *(event(model=SMART, routed_model=routed, provider="elsewhere") for routed in routes))
    assert statuses(told) == ["created"] * 5
    assert {verdict.cost_usd for verdict in told} == {SMART_COST}
    kept = records()
    assert {(record.model, record.cost_usd) for record in kept} == {(SMART, SMART_COST)}
    assert [record.routed_model for record in kept] == list(routes)
    assert {catalog.price(record.price_id).model.slug for record in kept} == {SMART}
    assert standing(acme).balance == 1 - 5 * SMART_COST
    assert_sound()


def test_what_the_routed_model_cost_us_stands_beside_what_the_route_is_charged_at(books: Books) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event(model=SMART, routed_model=MODEL, provider_cost_usd=Decimal("0.000362")))
    charge(acme, event(model=SMART, routed_model="gpt-4o", provider_cost_usd=Decimal("0.0045")))
    assert [(record.cost_usd, record.provider_cost_usd) for record in records()] == [
        (SMART_COST, Decimal("0.000362")),
        # We paid more than we charge, and the customer pays no more for it.
        (SMART_COST, Decimal("0.0045")),
    ]
    assert [margin for (margin,) in rows("SELECT cost_usd - provider_cost_usd FROM usage_record ORDER BY id")] == [
        Decimal("0.0000372"), Decimal("-0.0041008"),
    ]  # fmt: skip


def test_rules_on_the_routed_model_or_its_provider_are_not_for_the_smart_route(books: Books) -> None:
    acme = organization("acme", usd="1")
    routed = CatalogModel.objects.get(slug=MODEL)
    route = CatalogModel.objects.get(slug=SMART)
    assert routed.provider != route.provider
    start = clock.now() + timedelta(hours=1)
    when: dict[str, Any] = {"by": BY, "reason": "tests", "effective_from": start}
    rules.publish(**when, model=routed, factor=Decimal(3))
    rules.publish(**when, provider=routed.provider, factor=Decimal(5))
    charge(acme, event(model=SMART, routed_model=MODEL, provider=routed.provider, occurred_at=start))
    rules.publish(**when, model=route, factor=Decimal(2))
    charge(acme, event(model=SMART, routed_model=MODEL, provider=routed.provider, occurred_at=start))
    first, second = records()
    assert (first.cost_usd, first.rule_id) == (SMART_COST, None)
    assert second.cost_usd == Decimal("0.0007984")
    assert second.rule_id is not None
    assert_sound()


def test_a_smart_route_without_a_price_waits_however_well_priced_its_routed_model_is(books: Books) -> None:
    acme = organization("acme", usd="1")
    assert statuses(charge(acme, event(model="deepai-coder", routed_model=MODEL))) == ["quarantined"]
    assert standing(acme).balance == 1
    coder = catalog.listing().find("deepai-coder")
    assert coder is not None
    history.publish(
        {
            "id": coder.slug, "name": coder.name, "vendor": coder.vendor, "brand": coder.brand,
            "provider": coder.provider, "owned_by": coder.owned_by, "kind": coder.kind, "released_at": 1_767_225_600,
            "prices": [
                {"effective_from": "2026-01-01T00:00:00Z", "source": "tests", "rates": history.card("0.5", "2")}
            ],
        }
    )  # fmt: skip
    assert releases.release().charged == 1
    # 1000 × 0.50 + 200 × 2 millionths: it names no cache rate, so cached input costs as input does.
    assert [(record.model, record.routed_model, record.cost_usd) for record in records()] == [
        ("deepai-coder", MODEL, Decimal("0.0009"))
    ]
    assert_sound()


def test_only_a_corrected_price_of_its_own_re_rates_a_smart_route(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event(model=SMART, routed_model=MODEL))
    monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(seconds=-2))
    history.correct(MODEL, history.card("9", "9"))
    assert rerating.outcome(history.rerate("the routed model was wrong")).records == 0
    history.correct(SMART, history.card("1", "2"))
    done = rerating.outcome(history.rerate("the route was wrong"))
    # 1000 × 1 + 200 × 2 millionths.
    assert (done.records, done.before_usd, done.after_usd) == (1, SMART_COST, Decimal("0.0014"))
    assert standing(acme).balance == 1 - Decimal("0.0014")
    assert_sound()


# Changes.


def test_a_price_published_while_a_batch_is_rated_changes_none_of_it_and_splits_a_later_one(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = organization("acme", usd="1")
    published: list[Price] = []
    rate = rating.rate

    def publish() -> None:
        price = Price(
            model=CatalogModel.objects.get(slug=MODEL), effective_from=clock.now() + timedelta(hours=1), source="tests",
            rates={"terms": [{"when": {}, "rates": {"input": "0.54", "cached_input": "0.14", "output": "2.2"}}]},
        )  # fmt: skip
        history.append(price)
        published.append(price)

    def rate_and_publish(*asked: Any) -> rating.Rated:
        rated = rate(*asked)
        if not published:
            books.together([publish])
        return rated

    monkeypatch.setattr(rating, "rate", rate_and_publish)
    charge(acme, *(event() for _ in range(3)))
    (price,) = published
    assert [record.cost_usd for record in records()] == [Decimal("0.000362")] * 3

    tick = timedelta(microseconds=1)
    charge(acme, *(event(occurred_at=price.effective_from + shift) for shift in (-tick, 0 * tick, tick)))
    split = records()[3:]
    assert [record.cost_usd for record in split] == [Decimal("0.000362"), Decimal("0.000724"), Decimal("0.000724")]
    assert [record.price_id == price.id for record in split] == [False, True, True]
    assert_sound()
