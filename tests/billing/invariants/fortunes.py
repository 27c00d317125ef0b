"""Books with every kind of credit, promise and ceiling on top of everything in ``tests.billing.history``.

* ``wayne``: grants of each kind, with an end, with a scope, with a priority, one that waits and one that is over;
  acts of finance; what was charged to a grant goes back after its end.
* ``stark``: holds in every state, ceilings on each subject and window, members, a project, fallback to a person.
* ``oscorp``: an overdraft beside credit that pays for one model only; forgiven in part; frozen.
* ``daily``: nothing since its wallet was sealed. The others went on.
"""

import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from billing import adjustments, budgets, corrections, grants, holds, seals, wallets
from billing.budgets import Counted
from billing.grants import Conditions
from billing.ledger import Terms
from billing.models import Adjustment, Grant, Hold
from core import ids
from metering import attribution
from metering.attribution import Attributed
from metering.verdicts import Status
from ops import approvals, idempotency, jobs
from ops.models import Approval
from orgs.audit import Actor
from orgs.models import ApiKey, Organization, Project
from tests.billing import history
from tests.billing.world import assert_all, charge, record, rows
from tests.metering.world import COST, MODEL, event
from tests.orgs import world

USD = Decimal(COST)
ADA = Actor(kind="user", id="user_ada", label="ada@example.com")
GRACE = Actor(kind="user", id="user_grace", label="grace@example.com")
OTHER_MODEL = "gpt-4o"


def now() -> datetime:
    """The database's clock."""
    found: datetime = rows("SELECT clock_timestamp()")[0][0]
    return found


def pass_by(instant: datetime) -> None:
    """Wait until the database's clock is past an instant that is near."""
    while now() <= instant:
        time.sleep(0.02)


def give(owner: Organization, usd: str, reference: str, *, kind: str = Grant.Kind.PROMOTIONAL, **more: Any) -> UUID:
    """A grant in a transaction of its own."""
    with transaction.atomic():
        return grants.give(
            organization_id=owner.pk, kind=kind, amount_usd=Decimal(usd), reference=reference, actor="tests",
            reason="given", conditions=Conditions(**more),
        )  # fmt: skip


def ask(owner: Organization, kind: str, usd: str) -> Adjustment:
    """An act of finance."""
    return adjustments.ask(organization_id=owner.pk, kind=kind, amount_usd=Decimal(usd), reason="asked for", by=ADA)


def hold(whose: Counted, *, seconds: int = 3600, fallback: UUID | None = None) -> Hold:
    """Money set aside, in a transaction of its own."""
    with transaction.atomic():
        return holds.place(holds.Asked(whose, MODEL, 100, seconds, fallback)).hold


def release(one: Hold) -> None:
    """Give a hold up."""
    with transaction.atomic():
        holds.release(organization_id=one.organization_id, hold_id=one.pk)


def by_key(owner: Organization, key: ApiKey, *authorizations: Hold | None) -> None:
    """Events of a key, each with the hold that it names, as one batch."""
    told = [
        event(
            organization=owner.slug, api_key_id=ids.show("key", key.pk),
            authorization_id=one and ids.show("auth", one.pk),
        )
        for one in authorizations
    ]  # fmt: skip
    items = [item for item in attribution.attribute(told) if isinstance(item, Attributed)]
    assert len(items) == len(told)
    assert_all(record(items), Status.CREATED)


def happen() -> None:
    """All of it, on fresh books."""
    history.happen()
    brief = _promise()
    # Long enough for a busy machine to come to what must begin before it.
    soon = now() + timedelta(seconds=4)
    _give(until=soon)
    _owe()
    daily = world.organization("daily")
    give(daily, "1", "kept")
    give(daily, "2", "newest")
    yesterday = seals.due()
    assert yesterday is not None
    assert seals.seal(yesterday).wallets == 9
    pass_by(max(soon, brief.expires_at))
    grants.settle_due()
    holds.expire_due()
    assert rows("SELECT count(*) FROM hold WHERE state = 'expired'") == [(1,)]
    wayne = Organization.objects.get(slug="wayne")
    # Back to a grant that is over, and on to breakage.
    corrections.void(organization_id=wayne.pk, event_id="brief", reason="tests", by=world.BY)
    charge(wayne, event(event_id="last"))
    acme = Organization.objects.get(slug="acme")
    charge(acme, event(event_id="sixth"))
    _wait(acme)


def _wait(owner: Organization) -> None:
    """What queues hold: messages that were delivered, a key with its answer, a job of each kind that is done."""
    assert rows("UPDATE outbox SET delivered_at = now() RETURNING true") != []
    idempotency.once(
        organization_id=owner.pk, organization_slug=owner.slug, method="POST", path="/v1/nothing", key="answered",
        body={}, work=lambda: idempotency.Saved(200, b"{}"),
    )  # fmt: skip
    for name in ("expire_holds", "seal_ledger"):
        jobs.run(name, lambda: "done")


def _give(*, until: datetime) -> None:
    """Wayne's credit."""
    wayne = world.organization("wayne")
    give(wayne, "0.001", "brief", expires_at=until)
    charge(wayne, event(event_id="brief"))
    give(wayne, "0.0004", "first", priority=-1, expires_at=until + timedelta(days=30))
    give(wayne, "1", "scoped", models=(OTHER_MODEL,))
    give(wayne, "3", "bought", kind=Grant.Kind.PURCHASED)
    give(wayne, "2", "later", effective_at=until + timedelta(days=3), expires_at=until + timedelta(days=9))
    # Over two grants, then one of them empty; the scoped one pays for its model.
    charge(wayne, event(event_id="both"), event(event_id="other", model=OTHER_MODEL))
    charge(wayne, event(event_id="more"))
    corrections.void(organization_id=wayne.pk, event_id="both", reason="tests", by=world.BY)
    # No ceiling counts it.
    hold(Counted(wayne.pk, None, None, None, USD, 2000))
    for kind, usd in (("grant", "0.5"), ("credit", "0.25"), ("debit", "0.125"), ("refund", "1.5")):
        assert ask(wayne, kind, usd).state == "posted"
    for kind, agreed in (("grant", True), ("credit", False)):
        act = ask(wayne, kind, "501")
        question = Approval.objects.get(subject_id=act.pk)
        approvals.decide(approval_id=question.pk, by=GRACE, grant=agreed)
        adjustments.carry_out(adjustment_id=act.pk, by=ADA)
    assert ask(wayne, "debit", "502").state == "waiting"


def _promise() -> Hold:
    """Stark's holds, ceilings and callers; the hold that ends at once."""
    stark = world.organization("stark")
    give(stark, "0.02", "promoted")
    tony = world.member(stark, "tony@stark.example")
    project, idle = (Project.objects.create(organization=stark, name=name) for name in ("suits", "idle"))
    key = world.organization_key(stark, project_id=project.pk).key
    mine = world.personal_key(tony.user).key
    give(world.personal(tony.user), "1", "saved")
    of = {"organization": stark.pk, "project": project.pk, "member": tony.pk, "key": key.pk}
    budgets.set_ceiling(
        organization_id=stark.pk, subject="project", subject_id=idle.pk, window="1d", unit="usd", ceiling=Decimal(1),
        by=world.BY,
    )  # fmt: skip
    for subject, window, unit, most in (
        ("organization", "month", "usd", "5"), ("organization", "5h", "tokens", "1000000"),
        ("project", "1d", "usd", "4"), ("member", "7d", "usd", "3"), ("key", "5h", "usd", "2"),
        ("key", "month", "tokens", "900000"),
    ):  # fmt: skip
        budgets.set_ceiling(
            organization_id=stark.pk, subject=subject, subject_id=of[subject], window=window, unit=unit,
            ceiling=Decimal(most), by=world.BY,
        )  # fmt: skip
    counted = Counted(stark.pk, project.pk, None, key.pk, 2 * USD, 2000)
    captured, released, kept = hold(counted), hold(counted), hold(counted)
    by_key(stark, key, captured, captured, None)
    release(released)
    lifted = budgets.set_ceiling(
        organization_id=stark.pk, subject="key", subject_id=key.pk, window="1d", unit="usd", ceiling=Decimal(1),
        by=world.BY,
    )  # fmt: skip
    hold(counted)
    budgets.remove_ceiling(budget_id=lifted.pk, by=world.BY)
    wallets.change_terms(organization_id=stark.pk, terms=Terms(mode="fallback"), reason="tests", by=world.BY)
    # The organization is used up, so tony's own wallet pays: for a hold and its event, and for an event alone.
    charge(stark, event(event_id="large", input_tokens=30_000, cached_input_tokens=0))
    called = Counted(stark.pk, None, tony.pk, mine.pk, Decimal("0.05"), 2000)
    own = hold(called, fallback=mine.organization_id)
    assert own.payer_id == mine.organization_id
    hold(called, fallback=mine.organization_id)
    by_key(stark, mine, own)
    charge(stark, event(event_id="larger", input_tokens=30_000, cached_input_tokens=0))
    by_key(stark, mine, None)
    corrections.void(organization_id=stark.pk, event_id="large", reason="tests", by=world.BY)
    assert kept.payer_id == stark.pk
    return hold(called, seconds=1, fallback=mine.organization_id)


def _owe() -> None:
    """Oscorp's overdraft."""
    oscorp = world.organization("oscorp")
    wallets.change_terms(
        organization_id=oscorp.pk, terms=Terms(credit_limit_usd=Decimal(1)), reason="tests", by=world.BY
    )
    give(oscorp, "0.5", "scoped", models=(OTHER_MODEL,))
    charge(oscorp, event(event_id="owed", input_tokens=1_000_000, cached_input_tokens=0))
    assert ask(oscorp, "write_off", "0.1").state == "posted"
    give(oscorp, "0.01", "little")
    wallets.freeze(organization_id=oscorp.pk, reason="tests", by=world.BY)
