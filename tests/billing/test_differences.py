"""Differences are listed, explained or over; they are never lost and never fixed."""

from decimal import Decimal

import pytest

from billing import differences
from billing.differences import Found, Side
from billing.models import Difference
from core import errors
from orgs.audit import system
from orgs.models import AuditEntry

BY = system("tests")


def found(subject: str = "ch_1", ours: str | None = None, theirs: str | None = "1") -> Found:
    """What a comparison says."""
    return Found(subject, ours and Decimal(ours), theirs and Decimal(theirs), f"{ours} against {theirs}")  # type: ignore[arg-type]


def standing() -> list[tuple[str, str, str]]:
    """Every difference with its state and what is said of it."""
    return list(Difference.objects.order_by("subject").values_list("subject", "state", "detail"))


def test_a_difference_is_one_row_however_often_it_is_found(db: None) -> None:
    assert differences.keep(Side.STRIPE, [found(), found("ch_2")]) == 2
    first = Difference.objects.get(subject="ch_1")
    assert differences.keep(Side.STRIPE, [found("ch_2"), found()]) == 2
    assert Difference.objects.get(subject="ch_1").changed_at == first.changed_at
    assert differences.keep(Side.STRIPE, [found(theirs="2"), found("ch_2")]) == 2
    assert standing() == [("ch_1", "open", "None against 2"), ("ch_2", "open", "None against 1")]


def test_what_is_not_found_any_more_is_over_and_may_come_back(db: None) -> None:
    differences.keep(Side.STRIPE, [found()])
    assert differences.keep(Side.STRIPE, []) == 0
    assert standing() == [("ch_1", "over", "None against 1")]
    assert differences.keep(Side.STRIPE, [found()]) == 1
    assert standing() == [("ch_1", "open", "None against 1")]


def test_a_comparison_of_a_part_leaves_the_rest(db: None) -> None:
    differences.keep(Side.PROVIDER, [found("bill:a/m/2026-10"), found("bill:b/m/2026-10")])
    assert differences.keep(Side.PROVIDER, [], about="bill:a/") == 1
    assert [state for _, state, _ in standing()] == ["over", "open"]


def test_an_explanation_is_of_these_amounts_and_is_audited(db: None) -> None:
    differences.keep(Side.STRIPE, [found(ours="3")])
    row = Difference.objects.get()
    for bad in ("", "   ", "x" * 5000):
        with pytest.raises(errors.OutOfRange) as refused:
            differences.explain(difference_id=row.pk, reason=bad, by=BY)
        assert refused.value.param == "reason"
    differences.explain(difference_id=row.pk, reason=" known ", by=BY)
    assert differences.keep(Side.STRIPE, [found(ours="3")]) == 0
    row.refresh_from_db()
    assert (row.state, row.reason, row.explained_by) == ("explained", "known", "tests")
    (entry,) = AuditEntry.objects.filter(verb="difference.explained")
    assert entry.details == {"subject": "ch_1", "ours_usd": "3", "theirs_usd": "1", "reason": "known"}
    with pytest.raises(differences.NotOpen):
        differences.explain(difference_id=row.pk, reason="again", by=BY)
    assert differences.keep(Side.STRIPE, [found(ours="4")]) == 1
    row.refresh_from_db()
    assert (row.state, row.reason, row.explained_by) == ("open", "", "")
