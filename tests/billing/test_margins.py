"""Margins: exact, complete, and silent where nobody said what a request cost us."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from billing import corrections, margins
from billing.corrections import Change
from billing.models import Correction
from core import clock, errors, ids
from metering.models import UsageRecord
from orgs.audit import system
from orgs.models import Organization
from tests.billing import world
from tests.metering import world as metering

BY = system("ada")
# What the ordinary event of the tests costs: 0.000362.
COST = Decimal("0.000362")


def around_now(organization_id: UUID | None = None) -> margins.Margins:
    """Margins of yesterday, today and tomorrow, so that a midnight in between changes nothing."""
    today = clock.now().date()
    start, end = today - timedelta(days=1), today + timedelta(days=2)
    return margins.between(start=start, end=end, organization_id=organization_id)


def charged(of: Organization, provider: str | None = None, **more: Any) -> UsageRecord:
    """A record, with what its provider charged us."""
    event = metering.event(provider_cost_usd=None if provider is None else Decimal(provider), **more)
    world.charge(of, event)
    return UsageRecord.objects.get(organization=of, event_id=event.event_id)


def void(record: UsageRecord) -> None:
    corrections.void(organization_id=record.organization_id, event_id=record.event_id, reason="gone", by=BY)


def rerated(record: UsageRecord, difference: str, *, at: datetime | None = None, cause: str = "rerate_x") -> None:
    """Post a difference on a record, as a re-rating does."""
    change = Change(record, Decimal(difference), record.price_id, record.rule_id, negate=False)
    with transaction.atomic():
        corrections.hold_records(record.organization_id)
        corrections.post(
            record.organization_id, [change], kind=Correction.Kind.RERATING, cause=cause, actor="ada",
            reason="late", at=at or clock.now(),
        )  # fmt: skip


def copied(record: UsageRecord, at: datetime) -> UsageRecord:
    """The same record as if it had been made at another time."""
    copy = UsageRecord.objects.get(organization_id=record.organization_id, id=record.id)
    copy.id, copy.recorded_at, copy.event_id = next(ids.run(at=at)), at, f"{record.event_id}-{at:%d%H}"
    copy.save(force_insert=True)
    return copy


def days_ahead() -> tuple[datetime, datetime, datetime]:
    """Noon of three days in a row that nothing else of a test falls on; their partitions stand."""
    noon = clock.now().replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=5)
    return noon, noon + timedelta(days=1), noon + timedelta(days=2)


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme", usd="1")


def test_cost_provider_cost_and_margin_are_summed_by_model(acme: Organization) -> None:
    charged(acme, "0.0001")
    charged(acme, "0.000162000001")
    # 360 × 2.50 + 640 × 1.25 + 200 × 10 = 3,700 millionths.
    charged(acme, "0.004", model="gpt-4o")
    found = around_now()
    assert [
        (one.model, one.records, one.cost_usd, one.provider_cost_usd, one.margin_usd) for one in found.by_model
    ] == [
        ("deepseek-chat", 2, Decimal("0.000724"), Decimal("0.000262000001"), Decimal("0.000461999999")),
        ("gpt-4o", 1, Decimal("0.0037"), Decimal("0.004"), Decimal("-0.0003")),
    ]
    assert (found.total.records, found.total.margin_usd) == (3, Decimal("0.000161999999"))
    assert (found.total.day, found.total.model, found.has_more) == (None, None, False)


def test_what_nobody_told_is_counted_apart_and_never_zero(acme: Organization) -> None:
    charged(acme)
    charged(acme)
    charged(acme, "0.0001")
    charged(acme, model="gpt-4o")
    found = around_now()
    known, unknown = found.by_model
    assert (known.records, known.cost_usd, known.margin_usd) == (1, COST, Decimal("0.000262"))
    assert (known.unknown_records, known.unknown_cost_usd) == (2, Decimal("0.000724"))
    assert (unknown.known, unknown.margin_usd) == (False, None)
    assert (unknown.unknown_records, unknown.unknown_cost_usd) == (1, Decimal("0.0037"))
    assert (found.total.records, found.total.unknown_records) == (1, 3)
    assert found.total.margin_usd == Decimal("0.000262")


def test_a_request_that_cost_us_nothing_is_known(acme: Organization) -> None:
    charged(acme, "0")
    (one,) = around_now().by_model
    assert (one.records, one.unknown_records, one.margin_usd) == (1, 0, COST)


def test_a_smart_route_is_told_apart_by_what_served_it(acme: Organization) -> None:
    charged(acme, "0.0001", model="deepai-chat", routed_model="gpt-4o")
    charged(acme, "0.00001", model="deepai-chat", routed_model="deepseek-chat")
    charged(acme, "0.00001", model="deepai-chat", routed_model="deepseek-chat")
    charged(acme, "0.00002", model="deepai-chat")
    found = around_now()
    assert [(one.model, one.routed_model, one.records, one.provider_cost_usd) for one in found.by_model] == [
        ("deepai-chat", None, 1, Decimal("0.00002")),
        ("deepai-chat", "deepseek-chat", 2, Decimal("0.00002")),
        ("deepai-chat", "gpt-4o", 1, Decimal("0.0001")),
    ]


def test_a_voided_record_still_cost_us_what_it_did(acme: Organization) -> None:
    record = charged(acme, "0.0001")
    charged(acme, "0.0001")
    void(record)
    found = around_now()
    (one,) = found.by_model
    assert (one.records, one.corrections, one.unknown_records) == (2, 1, 0)
    assert (one.cost_usd, one.provider_cost_usd, one.margin_usd) == (COST, Decimal("0.0002"), Decimal("0.000162"))
    assert found.total == one._replace(model=None)


def test_a_correction_stands_with_the_record_that_it_corrects(acme: Organization) -> None:
    known, unknown = charged(acme, "0.0001"), charged(acme)
    rerated(known, "0.0005")
    rerated(unknown, "0.0007", cause="rerate_y")
    rerated(known, "-0.0001", cause="rerate_z")
    (one,) = around_now().by_model
    assert (one.records, one.cost_usd, one.margin_usd) == (1, Decimal("0.000762"), Decimal("0.000662"))
    assert (one.unknown_records, one.unknown_cost_usd) == (1, Decimal("0.001062"))
    assert one.corrections == 3


def test_a_correction_of_a_smart_route_stands_with_what_served_it(acme: Organization) -> None:
    record = charged(acme, "0.0001", model="deepai-chat", routed_model="gpt-4o")
    void(record)
    (one,) = around_now().by_model
    assert (one.model, one.routed_model, one.cost_usd, one.margin_usd) == (
        *("deepai-chat", "gpt-4o"),
        *(Decimal(0), Decimal("-0.0001")),
    )


def test_a_correction_counts_on_the_day_on_which_it_was_posted(acme: Organization) -> None:
    first, second, third = days_ahead()
    made = charged(acme, "0.0001")
    record = copied(made, first)
    copied(made, third)
    rerated(record, "-0.000062", at=second)
    found = margins.between(start=first.date(), end=third.date() + timedelta(days=1))
    assert [(one.day, one.records, one.cost_usd, one.margin_usd) for one in found.by_day] == [
        (third.date(), 1, COST, Decimal("0.000262")),
        (second.date(), 0, Decimal("-0.000062"), Decimal("-0.000062")),
        (first.date(), 1, COST, Decimal("0.000262")),
    ]
    # What it corrects lies outside of these days, and is found all the same.
    later = margins.between(start=second.date(), end=third.date())
    assert (later.total.known, later.total.records, later.total.margin_usd) == (True, 0, Decimal("-0.000062"))
    earlier = margins.between(start=first.date(), end=second.date())
    assert (earlier.total.corrections, earlier.total.margin_usd) == (0, Decimal("0.000262"))


def test_days_begin_at_midnight_in_utc_and_the_end_is_not_in_them(acme: Organization) -> None:
    first, second, _ = days_ahead()
    midnight = datetime.combine(second.date(), datetime.min.time(), UTC)
    made = charged(acme, "0.0001")
    copied(made, midnight - timedelta(milliseconds=1))
    copied(made, midnight)
    found = margins.between(start=first.date(), end=second.date() + timedelta(days=1))
    assert [(one.day, one.records) for one in found.by_day] == [(second.date(), 1), (first.date(), 1)]
    assert margins.between(start=first.date(), end=second.date()).total.records == 1


def test_nothing_at_all_has_no_margin(acme: Organization) -> None:
    found = around_now()
    assert (found.by_model, found.by_day, found.has_more) == ([], [], False)
    assert (found.total.records, found.total.unknown_records, found.total.margin_usd) == (0, 0, None)


def test_margins_of_one_organization_leave_the_others_out(acme: Organization) -> None:
    other = world.organization("other", usd="1")
    void(charged(acme, "0.0001"))
    void(charged(other, "0.0002"))
    charged(other, "0.0002")
    assert around_now().total.records == 3
    mine = around_now(other.pk).total
    assert (mine.records, mine.corrections, mine.margin_usd) == (2, 1, Decimal("-0.000038"))


def test_margins_are_one_query_however_many_records_there_are(acme: Organization) -> None:
    seen = []
    for _ in range(2):
        for _ in range(5):
            charged(acme, "0.0001")
        with CaptureQueriesContext(connection) as queries:
            around_now()
        seen.append(len(queries))
    assert seen == [1, 1]


def test_sums_are_whole_where_days_are_cut_off(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = days_ahead()
    made = charged(acme, "0.0001")
    for at in (first, second, third):
        copied(made, at)
    # The sum, one model, and what is left for days.
    monkeypatch.setattr(margins, "ROWS_MAX", 3)
    found = margins.between(start=first.date(), end=third.date() + timedelta(days=1))
    assert found.has_more
    assert [one.day for one in found.by_day] == [third.date()]
    assert (found.total.records, found.by_model[0].records) == (3, 3)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (date(2026, 11, 2), date(2026, 11, 2)),
        (date(2026, 11, 2), date(2026, 11, 1)),
        (date(2026, 1, 1), date(2026, 4, 4)),
        (date(1, 1, 1), date(1, 1, 2)),
    ],
)
def test_a_period_without_days_or_with_too_many_is_refused(db: None, start: date, end: date) -> None:
    with pytest.raises(errors.OutOfRange) as refused:
        margins.between(start=start, end=end)
    assert refused.value.param == "end"


def test_the_longest_period_is_taken(db: None) -> None:
    assert margins.between(start=date(2026, 1, 1), end=date(2026, 4, 3)).total.records == 0


def test_a_records_own_margin_is_its_cost_less_what_it_cost_us(acme: Organization) -> None:
    known, unknown = charged(acme, "0.0005"), charged(acme)
    assert margins.of(known) == Decimal("-0.000138")
    assert margins.of(known, corrected_usd=Decimal("0.001")) == Decimal("0.000862")
    assert margins.of(unknown) is None
    void(known)
    assert margins.of(UsageRecord.objects.get(organization=acme, corrects_id=known.id)) is None
