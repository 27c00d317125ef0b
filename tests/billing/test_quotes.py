"""Quotes: the debit's own pricing, without a debit."""

from decimal import Decimal
from typing import Any

import pytest

from billing import quotes
from core import clock, errors
from metering import rating, rules
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
    ],
)
def test_a_bad_question_is_refused_by_the_name_of_the_field(
    db: None, body: dict[str, Any], error: type[errors.ApiError], param: str
) -> None:
    with pytest.raises(error) as refused:
        ask(**body)
    assert refused.value.param == param


def test_what_has_no_price_has_no_quote(db: None) -> None:
    for model, error in (("nobody", errors.ModelNotFound), ("deepshi-3.0", errors.OutOfRange)):
        with pytest.raises(error) as refused:
            quotes.quote(model=model, counts=rating.Counts(input_tokens=1), organization_id=None)
        assert refused.value.param == "model"
    with pytest.raises(errors.OutOfRange, match="audio"):
        quotes.quote(
            model=metering.MODEL, counts=rating.Counts(input_tokens=1, audio_input_tokens=1), organization_id=None
        )
    with pytest.raises(errors.InconsistentUsage) as wrong:
        quotes.quote(
            model=metering.MODEL, counts=rating.Counts(input_tokens=1, cached_input_tokens=2), organization_id=None
        )
    assert wrong.value.param == "input_tokens"
