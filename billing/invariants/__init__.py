"""The invariants of the books, checked on a live system: what ``manage.py verify`` runs.

Read-only, in one snapshot, set-based; writers are not held up. The ids are those of docs/reliability.md,
which has one row for each. A run looks at everything, or at what is new since the books were last
sealed (``billing.seals``): then wallets are followed from their sealed heads, and of what only grows
the new rows are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import connection, transaction

from billing.invariants import clearing, grants, holds, invoices, ledger, payments, queues, rows, server, usage
from billing.invariants.checks import EVERYTHING, SAMPLES_MAX, Check, Finding, Probe, Scope, Terms, run, terms_of

__all__ = ["CHECKS", "EVERYTHING", "SAMPLES_MAX", "Check", "Finding", "Probe", "Scope", "check", "each", "snapshot"]

CHECKS: Sequence[Check | Probe] = tuple(
    sorted(
        (
            *ledger.CHECKS,
            *grants.CHECKS,
            *holds.CHECKS,
            *payments.CHECKS,
            *usage.CHECKS,
            *invoices.CHECKS,
            *clearing.CHECKS,
            *rows.CHECKS,
            *queues.CHECKS,
            *server.CHECKS,
        ),
        key=lambda one: (one.name[0] != "V", one.name),
    )
)


def check(scope: Scope = EVERYTHING, *, server: bool = False, more: Sequence[Check | Probe] = ()) -> list[Finding]:
    """Run the checks of the books in one read-only snapshot; with ``server``, those of what guards them too."""
    with snapshot():
        return list(each(scope, server=server, more=more))


def each(scope: Scope = EVERYTHING, *, server: bool = False, more: Sequence[Check | Probe] = ()) -> Iterator[Finding]:
    """The findings one after the other, in the snapshot that the caller holds."""
    terms: Terms = terms_of(scope)
    for one in (*CHECKS, *more):
        if server or not one.server:
            yield run(one, terms)


@contextmanager
def snapshot() -> Iterator[None]:
    """One moment of the books, for reading only."""
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL statement_timeout = '10min'")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '1min'")
            # Before the moment is chosen: what is attached then stays so while it is looked at.
            cursor.execute("LOCK TABLE ONLY usage_record, ONLY request_log IN ACCESS SHARE MODE")
        yield
