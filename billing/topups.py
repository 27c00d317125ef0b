"""Top-ups: what a wallet is to be paid, meant first and settled once.

The row commits before anybody is asked for money, and its id is the cause of the credit, so a
crash, a repeat or a late answer changes nothing. A wallet that falls below its line asks by itself:
any number of workers may look at once, and a partial unique index lets one of them through.
The only module that writes ``TopUp`` and ``Recharge``.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Sum

from billing import grants, ledger
from billing.ledger import Locked
from billing.models import Grant, Recharge, TopUp
from core import errors, ids, money
from core.transactions import retry
from ops import outbox
from orgs import audit
from orgs.audit import Actor
from orgs.models import Organization

State = TopUp.State

# Contract 15: what customers may buy at once.
USD_MIN = Decimal(10)
USD_MAX = Decimal(5000)
# After a decline a card rests for an hour, then for twice as long each time; then somebody must look at it.
REST = timedelta(hours=1)
FAILURES_MAX = 4
# A payment that has just gone through is spent before the next one: a price gone wrong costs so many a day at most.
COOL_DOWN = timedelta(minutes=5)

_LOW = """
    SELECT r.organization_id FROM recharge r LEFT JOIN wallet w USING (organization_id)
    WHERE r.enabled AND w.frozen_at IS NULL AND (r.paused_until IS NULL OR r.paused_until <= clock_timestamp())
        AND coalesce(w.posted_usd - w.overdraft_usd, 0) < r.threshold_usd
        AND NOT EXISTS (
            SELECT FROM topup t WHERE t.organization_id = r.organization_id AND t.state IN ('pending', 'processing')
        )
    ORDER BY r.organization_id
"""


def set_recharge(
    *,
    organization_id: UUID,
    threshold_usd: Decimal,
    amount_usd: Decimal,
    monthly_cap_usd: Decimal,
    enabled: bool = True,
    by: Actor,
) -> Recharge:
    """Set when a wallet asks for a top-up by itself; declines of before are forgotten.

    Raises ``OutOfRange`` naming the amount that cannot be.
    """
    if not money.holds(threshold_usd):
        raise errors.OutOfRange("threshold_usd is zero or more, with at most 12 decimals.", param="threshold_usd")
    check_amount(amount_usd)
    if not money.holds(monthly_cap_usd) or monthly_cap_usd < amount_usd:
        raise errors.OutOfRange("monthly_cap_usd is at least one top-up.", param="monthly_cap_usd")
    with transaction.atomic():
        made, _ = Recharge.objects.update_or_create(
            organization_id=organization_id,
            defaults={
                "threshold_usd": threshold_usd, "amount_usd": amount_usd, "monthly_cap_usd": monthly_cap_usd,
                "enabled": enabled, "failures": 0, "paused_until": None,
            },
        )  # fmt: skip
        details = {
            "threshold_usd": money.plain(threshold_usd), "amount_usd": money.plain(amount_usd),
            "monthly_cap_usd": money.plain(monthly_cap_usd), "enabled": enabled,
        }  # fmt: skip
        owner = made.organization
        audit.note(actor=by, verb="recharge.set", subject=owner, organization=owner, details=details)
    return made


def check_amount(amount_usd: Decimal) -> None:
    """Raise ``OutOfRange`` unless customers may buy that much at once."""
    if not money.holds(amount_usd) or not USD_MIN <= amount_usd <= USD_MAX:
        raise errors.OutOfRange(
            f"amount_usd is from {money.plain(USD_MIN)} to {money.plain(USD_MAX)}.", param="amount_usd"
        )


def open_due() -> list[UUID]:
    """Open a top-up for wallets below their line that have none; their ids. Many workers may run it."""
    with connection.cursor() as cursor:
        cursor.execute(_LOW)
        low = [row[0] for row in cursor.fetchall()]
    tried = [retry(lambda owner=organization_id: open_recharge(owner)) for organization_id in low]  # type: ignore[misc]
    return [made for made in tried if made is not None]


@transaction.atomic(durable=True)
def open_recharge(organization_id: UUID) -> UUID | None:
    """Open the top-up that a wallet needs now, if its terms allow one; its id."""
    # What was paid meanwhile is seen: the wallet is looked at again under its lock.
    wallet = ledger.lock([organization_id])[organization_id]
    terms = Recharge.objects.select_related("organization").get(pk=organization_id)
    amount = _needed(wallet, terms)
    if amount is None:
        return None
    return _open(organization_id, amount)


def _needed(wallet: Locked, terms: Recharge) -> Decimal | None:
    """How much a wallet asks for now. The whole gap at once, or the next look would find it low again."""
    gap = Decimal(terms.threshold_usd) - wallet.standing.balance
    resting = terms.paused_until is not None and terms.paused_until > wallet.now
    if not terms.enabled or resting or wallet.frozen or gap <= 0:
        return None
    left = Decimal(terms.monthly_cap_usd) - _bought(terms.organization, wallet.now)
    amount = min(max(Decimal(terms.amount_usd), gap), USD_MAX, left)
    return amount if amount >= USD_MIN else None


def _bought(organization: Organization, now: datetime) -> Decimal:
    """What a wallet bought by itself this month."""
    month = now.astimezone(ZoneInfo(organization.time_zone)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = TopUp.objects.filter(organization=organization, created_at__gte=month)
    return Decimal(rows.exclude(state=State.FAILED).aggregate(sum=Sum("amount_usd"))["sum"] or 0)


def _open(organization_id: UUID, amount_usd: Decimal) -> UUID | None:
    """Write an open top-up; ``None`` while another one is open."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO topup (id, organization_id, amount_usd, state, failure, created_at)"
            " VALUES (%s, %s, %s, 'pending', '', clock_timestamp()) ON CONFLICT DO NOTHING RETURNING id",
            [ids.new(), organization_id, amount_usd],
        )
        made = cursor.fetchone()
    return None if made is None else made[0]


def begin(*, topup_id: UUID) -> bool:
    """Take a pending top-up on, before asking for the money; whether it was still to be had."""
    taken = TopUp.objects.filter(pk=topup_id, state=State.PENDING).update(state=State.PROCESSING)
    return bool(taken)


def succeed(*, topup_id: UUID) -> None:
    """The money has come: it becomes credit, once, whatever was said of it before."""

    @transaction.atomic
    def settle() -> None:
        row = TopUp.objects.get(pk=topup_id)
        wallet = ledger.lock([row.organization_id])[row.organization_id]
        # The wallet's lock is what settling waits for, and a payment that went through after all is one.
        TopUp.objects.filter(pk=topup_id).exclude(state=State.SUCCEEDED).update(
            state=State.SUCCEEDED, failure="", settled_at=wallet.now
        )
        Recharge.objects.filter(pk=row.organization_id).update(failures=0, paused_until=wallet.now + COOL_DOWN)
        grants.give(
            organization_id=row.organization_id, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(row.amount_usd),
            reference=reference_of(topup_id), actor="recharge", reason="top-up",
        )  # fmt: skip

    retry(settle)


def decline(*, topup_id: UUID, failure: str) -> None:
    """The money will not come. A wallet that asked by itself rests, longer each time, and stops after the fourth."""

    @transaction.atomic
    def settle() -> None:
        row = TopUp.objects.get(pk=topup_id)
        wallet = ledger.lock([row.organization_id])[row.organization_id]
        settled = TopUp.objects.filter(pk=topup_id, state__in=(State.PENDING, State.PROCESSING)).update(
            state=State.FAILED, failure=failure, settled_at=wallet.now
        )
        if settled:
            _rest(row.organization_id, wallet.now, failure)

    retry(settle)


def _rest(organization_id: UUID, now: datetime, failure: str) -> None:
    """Count a decline."""
    terms = Recharge.objects.get(pk=organization_id)
    terms.failures += 1
    terms.paused_until = now + REST * 2 ** (terms.failures - 1)
    terms.enabled = terms.failures < FAILURES_MAX
    terms.save(update_fields=["failures", "paused_until", "enabled"])
    if not terms.enabled:
        outbox.post(
            kind="recharge.stopped", organization_id=organization_id, key=f"{organization_id}:{now.isoformat()}",
            data={"failure": failure, "failures": terms.failures},
        )  # fmt: skip


def reference_of(topup_id: UUID) -> str:
    """What the grant of a top-up names as its cause."""
    return f"topup:{topup_id}"
