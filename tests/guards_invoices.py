"""Guards of periods, documents and their payment."""

import importlib
from datetime import datetime
from typing import Any

from tests.guards import Disabled, _verified, guard, patched, rewritten

_verified("V15", "documents_are_held_against_the_ledger", "adds up lines, and each period's transfers, again.")
_verified("V16", "periods_are_held_together", "looks for gaps between periods, and for what lies over another.")
_verified("V17", "numbers_are_counted", "counts the numbers of each series, and follows them through time.")
_verified("V18", "transfers_are_looked_for_in_periods", "looks for the one period that each transfer lies in.")


@guard("anchors_are_kept")
def _() -> Disabled:
    """The next edge is worked out from the anchor day, not from the day on which the last period ended."""
    periods = importlib.import_module("billing.periods")
    after = periods._after

    def drifting(at: datetime, *, anchor_day: int, zone: Any) -> datetime:
        edge: datetime = after(at, anchor_day=at.astimezone(zone).day, zone=zone)
        return edge

    return patched("billing.periods._after", drifting)


@guard("periods_are_taken_under_their_lock")
def _() -> Disabled:
    """Whoever drafts or finalizes looks at the period's state under its row lock."""
    return rewritten(" FOR NO KEY UPDATE SKIP LOCKED", "")


@guard("periods_are_finalized_once")
def _() -> Disabled:
    """Under its lock, only a draft is finalized."""
    periods = importlib.import_module("billing.models").BillingPeriod

    def in_any_state(worked: Any) -> Any:
        return periods.objects.select_for_update(no_key=True).get(pk=worked.period.pk)

    return patched("billing.closing._locked", in_any_state)


@guard("documents_are_held_against_what_was_charged")
def _() -> Disabled:
    """What rollups say was used is compared with what the ledger charged, and lines with each other."""
    return patched("billing.closing._wrong", lambda used, charged: ())


@guard("numbers_are_given_with_their_documents")
def _() -> Disabled:
    """A number is counted up by the transaction that issues its document."""
    give = importlib.import_module("billing.numbers").give

    def commit_early(entity: Any) -> Any:
        number = give(entity)
        importlib.import_module("django.db").connection.connection.commit()
        return number

    return patched("billing.numbers.give", commit_early)
