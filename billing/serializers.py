"""How billing's nouns look on the wire. Each ``show_`` function gives what its serializer declares."""

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing.models import Account, Transfer
from billing.wallets import State
from core import clock, ids, money, wire
from metering.serializers import UsdNumber


class WalletSerializer(serializers.Serializer[Any]):
    """``GET /v1/wallet``."""

    object = serializers.ChoiceField(["wallet"])
    organization = serializers.CharField(allow_null=True, help_text="Null for the personal wallet")
    currency = serializers.ChoiceField(["usd"])
    balance_usd = UsdNumber()
    granted_usd = UsdNumber()
    topped_up_usd = UsdNumber()
    held_usd = UsdNumber()
    overdraft_usd = UsdNumber()
    credit_limit_usd = UsdNumber()
    available_usd = UsdNumber()
    status = serializers.ChoiceField(["active", "low", "empty", "frozen"])


class TransactionSerializer(serializers.Serializer[Any]):
    """A line of the statement; ``amount_usd`` is negative where money left the wallet."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["wallet_transaction"])
    kind = serializers.CharField()
    amount_usd = UsdNumber()
    balance_after_usd = UsdNumber()
    reason = serializers.CharField()
    created_at = serializers.IntegerField()


class TransactionPageSerializer(serializers.Serializer[Any]):
    """A page of the statement."""

    object = serializers.ChoiceField(["list"])
    data = TransactionSerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()


class BalanceInfoSerializer(serializers.Serializer[Any]):
    """One currency of ``GET /user/balance``, as text with two decimals."""

    currency = serializers.ChoiceField(["USD"])
    total_balance = serializers.CharField()
    granted_balance = serializers.CharField()
    topped_up_balance = serializers.CharField()


class BalanceSerializer(serializers.Serializer[Any]):
    """``GET /user/balance`` (contract 12.1)."""

    is_available = serializers.BooleanField()
    balance_infos = BalanceInfoSerializer(many=True)


class CreditsInnerSerializer(serializers.Serializer[Any]):
    """All credit ever received, and all usage ever charged."""

    total_credits = UsdNumber()
    total_usage = UsdNumber()


class CreditsSerializer(serializers.Serializer[Any]):
    """``GET /v1/credits``."""

    data = CreditsInnerSerializer()  # type: ignore[assignment]


class KeyInnerSerializer(serializers.Serializer[Any]):
    """The calling key."""

    label = serializers.CharField()  # type: ignore[assignment]
    limit = UsdNumber(allow_null=True)
    limit_remaining = UsdNumber(allow_null=True)
    usage = UsdNumber(help_text="This month, UTC")
    usage_daily = UsdNumber()
    usage_weekly = UsdNumber(help_text="Since Monday")
    usage_monthly = UsdNumber()
    is_free_tier = serializers.BooleanField()
    expires_at = serializers.IntegerField(allow_null=True)


class CallingKeySerializer(serializers.Serializer[Any]):
    """``GET /v1/key``."""

    data = KeyInnerSerializer()  # type: ignore[assignment]


def granted(state: State) -> Decimal:
    """What is left of granted credit. All credit is promotional as long as grants are the only way in."""
    return max(state.balance_usd, money.ZERO)


def show_wallet(state: State, slug: str | None) -> dict[str, Any]:
    """A wallet."""
    return {
        "object": "wallet",
        "organization": slug,
        "currency": "usd",
        "balance_usd": wire.number(state.balance_usd),
        "granted_usd": wire.number(granted(state)),
        "topped_up_usd": wire.number(money.ZERO),
        "held_usd": wire.number(state.held_usd),
        "overdraft_usd": wire.number(state.overdraft_usd),
        "credit_limit_usd": wire.number(state.credit_limit_usd),
        "available_usd": wire.number(state.available_usd),
        "status": state.status,
    }


def signed(transfer: Transfer) -> Decimal:
    """The amount as the wallet sees it."""
    amount = Decimal(transfer.amount_usd)
    return -amount if transfer.debit == Account.WALLET else amount


def show_transaction(transfer: Transfer) -> dict[str, Any]:
    """A line of the statement."""
    return {
        "id": ids.show("tr", transfer.id),
        "object": "wallet_transaction",
        "kind": transfer.kind,
        "amount_usd": wire.number(signed(transfer)),
        "balance_after_usd": wire.number(transfer.balance_after_usd),
        "reason": transfer.reason,
        "created_at": clock.to_unix(transfer.created_at),
    }


def show_balance(state: State) -> dict[str, Any]:
    """A wallet as DeepSeek's clients read it: rounded for display, judged on the exact value."""
    return {
        "is_available": state.available_usd > 0 and state.status not in {"empty", "frozen"},
        "balance_infos": [
            {
                "currency": "USD",
                "total_balance": money.display(state.balance_usd),
                "granted_balance": money.display(granted(state)),
                "topped_up_balance": money.display(money.ZERO),
            }
        ],
    }


def show_credits(state: State) -> dict[str, Any]:
    """A wallet as OpenRouter's clients read it."""
    return {
        "data": {
            "total_credits": wire.number(state.balance_usd + state.spent_usd),
            "total_usage": wire.number(state.spent_usd),
        }
    }
