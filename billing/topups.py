"""Top-ups: what a wallet is to be paid, meant first and settled once.

The row commits before anybody is asked for money, and its id is the cause of the credit, so a
crash, a repeat or a late answer changes nothing. A wallet that falls below its line asks by itself:
any number of workers may look at once, and a partial unique index lets one of them through.
The money itself is asked for by ``billing.payments``. The only module that writes ``TopUp``, ``Recharge``
and ``TopUpLimit``.
"""

import logging
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Sum

from billing import grants, ledger, taxes
from billing.ledger import Locked, Move
from billing.models import Account, Dispute, Grant, Recharge, TopUp, TopUpLimit, TransferKind
from core import errors, ids, money
from core.transactions import retry
from metering.usage import started_at
from ops import outbox
from orgs import audit
from orgs.audit import Actor
from orgs.models import Organization

log = logging.getLogger(__name__)

State = TopUp.State
OPEN = (State.PENDING, State.PROCESSING, State.REQUIRES_ACTION)

# Contract 15: what customers may buy at once.
USD_MIN = Decimal(10)
USD_MAX = Decimal(5000)
# What they may buy within a day, where finance has set nothing else.
DAILY_USD_MAX = Decimal(10_000)
DAY = timedelta(days=1)
# Cards are charged whole cents.
CENT = Decimal("0.01")
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
            SELECT FROM topup t WHERE t.organization_id = r.organization_id
                AND t.state IN ('pending', 'processing', 'requires_action')
        )
    ORDER BY r.organization_id
"""


class TopUpOpen(errors.Conflict):
    """A wallet has one top-up open at most."""

    code = "topup_open"
    default = "Another top-up of this organization is still open."


class Limits(NamedTuple):
    """How much an organization may buy at once, and within 24 hours."""

    topup_usd: Decimal
    daily_usd: Decimal


def limits(organization_id: UUID) -> Limits:
    """An organization's limits: finance's, else everybody's."""
    row = TopUpLimit.objects.filter(pk=organization_id).first()
    return Limits(USD_MAX, DAILY_USD_MAX) if row is None else Limits(row.topup_usd, row.daily_usd)


def set_limits(*, organization_id: UUID, topup_usd: Decimal, daily_usd: Decimal, reason: str, by: Actor) -> TopUpLimit:
    """Set how much an organization may buy; zero stops it. Raises ``OutOfRange`` naming the amount that cannot be."""
    for name, amount in (("topup_usd", topup_usd), ("daily_usd", daily_usd)):
        if not money.holds(amount):
            raise errors.OutOfRange(f"{name} is zero or more, with at most 12 decimals.", param=name)
    if topup_usd > USD_MAX:
        raise errors.OutOfRange(f"topup_usd is at most {money.plain(USD_MAX)}.", param="topup_usd")
    with transaction.atomic():
        before = TopUpLimit.objects.select_for_update(no_key=True).filter(organization_id=organization_id).first()
        made, _ = TopUpLimit.objects.update_or_create(
            organization_id=organization_id, defaults={"topup_usd": topup_usd, "daily_usd": daily_usd}
        )
        details = {
            "before": None if before is None else [money.plain(before.topup_usd), money.plain(before.daily_usd)],
            "topup_usd": money.plain(topup_usd), "daily_usd": money.plain(daily_usd), "reason": reason,
        }  # fmt: skip
        owner = made.organization
        audit.note(actor=by, verb="topup_limit.set", subject=owner, organization=owner, details=details)
    return made


def open_one(*, organization_id: UUID, amount_usd: Decimal, by: Actor) -> TopUp:
    """Mean a top-up that somebody asks for, inside the caller's transaction.

    Raises ``OutOfRange`` for an amount that cannot be bought at once or today, ``TopUpOpen`` while another is open.
    """
    check_amount(amount_usd)
    wallet = ledger.lock([organization_id])[organization_id]
    allowed = limits(organization_id)
    if amount_usd > allowed.topup_usd:
        raise errors.OutOfRange(
            f"amount_usd is at most {money.plain(allowed.topup_usd)} for this organization.", param="amount_usd"
        )
    left = allowed.daily_usd - _today(organization_id, wallet.now)
    if amount_usd > left:
        said = f"amount_usd is at most {money.plain(max(left, money.ZERO))} more within these 24 hours."
        raise errors.OutOfRange(said, param="amount_usd")
    made = _open(organization_id, amount_usd, automatic=False)
    if made is None:
        waiting = TopUp.objects.filter(organization_id=organization_id, state__in=OPEN).first()
        named = f" It is {waiting}." if waiting else ""
        raise TopUpOpen(f"{TopUpOpen.default}{named}")
    row = TopUp.objects.select_related("organization").get(pk=made)
    details = {"amount_usd": money.plain(amount_usd), "tax_usd": money.plain(row.tax_usd)}
    audit.note(actor=by, verb="topup.asked", subject=row, organization=row.organization, details=details)
    return row


def find(organization_id: UUID, text: str) -> TopUp | None:
    """A top-up of an organization by the id that customers see."""
    try:
        return TopUp.objects.filter(organization_id=organization_id, pk=ids.read("topup", text)).first()
    except ValueError:
        return None


def recharge_of(organization_id: UUID) -> Recharge | None:
    """When a wallet asks for a top-up by itself, if that was ever set."""
    return Recharge.objects.filter(pk=organization_id).first()


def unpaid() -> list[UUID]:
    """Top-ups that wallets asked for and nobody has asked money for yet, oldest first."""
    rows = TopUp.objects.filter(automatic=True, state=State.PENDING).order_by("pk")
    return list(rows.values_list("pk", flat=True))


def _tax(organization_id: UUID, amount_usd: Decimal) -> Decimal:
    """The tax that is due on top of a purchase, in whole cents. Raises ``RateMissing``."""
    return taxes.on(organization_id=organization_id, amount_usd=amount_usd).amount_usd


def _today(organization_id: UUID, now: datetime) -> Decimal:
    """What an organization bought or is buying, of the last 24 hours."""
    rows = TopUp.objects.filter(organization_id=organization_id, created_at__gt=now - DAY)
    rows = rows.exclude(state__in=(State.FAILED, State.CANCELED))
    return Decimal(rows.aggregate(sum=Sum("amount_usd"))["sum"] or 0)


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


def stop_recharge(*, organization_id: UUID, by: Actor) -> None:
    """Let a wallet ask for no more top-ups by itself, inside the caller's transaction; its terms stay."""
    if Recharge.objects.filter(pk=organization_id, enabled=True).update(enabled=False):
        owner = Organization.objects.get(pk=organization_id)
        audit.note(actor=by, verb="recharge.set", subject=owner, organization=owner, details={"enabled": False})


def check_amount(amount_usd: Decimal) -> None:
    """Raise ``OutOfRange`` unless customers may buy that much at once."""
    if not money.holds(amount_usd) or not USD_MIN <= amount_usd <= USD_MAX or amount_usd % CENT:
        raise errors.OutOfRange(
            f"amount_usd is from {money.plain(USD_MIN)} to {money.plain(USD_MAX)}, in whole cents.", param="amount_usd"
        )


def open_due() -> list[UUID]:
    """Open a top-up for wallets below their line that have none; their ids. Many workers may run it."""
    with connection.cursor() as cursor:
        cursor.execute(_LOW)
        low = [row[0] for row in cursor.fetchall()]
    opened = []
    for organization_id in low:
        try:
            made = retry(lambda owner=organization_id: open_recharge(owner))  # type: ignore[misc]
        except taxes.RateMissing as missing:
            # One organization that cannot be sold to now keeps none of the others waiting.
            log.warning("organization %s cannot buy by itself: %s", organization_id, missing)
            continue
        if made is not None:
            opened.append(made)
    return opened


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
    owner = terms.organization_id
    # What a dispute freezes must not be bought anew with the card that disputes it.
    if Dispute.objects.filter(organization_id=owner, state=Dispute.State.OPEN).exists():
        return None
    allowed = limits(owner)
    month = Decimal(terms.monthly_cap_usd) - _bought(terms.organization, wallet.now)
    left = min(USD_MAX, allowed.topup_usd, allowed.daily_usd - _today(owner, wallet.now), month)
    wanted = max(Decimal(terms.amount_usd), gap).quantize(CENT, ROUND_CEILING)
    amount = min(wanted, left.quantize(CENT, ROUND_FLOOR))
    return amount if amount >= USD_MIN else None


def _bought(organization: Organization, now: datetime) -> Decimal:
    """What was bought for a wallet this month, by itself or by somebody."""
    month = now.astimezone(ZoneInfo(organization.time_zone)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = TopUp.objects.filter(organization=organization, created_at__gte=month)
    rows = rows.exclude(state__in=(State.FAILED, State.CANCELED))
    return Decimal(rows.aggregate(sum=Sum("amount_usd"))["sum"] or 0)


def _open(organization_id: UUID, amount_usd: Decimal, *, automatic: bool = True) -> UUID | None:
    """Write an open top-up; ``None`` while another one is open."""
    tax = _tax(organization_id, amount_usd)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO topup (id, organization_id, amount_usd, tax_usd, automatic, state, failure, created_at)"
            " VALUES (%s, %s, %s, %s, %s, 'pending', '', clock_timestamp()) ON CONFLICT DO NOTHING RETURNING id",
            [ids.new(), organization_id, amount_usd, tax, automatic],
        )
        made = cursor.fetchone()
    return None if made is None else made[0]


def begin(*, topup_id: UUID) -> bool:
    """Take a pending top-up on, before asking for the money; whether it was still to be had."""
    taken = TopUp.objects.filter(pk=topup_id, state=State.PENDING).update(state=State.PROCESSING)
    return bool(taken)


def go_on(*, topup_id: UUID, state: str) -> None:
    """Note how far the payment of a top-up is, while it is open; inside the caller's transaction."""
    TopUp.objects.filter(pk=topup_id, state__in=OPEN).update(state=state)


def succeed(*, topup_id: UUID) -> None:
    """The money has come: it becomes credit, once, whatever was said of it before."""

    @transaction.atomic
    def settle() -> None:
        settle_success(topup_id)

    retry(settle)


def settle_success(topup_id: UUID) -> None:
    """As ``succeed``, inside the caller's transaction; the tax that came along goes to its account."""
    row = TopUp.objects.get(pk=topup_id)
    wallet = ledger.lock([row.organization_id])[row.organization_id]
    # The wallet's lock is what settling waits for, and a payment that went through after all is one.
    news = (
        TopUp.objects.filter(pk=topup_id)
        .exclude(state=State.SUCCEEDED)
        .update(state=State.SUCCEEDED, failure="", settled_at=wallet.now)
    )
    Recharge.objects.filter(pk=row.organization_id).update(failures=0, paused_until=wallet.now + COOL_DOWN)
    grants.give(
        organization_id=row.organization_id, kind=Grant.Kind.PURCHASED, amount_usd=Decimal(row.amount_usd),
        reference=reference_of(topup_id), actor="recharge" if row.automatic else "customer", reason="top-up",
    )  # fmt: skip
    if row.tax_usd:
        tax = Move(
            row.organization_id, TransferKind.TAX, Account.STRIPE_CLEARING, Account.TAXES, Decimal(row.tax_usd),
            reference_of(topup_id), reason="tax on a top-up",
        )  # fmt: skip
        ledger.post([tax], at=started_at())
    if news:
        _tell(row, "topup.succeeded")


def decline(*, topup_id: UUID, failure: str) -> None:
    """The money will not come. A wallet that asked by itself rests, longer each time, and stops after the fourth."""

    @transaction.atomic
    def settle() -> None:
        settle_failure(topup_id, state=State.FAILED, failure=failure)

    retry(settle)


def settle_failure(topup_id: UUID, *, state: str, failure: str) -> None:
    """As ``decline``, inside the caller's transaction; ``state`` says whether it failed or was given up."""
    row = TopUp.objects.get(pk=topup_id)
    wallet = ledger.lock([row.organization_id])[row.organization_id]
    settled = TopUp.objects.filter(pk=topup_id, state__in=OPEN).update(
        state=state, failure=failure, settled_at=wallet.now
    )
    if settled and row.automatic:
        _rest(row.organization_id, wallet.now, failure)
    if settled:
        _tell(row, "topup.failed", failure=failure)


def _tell(row: TopUp, kind: str, **more: str) -> None:
    """Leave word of how a top-up ended."""
    data = {
        "topup_id": ids.show("topup", row.pk), "amount_usd": money.plain(row.amount_usd),
        "tax_usd": money.plain(row.tax_usd), "automatic": row.automatic, **more,
    }  # fmt: skip
    outbox.post(kind=kind, organization_id=row.organization_id, key=str(row.pk), data=data)


def _rest(organization_id: UUID, now: datetime, failure: str) -> None:
    """Count a decline. What somebody has switched off meanwhile stays off."""
    # Locked: terms that are set at the same time must not be written over by what was read before.
    terms = Recharge.objects.select_for_update(no_key=True).filter(pk=organization_id).first()
    if terms is None:
        return
    terms.failures += 1
    terms.paused_until = now + REST * 2 ** (terms.failures - 1)
    stopped = terms.enabled and terms.failures >= FAILURES_MAX
    terms.enabled = terms.enabled and not stopped
    terms.save(update_fields=["failures", "paused_until", "enabled"])
    if stopped:
        outbox.post(
            kind="recharge.stopped", organization_id=organization_id, key=f"{organization_id}:{now.isoformat()}",
            data={"failure": failure, "failures": terms.failures},
        )  # fmt: skip


def reference_of(topup_id: UUID) -> str:
    """What the grant of a top-up names as its cause."""
    return f"topup:{topup_id}"
