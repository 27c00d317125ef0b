"""Which grants paid for a record: whatever shared a charge, each record finds its own part again."""

import itertools
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import corrections, tracing
from billing.models import Grant
from core import ids
from metering.models import UsageRecord
from orgs.audit import system
from orgs.models import Organization
from tests.billing.model import FOR_EVER, Event, Lot, Wallet, Who
from tests.billing.model import Books as Model
from tests.billing.test_grants import give, left, now
from tests.billing.world import assert_sound, charge, organization, standing
from tests.books import Books
from tests.metering.world import event
from tests.proofs import proves

BY = system("tests")
# Both are priced per million tokens of output: 1.10 and 0.40 USD.
MODELS = ("deepseek-chat", "gpt-4.1-nano")
lots = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([(), (MODELS[0],), (MODELS[1],)]), st.integers(-1, 1)), max_size=5
)
batches = st.lists(st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 20)), min_size=1, max_size=4), max_size=3)


def records(owner: Organization) -> list[UsageRecord]:
    """The records that were charged, not what corrected them."""
    return list(UsageRecord.objects.filter(organization_id=owner.pk, corrects_id__isnull=True).order_by("id"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_=lots, batches=batches, order=st.randoms(use_true_random=False))
def test_the_parts_of_all_records_are_what_was_taken_and_voiding_them_all_puts_everything_back(
    books: Books,
    given_: list[tuple[int, tuple[str, ...], int]],
    batches: list[list[tuple[str, int]]],
    order: object,
) -> None:
    acme = organization(f"traced-{ids.new()}")
    for place, (micros, models, priority) in enumerate(given_):
        give(acme, Decimal(micros).scaleb(-6), f"grant-{place}", models=models, priority=priority)
    before = left(acme)
    for batch in batches:
        charge(acme, *(event(model=m, input_tokens=0, cached_input_tokens=0, output_tokens=n) for m, n in batch))
    charged = records(acme)
    scopes = {grant.pk: (grant.reference, set(grant.model_slugs)) for grant in Grant.objects.filter(organization=acme)}
    taken: dict[str, Decimal] = {}
    overdrawn = Decimal(0)
    for record in charged:
        share = tracing.shares(acme.pk, [record])[record.id]
        for grant, amount in share.items():
            reference, scope = scopes[grant]
            assert amount > 0
            assert not scope or record.model in scope
            taken[reference] = taken.get(reference, Decimal(0)) + amount
        overdrawn += record.cost_usd - sum(share.values(), Decimal(0))
    after = left(acme)
    assert taken == {
        reference: before[reference] - after[reference] for reference in before if before[reference] != after[reference]
    }
    assert overdrawn == standing(acme).overdraft
    assert tracing.shares(acme.pk, charged) == {
        record.id: tracing.shares(acme.pk, [record])[record.id] for record in charged
    }
    order.shuffle(charged)  # type: ignore[attr-defined]
    for record in charged:
        corrections.void(organization_id=acme.pk, event_id=record.event_id, reason="all of them", by=BY)
    back = {reference: remaining for reference, remaining in left(acme).items() if reference in before}
    # Credit of any model may have repaid meanwhile what a later void gave back as new credit.
    assert standing(acme)[1:3] == (0, 0)
    assert standing(acme).posted == sum(before.values(), Decimal(0))
    if not overdrawn:
        assert back == before
    assert_sound()


# USD a token of output.
RATES = {"deepseek-chat": Fraction(11, 10**7), "gpt-4.1-nano": Fraction(4, 10**7)}
credits_ = st.lists(
    st.tuples(
        st.sampled_from(Grant.Kind.values), st.integers(1, 40), st.sampled_from([(), (), (MODELS[0],), (MODELS[1],)]),
        st.integers(-1, 1), st.sampled_from([None, 1, 2]),
    ),
    min_size=2, max_size=5,
)  # fmt: skip
used = st.lists(
    st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 20)), min_size=1, max_size=4), min_size=1, max_size=3
)


@proves("W10", guard="grants_have_one_order")
@proves("W10", guard="voids_follow_the_trace")
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(credits_=credits_, batches=used, order=st.randoms(use_true_random=False))
def test_each_void_gives_back_to_the_grants_that_paid_as_the_model_says(
    books: Books,
    credits_: list[tuple[str, int, tuple[str, ...], int, int | None]],
    batches: list[list[tuple[str, int]]],
    order: Random,
) -> None:
    acme, start = organization(f"back-{ids.new()}"), now()
    model = Model(start)
    model.wallets["acme"] = Wallet()
    for place, (kind, micros, models, priority, days) in enumerate(credits_):
        ends = None if days is None else start + timedelta(days=days)
        give(acme, Decimal(micros).scaleb(-6), f"grant-{place}", kind=kind, models=models, priority=priority,
            expires_at=ends)  # fmt: skip
        model.give(
            "acme",
            Lot(f"grant-{place}", kind, Fraction(micros, 10**6), priority, ends=ends or FOR_EVER, models=models),
        )
    charged = []
    for number, batch in enumerate(batches):
        told = [
            Event(f"event-{number}-{place}", Who("acme"), name, count * RATES[name], count)
            for place, (name, count) in enumerate(batch)
        ]
        charge(
            acme,
            *(
                event(event_id=one.id, model=one.model, input_tokens=0, cached_input_tokens=0, output_tokens=one.tokens)
                for one in told
            ),
        )
        model.charge(told)
        assert remaining(acme) == expected(model)
        charged += [one.id for one in told]
    order.shuffle(charged)
    for event_id in charged:
        corrections.void(organization_id=acme.pk, event_id=event_id, reason="tests", by=BY)
        model.void("acme", event_id)
        assert remaining(acme) == expected(model)
    assert_sound()


def remaining(owner: Organization) -> dict[str, Fraction]:
    """What is left of each grant; those that voids made of what nobody had paid are numbered."""
    numbers = itertools.count(1)
    return {
        f"returned {next(numbers)}" if row.reference.startswith("void:") else row.reference: Fraction(row.remaining_usd)
        for row in Grant.objects.filter(organization=owner).order_by("pk")
    }


def expected(model: Model) -> dict[str, Fraction]:
    """The same of the model."""
    return {lot.name: lot.left for lot in model.wallets["acme"].lots}


def test_a_record_that_cost_nothing_was_paid_by_nobody(books: Books) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event(model="gemma-4-31b-it", cached_input_tokens=0))
    (record,) = records(acme)
    assert tracing.shares(acme.pk, [record]) == {record.id: {}}
    assert tracing.shares(UUID(int=1), []) == {}
