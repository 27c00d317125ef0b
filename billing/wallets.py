"""Wallets: what an organization has, what gateways are told about it, and the terms people set."""

from collections.abc import Collection
from decimal import Decimal
from typing import NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from django.conf import settings
from django.db import transaction

from billing import books, distribution, ledger
from billing.ledger import Terms
from billing.models import Wallet
from core import errors, ids, money
from core.bulk import Statement, array, at_once
from ops import approvals
from orgs import audit
from orgs.audit import Actor
from orgs.models import AuditEntry, Organization

APPROVAL = "credit_limit"
Mode = Wallet.Mode


class State(NamedTuple):
    """A wallet as shown. ``balance_usd`` = posted − overdraft; available adds the credit limit, less holds.

    Below ``low_usd`` its organization is warned.
    """

    organization_id: UUID
    balance_usd: Decimal
    held_usd: Decimal
    overdraft_usd: Decimal
    spent_usd: Decimal
    credit_limit_usd: Decimal
    available_usd: Decimal
    status: str
    mode: str
    enforcement: str
    low_usd: Decimal

    @property
    def can_pay(self) -> bool:
        """Whether anything can be paid from it now."""
        return self.available_usd > 0 and self.status not in {"empty", "frozen"}


def states(organization_ids: Collection[UUID]) -> dict[UUID, State]:
    """Wallets of these organizations; one never touched stands at zero. One query."""
    asked = Statement(f"SELECT {_SHOWN} WHERE organization_id = ANY(%s::uuid[])", [array(organization_ids)])
    found = {row[0]: _state(*row) for row in at_once([asked])[0]} if organization_ids else {}
    return {
        organization_id: found.get(organization_id) or _untouched(organization_id)
        for organization_id in organization_ids
    }


def state(organization_id: UUID) -> State:
    """One organization's wallet."""
    return states([organization_id])[organization_id]


_SHOWN = (
    "organization_id, posted_usd, overdraft_usd, held_usd, spent_usd, credit_limit_usd, low_usd,"
    " frozen_at IS NOT NULL, mode, enforcement FROM wallet"
)


def _untouched(organization_id: UUID) -> State:
    """The wallet of an organization that has no row yet."""
    fresh = Wallet(organization_id=organization_id)
    none, low = money.ZERO, Decimal(fresh.low_usd)
    return _state(organization_id, none, none, none, none, none, low, False, fresh.mode, fresh.enforcement)


def _state(
    organization_id: UUID, posted: Decimal, overdraft: Decimal, held: Decimal, spent: Decimal, limit: Decimal,
    low: Decimal, frozen: bool, mode: str, enforcement: str,
) -> State:  # fmt: skip
    """A wallet from the columns of ``_SHOWN``."""
    balance = posted - overdraft
    status = books.status(balance=balance, overdraft=overdraft, credit_limit=limit, low=low, frozen=frozen)
    available = max(balance + limit - held, money.ZERO)
    return State(organization_id, balance, held, overdraft, spent, limit, available, status, mode, enforcement, low)


def falling_back(organization_ids: Collection[UUID]) -> set[UUID]:
    """Which of these let the caller's personal wallet pay when theirs is empty."""
    found = Wallet.objects.filter(pk__in=list(organization_ids), mode=Wallet.Mode.FALLBACK)
    return set(found.values_list("pk", flat=True))


def change_terms(*, organization_id: UUID, terms: Terms, reason: str, by: Actor) -> None:
    """Change what people set about a wallet: mode, enforcement, credit limit, the low mark.

    Calls that start afterwards go by it. Raises ``OutOfRange`` for an amount below zero, and on a
    cluster for fallback mode, which takes the locks of two organizations at once. A person who raises the credit
    limit by more than ``MONEY_APPROVAL_USD`` needs a second one: ``ApprovalNeeded``, ``Refused``.
    """
    if terms.mode == Mode.FALLBACK and distribution.is_spread():
        raise errors.OutOfRange("A wallet on a cluster of databases is strict.", param="mode")
    for name, amount in (("credit_limit_usd", terms.credit_limit_usd), ("low_usd", terms.low_usd)):
        if amount is not None and not money.holds(amount):
            raise errors.OutOfRange(f"{name} is zero or more, with at most 12 decimals.", param=name)
    if by.kind == "user" and terms.credit_limit_usd is not None:
        _need_second(organization_id, terms.credit_limit_usd, reason=reason, by=by)
    _change(organization_id, terms, verb="wallet.changed", reason=reason, by=by)


def _need_second(organization_id: UUID, limit_usd: Decimal, *, reason: str, by: Actor) -> None:
    """Raise unless a second person agreed to let usage go so much further below zero."""
    before = state(organization_id).credit_limit_usd
    if limit_usd - before <= settings.MONEY_APPROVAL_USD:
        return
    of = Organization.objects.get(pk=organization_id)
    # One yes is good for one change: after the next one the same question is another.
    changes = AuditEntry.objects.filter(subject_id=ids.show("org", of.pk), verb="wallet.changed").count()
    told = {"organization": of.slug, "before_usd": money.plain(before), "after_usd": money.plain(limit_usd)}
    subject = uuid5(NAMESPACE_OID, f"{APPROVAL}:{of.pk}:{told['before_usd']}:{told['after_usd']}:{changes}")
    approvals.need(kind=APPROVAL, subject_id=subject, by=by, details={**told, "reason": reason})


def freeze(*, organization_id: UUID, reason: str, by: Actor) -> None:
    """Refuse every hold until ``unfreeze``; usage that happens all the same is still charged."""
    _change(organization_id, Terms(frozen=True), verb="wallet.frozen", reason=reason, by=by)


def unfreeze(*, organization_id: UUID, reason: str, by: Actor) -> None:
    """Let holds pass again."""
    _change(organization_id, Terms(frozen=False), verb="wallet.unfrozen", reason=reason, by=by)


@transaction.atomic
def _change(organization_id: UUID, terms: Terms, *, verb: str, reason: str, by: Actor) -> None:
    before, after = ledger.set_terms(organization_id, terms)
    if before == after:
        return
    changed = {
        name: {"before": _told(getattr(before, name)), "after": _told(getattr(after, name))}
        for name in ("mode", "enforcement", "credit_limit", "low", "frozen")
        if getattr(before, name) != getattr(after, name)
    }
    wallet = Wallet.objects.select_related("organization").get(pk=organization_id)
    audit.note(
        actor=by, verb=verb, subject=wallet.organization, organization=wallet.organization,
        details={"reason": reason, **changed},
    )  # fmt: skip


def _told(value: object) -> str:
    return money.plain(value) if isinstance(value, Decimal) else str(value)
