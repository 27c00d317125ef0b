"""Which grants paid for a record: whatever shared a charge, each record finds its own part again."""

from decimal import Decimal
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import corrections, tracing
from billing.models import Grant
from core import ids
from metering.models import UsageRecord
from orgs.audit import system
from orgs.models import Organization
from tests.billing.test_grants import give, left
from tests.billing.world import assert_sound, charge, organization, standing
from tests.books import Books
from tests.metering.world import event

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


def test_a_record_that_cost_nothing_was_paid_by_nobody(books: Books) -> None:
    acme = organization("acme", usd="1")
    charge(acme, event(model="gemma-4-31b-it", cached_input_tokens=0))
    (record,) = records(acme)
    assert tracing.shares(acme.pk, [record]) == {record.id: {}}
    assert tracing.shares(UUID(int=1), []) == {}
