"""Billing's jobs: each wakes up, calls one verb, and notes how it went."""

from datetime import timedelta

from celery import shared_task

from billing import (
    budgets,
    closing,
    dunning,
    grants,
    holds,
    invoices,
    provider_bills,
    releases,
    rerating,
    seals,
    settlement,
    verification,
)
from billing.processor import inbox, reconciliation
from core import clock
from ops import jobs

# A run ends before the next one begins, so a long act keeps one worker and not all of them.
RERATING_RUN = timedelta(seconds=45)
# A month of many organizations takes several runs.
CLOSING_RUN = timedelta(minutes=4)


@shared_task
def release_quarantine() -> str:
    """Charge quarantined events that have become chargeable."""

    def work() -> str:
        done = releases.release()
        return f"charged {done.charged}, {done.left} still wait"

    return jobs.run("release_quarantine", work)


@shared_task
def apply_reratings() -> str:
    """Go on with the re-ratings that somebody has begun."""

    def work() -> str:
        return f"{rerating.resume(until=clock.now() + RERATING_RUN)} acts still go on"

    return jobs.run("apply_reratings", work)


@shared_task
def expire_holds() -> str:
    """End the holds whose time is over."""
    return jobs.run("expire_holds", lambda: f"ended {holds.expire_due()}")


@shared_task
def settle_grants() -> str:
    """End and begin the grants whose time has come."""
    return jobs.run("settle_grants", lambda: f"touched {grants.settle_due()} wallets")


@shared_task
def trim_ceilings() -> str:
    """Forget what no ceiling's window reaches any more."""
    return jobs.run("trim_ceilings", lambda: f"forgot {budgets.trim()}")


@shared_task
def verify() -> str:
    """Check what is new in the books since the last sealed day."""
    return jobs.run("verify", lambda: verification.told(verification.verify(seals.since_last())))


@shared_task
def seal_ledger() -> str:
    """Seal the last day that is final, if its books are clean, and export the heads."""
    return jobs.run("seal_ledger", verification.seal_due)


@shared_task
def handle_stripe_events() -> str:
    """Handle the events of Stripe's that wait."""
    return jobs.run("handle_stripe_events", inbox.sweep)


@shared_task
def trim_stripe_events() -> str:
    """Empty events of Stripe's that are long done."""
    return jobs.run("trim_stripe_events", lambda: f"emptied {inbox.trim()}")


@shared_task
def look_at_payments() -> str:
    """Ask Stripe about payments and refunds whose time has come."""
    return jobs.run("look_at_payments", settlement.sweep)


@shared_task
def recharge() -> str:
    """Have wallets below their line buy credit with their saved cards."""
    return jobs.run("recharge", settlement.recharge)


@shared_task
def close_periods() -> str:
    """Draft the periods that are over."""
    return jobs.run("close_periods", lambda: closing.told(closing.close_due(until=clock.now() + CLOSING_RUN)))


@shared_task
def finalize_invoices() -> str:
    """Finalize the drafts whose grace is over."""
    return jobs.run("finalize_invoices", lambda: closing.told(closing.finalize_due(until=clock.now() + CLOSING_RUN)))


@shared_task
def issue_receipts() -> str:
    """Issue receipts for top-ups that were paid, and credit notes for what of them went back."""

    def work() -> str:
        receipts = invoices.issue_receipts()
        return f"issued {receipts}, credit notes {invoices.issue_notes_of_receipts()}"

    return jobs.run("issue_receipts", work)


@shared_task
def dun() -> str:
    """Take the steps that are due about invoices that are overdue."""
    return jobs.run("dun", lambda: f"took {dunning.run()} steps")


@shared_task
def reconcile_stripe() -> str:
    """Hold Stripe's balance against the books."""
    return jobs.run("reconcile_stripe", reconciliation.told)


@shared_task
def compare_provider_bills() -> str:
    """Hold providers' bills against the records."""
    return jobs.run("compare_provider_bills", lambda: f"{provider_bills.compare()} differences are open")
