"""Quotes: the debit's own pricing, without a debit."""

from decimal import Decimal
from typing import Any

import pytest

from billing import quotes
from core import clock, errors
from metering import rating, rules, tokens
from orgs import caches
from orgs.audit import system
from tests.billing import world
from tests.books import Books
from tests.metering import world as metering
from tests.metering.test_rules import later


def ask(**body: Any) -> quotes.Asked:
    return quotes.read({"model": metering.MODEL, **body})


def test_a_quote_is_what_the_debit_will_be(books: Books) -> None:
    acme = world.organization("acme", usd="1")
    asked = ask(**metering.COUNTS)
    found = quotes.quote(model=asked.model, counts=asked.counts, organization_id=acme.pk)
    (verdict,) = world.charge(acme, metering.event())
    assert found.cost_usd == verdict.cost_usd == Decimal("0.000362")
    assert sum(part.cost_usd for part in found.parts) == found.cost_usd
    assert not asked.estimated


def test_an_organizations_rule_is_in_its_quote_and_in_nobody_elses(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = world.organization("acme", usd="1")
    rules.publish(by=system("tests"), reason="half", effective_from=later(), organization=acme, factor=Decimal("0.5"))
    then = later(minutes=1)
    monkeypatch.setattr(clock, "now", lambda: then)
    caches.forget_all()
    counts = ask(**metering.COUNTS).counts
    costs = [
        quotes.quote(model=metering.MODEL, counts=counts, organization_id=owner).cost_usd for owner in (acme.pk, None)
    ]
    assert costs == [Decimal("0.000181"), Decimal("0.000362")]


def test_the_output_cap_is_quoted_where_no_output_is_told(db: None) -> None:
    asked = ask(input_tokens=10, max_output_tokens=100)
    assert (asked.counts.input_tokens, asked.counts.output_tokens) == (10, 100)
    assert ask(input_tokens=10, output_tokens=0, max_output_tokens=100).counts.output_tokens == 0


def test_text_is_counted_with_a_margin_only_where_the_count_is_absent(db: None) -> None:
    asked = ask(messages=[{"role": "user", "content": "Why is the sky blue?"}])
    assert asked.estimated
    assert asked.counts.input_tokens > 6
    believed = ask(messages=[{"role": "user", "content": "Why is the sky blue?"}], input_tokens=0)
    assert (believed.estimated, believed.counts.input_tokens) == (False, 0)


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({}, errors.MissingParameter, "input_tokens"),
        ({"input_tokens": "1"}, errors.InvalidType, "input_tokens"),
        ({"input_tokens": -1}, errors.OutOfRange, "input_tokens"),
        ({"input_tokens": 1, "model": 3}, errors.InvalidType, "model"),
        ({"input_tokens": 1, "model": None}, errors.MissingParameter, "model"),
        ({"messages": "hello"}, errors.InvalidType, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, errors.InvalidType, "messages[0].content"),
        ({"messages": []}, errors.OutOfRange, "messages"),
        ({"messages": [{"role": "user"}], "input_text": "x"}, errors.InvalidRequest, "input_text"),
        ({"input_tokens": 1, "output_text": 7}, errors.InvalidType, "output_text"),
        ({"input_tokens": 1, "max_output_tokens": -1}, errors.OutOfRange, "max_output_tokens"),
        ({"input_tokens": 1, "units": {"web_search": "2"}}, errors.InvalidType, "units"),
        ({"input_tokens": 1, "batch": "yes"}, errors.InvalidType, "batch"),
        ({"input_tokens": 1, "service_tier": 3}, errors.InvalidType, "service_tier"),
        ({"input_tokens": 1, "model": "x" * 129}, errors.OutOfRange, "model"),
        ({"input_tokens": 2**63}, errors.OutOfRange, "input_tokens"),
    ],
)
def test_a_bad_question_is_refused_by_the_name_of_the_field(
    db: None, body: dict[str, Any], error: type[errors.ApiError], param: str
) -> None:
    with pytest.raises(error) as refused:
        ask(**body)
    assert refused.value.param == param
    assert param in str(refused.value)
    assert "valid" not in str(refused.value)


def test_parts_that_are_reported_are_the_least_that_a_text_counts_for(db: None) -> None:
    asked = ask(input_text="hello", cached_input_tokens=700, cache_write_tokens=50, output_text="x", reasoning_tokens=9)
    assert (asked.counts.input_tokens, asked.counts.output_tokens) == (750, 9)


def test_without_its_token_tables_a_text_is_refused_for_now(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> int:
        raise tokens.TableUnusable("gone")

    monkeypatch.setattr(tokens, "estimate", broken)
    with pytest.raises(errors.Unavailable):
        ask(input_text="hello")
    assert ask(input_tokens=1).counts.input_tokens == 1


def test_what_has_no_price_has_no_quote(db: None) -> None:
    for model, error in (("nobody", errors.ModelNotFound), ("deepshi-3.0", errors.OutOfRange)):
        with pytest.raises(error) as refused:
            quotes.quote(model=model, counts=rating.Counts(input_tokens=1), organization_id=None)
        assert refused.value.param == "model"
    unpriced: dict[str, rating.Counts] = {
        "audio_input_tokens": rating.Counts(input_tokens=1, audio_input_tokens=1),
        "units": rating.Counts(units={"web_search": 1}),
        "service_tier": rating.Counts(service_tier="no-such-tier"),
        "batch": rating.Counts(batch=True),
    }
    for param, counts in unpriced.items():
        with pytest.raises(errors.OutOfRange, match=r"^deepseek-chat: no rates? for ") as refused:
            quotes.quote(model=metering.MODEL, counts=counts, organization_id=None)
        assert refused.value.param == param
    with pytest.raises(errors.InconsistentUsage) as wrong:
        quotes.quote(
            model=metering.MODEL, counts=rating.Counts(input_tokens=1, cached_input_tokens=2), organization_id=None
        )
    assert wrong.value.param == "input_tokens"
