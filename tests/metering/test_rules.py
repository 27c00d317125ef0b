"""Markups, discounts and contracts: which rule applies, and what it makes of a rate."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import clock, errors
from metering import rating, rules
from metering.models import CatalogModel, PriceRule
from metering.rules import Rule, Rulebook, Scope
from orgs import caches, organizations
from orgs.audit import system
from orgs.models import AuditEntry
from tests.billing import world
from tests.books import Books
from tests.metering import world as metering

BY = system("tests")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ACME = uuid4()


def rule(*, start: datetime = NOW, end: datetime | None = None, factor: int = 1_200_000) -> Rule:
    return Rule(uuid4(), start, end, factor, None)


def find(book: Rulebook, *, organization_id: UUID = ACME, at: datetime = NOW) -> Rule | None:
    return book.find(organization_id=organization_id, group="gold", provider="OpenAI", model="gpt-4o", at=at)


def test_the_most_specific_rule_applies() -> None:
    order = [
        Scope(ACME, None, None, "gpt-4o"), Scope(ACME, None, "OpenAI", None), Scope(ACME, None, None, None),
        Scope(None, "gold", None, "gpt-4o"), Scope(None, "gold", "OpenAI", None), Scope(None, "gold", None, None),
        Scope(None, None, None, "gpt-4o"), Scope(None, None, "OpenAI", None), Scope(None, None, None, None),
    ]  # fmt: skip
    rows = [(scope, rule()) for scope in order]
    for place in range(len(rows)):
        assert find(Rulebook(rows[place:])) is rows[place][1]
    others = [Scope(uuid4(), None, None, None), Scope(None, "tin", None, None), Scope(None, None, None, "o3")]
    assert find(Rulebook([(scope, rule()) for scope in others])) is None


def test_a_rule_holds_from_its_start_until_before_its_end() -> None:
    everyone = Scope(None, None, None, None)
    book = Rulebook([(everyone, rule(start=NOW, end=NOW + timedelta(days=1)))])
    held = [find(book, at=NOW + shift) is not None for shift in (-timedelta(microseconds=1), timedelta(0))]
    assert held == [False, True]
    end = NOW + timedelta(days=1)
    held = [find(book, at=end + shift) is not None for shift in (-timedelta(seconds=1), timedelta(0))]
    assert held == [True, False]


def test_the_later_start_wins_and_what_it_interrupted_goes_on_after_it() -> None:
    everyone = Scope(None, None, None, None)
    standing = rule(start=NOW, factor=1_200_000)
    campaign = rule(start=NOW + timedelta(days=10), end=NOW + timedelta(days=20), factor=900_000)
    book = Rulebook([(everyone, standing), (everyone, campaign)])
    assert [find(book, at=NOW + timedelta(days=days)) for days in (5, 15, 25)] == [standing, campaign, standing]


@given(
    rate=st.integers(0, 10**9),
    factor=st.integers(0, 1000 * 10**6),
)
def test_each_rate_is_rounded_once_half_even_to_six_decimals(rate: int, factor: int) -> None:
    card = rating.read_card({"terms": [{"when": {}, "rates": {"input": _usd(rate)}}]})
    scaled = rating.scaled(card, factor)
    # 10⁻⁶ USD per 1M tokens is one pico-dollar a token.
    exact = Fraction(rate) * Fraction(factor, 10**6)
    assert scaled.terms[0].rates.input == round(exact)


def _usd(pico_a_token: int) -> str:
    return format(Decimal(pico_a_token).scaleb(-6), "f")


def test_halves_go_to_the_even_neighbour() -> None:
    card = rating.read_card({"terms": [{"when": {}, "rates": {"input": "0.000001", "output": "0.000003"}}]})
    scaled = rating.scaled(card, 500_000)
    # 0.5 and 1.5 millionths: half-even gives 0 and 2.
    assert (scaled.terms[0].rates.input, scaled.terms[0].rates.output) == (0, 2)


def test_what_has_no_price_has_none_with_a_markup_either() -> None:
    card = rating.read_card({"terms": [{"when": {}, "rates": {"input": "1"}}]})
    assert rating.scaled(card, 2_000_000).terms[0].rates.output is None


def later(**shift: int) -> datetime:
    return clock.now() + timedelta(hours=1, **shift)


def test_a_published_rule_is_charged_and_stands_on_the_record(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    published = rules.publish(
        by=BY, reason="contract of June", effective_from=later(), organization=acme, factor=Decimal("1.5")
    )
    caches.forget_all()
    event = metering.event(occurred_at=later(minutes=1))
    before = metering.event()
    world.charge(acme, event, before)
    found = world.rows("SELECT cost_usd, rule_id FROM usage_record ORDER BY cost_usd")
    # 360 × 0.405 + 640 × 0.105 + 200 × 1.65 = 145.8 + 67.2 + 330 = 543 millionths.
    assert found == [(Decimal("0.000362"), None), (Decimal("0.000543"), published.pk)]
    assert AuditEntry.objects.filter(verb="price_rule.published").count() == 1
    world.assert_sound()


def test_a_contract_has_rates_of_its_own(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    rules.publish(
        by=BY, reason="own rates", effective_from=later(), organization=acme,
        model=CatalogModel.objects.get(slug=metering.MODEL),
        rates={"terms": [{"when": {}, "rates": {"input": "1", "output": "1"}}]},
    )  # fmt: skip
    caches.forget_all()
    (verdict,) = world.charge(acme, metering.event(occurred_at=later(minutes=1)))
    assert verdict.cost_usd == Decimal("0.0012")


def test_a_group_pays_its_own_factor(books: Books) -> None:
    acme, other = world.organization("acme", usd="1"), world.organization("other", usd="1")
    organizations.set_price_group(organization=acme, group="gold", by=BY)
    rules.publish(by=BY, reason="gold", effective_from=later(), group="gold", factor=Decimal("0.5"))
    caches.forget_all()
    costs = [world.charge(of, metering.event(occurred_at=later(minutes=1)))[0].cost_usd for of in (acme, other)]
    assert costs == [Decimal("0.000181"), Decimal("0.000362")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reason": " "}, "reason"),
        ({"group": "Gold "}, "group"),
        ({"provider": "openai, inc"}, "provider"),
        ({"factor": None}, "factor"),
        ({"factor": Decimal("NaN")}, "factor"),
        ({"factor": Decimal("-1")}, "factor"),
        ({"factor": Decimal("1001")}, "factor"),
        ({"factor": Decimal("1.0000001")}, "factor"),
        ({"rates": {"terms": []}}, "factor"),
        ({"factor": None, "rates": {"terms": []}}, "rates"),
        ({"effective_from": NOW}, "effective_from"),
        ({"effective_to": NOW}, "effective_to"),
    ],
)
def test_a_bad_rule_is_refused_by_the_name_of_what_is_wrong(db: None, fields: dict[str, object], param: str) -> None:
    good = {"by": BY, "reason": "why", "effective_from": later(), "factor": Decimal("1.2")}
    with pytest.raises(errors.OutOfRange) as refused:
        rules.publish(**{**good, **fields})  # type: ignore[arg-type]
    assert refused.value.param == param
    assert PriceRule.objects.count() == 0


def test_a_rule_never_changes(books: Books) -> None:
    rules.publish(by=BY, reason="why", effective_from=later(), factor=Decimal("1.2"))
    for change in ("UPDATE price_rule SET factor = 2", "DELETE FROM price_rule", "TRUNCATE price_rule"):
        with pytest.raises(Exception, match="append-only"):
            world.rows(change)
