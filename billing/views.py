"""Billing's doors for customers."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import budgets, grants, quotes, statement, wallets
from billing.explain import explain
from billing.models import Transfer
from billing.serializers import (
    BalanceSerializer,
    CallingKeySerializer,
    CreditsSerializer,
    EstimateSerializer,
    ExplanationSerializer,
    ToEstimateSerializer,
    TransactionPageSerializer,
    WalletSerializer,
    show_balance,
    show_credits,
    show_estimate,
    show_explanation,
    show_transaction,
    show_wallet,
    signed,
)
from core import clock, errors, ids, lists, money, wire
from core.http import JsonRenderer
from core.openapi import failures
from metering import usage
from metering.views import PAGING, visible
from orgs import keys, permissions
from orgs.authentication import principal_of
from orgs.principals import Principal

CSV_COLUMNS = ("id", "kind", "amount_usd", "balance_after_usd", "reason", "created_at")
_CSV_CHUNK = 1000


def _own(request: Request) -> wallets.State:
    """The wallet that the caller's requests are charged to."""
    organization_id = principal_of(request).organization_id
    assert organization_id is not None
    return wallets.state(organization_id)


class Wallet(APIView):
    """``GET /v1/wallet``."""

    needs = permissions.WALLET_READ

    @extend_schema(operation_id="get_wallet", responses={200: WalletSerializer})
    def get(self, request: Request) -> Response:
        """Balance, what is held, and whether calls can be paid."""
        state = _own(request)
        credit = grants.left(state.organization_id)
        return Response(show_wallet(state, credit, principal_of(request).organization_slug))


class Transactions(APIView):
    """``GET /v1/wallet/transactions``."""

    needs = permissions.WALLET_READ
    renderer_classes = [JsonRenderer, lists.CsvRenderer]

    @extend_schema(
        operation_id="list_wallet_transactions",
        parameters=PAGING,
        responses={
            (200, "application/json"): TransactionPageSerializer,
            (200, "text/csv"): str,
            **failures(400, 422),
        },
    )
    def get(self, request: Request) -> HttpResponseBase:
        """The statement, newest first; all of it as CSV with ``Accept: text/csv``."""
        organization_id = principal_of(request).organization_id
        assert organization_id is not None
        limit, after = lists.limit(request), lists.after(request)
        whole = lists.wants_csv(request) and "limit" not in request.query_params
        page = statement.page(organization_id, limit=_CSV_CHUNK if whole else limit, after=after)

        def rows() -> Iterator[Transfer]:
            current = page
            yield from current.transfers
            while whole and current.has_more:
                last = ids.show("tr", current.transfers[-1].id)
                current = statement.page(organization_id, limit=_CSV_CHUNK, after=last)
                yield from current.transfers

        if lists.wants_csv(request):
            return lists.csv_answer("transactions", CSV_COLUMNS, (csv_row(transfer) for transfer in rows()))
        shown = [show_transaction(transfer) for transfer in page.transfers]
        return Response(lists.page(shown, has_more=page.has_more))


def csv_row(transfer: Transfer) -> tuple[object, ...]:
    """The cells of ``CSV_COLUMNS``; the time in RFC 3339, UTC."""
    return (
        ids.show("tr", transfer.id), transfer.kind, money.plain(signed(transfer)),
        money.plain(transfer.balance_after_usd), transfer.reason, transfer.created_at.isoformat(),
    )  # fmt: skip


class Credits(APIView):
    """``GET /v1/credits``."""

    needs = permissions.WALLET_READ

    @extend_schema(operation_id="get_credits", responses={200: CreditsSerializer})
    def get(self, request: Request) -> Response:
        """All credit and all usage so far."""
        return Response(show_credits(_own(request)))


class Balance(APIView):
    """``GET /user/balance``."""

    needs = permissions.WALLET_READ

    @extend_schema(operation_id="get_balance", responses={200: BalanceSerializer})
    def get(self, request: Request) -> Response:
        """The balance for display, and whether a call can be made now."""
        state = _own(request)
        credit = grants.left(state.organization_id)
        return Response(show_balance(state, credit, is_available=_can_call(state, principal_of(request))))


def _can_call(state: wallets.State, principal: Principal) -> bool:
    """Whether the caller can be served now: from this wallet, or by fallback from their personal one."""
    if state.can_pay:
        return True
    if state.mode != wallets.Mode.FALLBACK or principal.user_id is None:
        return False
    # A personal key's own organization is its person's.
    personal = keys.find([principal.key_id])[principal.key_id].organization_id
    assert personal is not None
    return wallets.state(personal).can_pay


class Key(APIView):
    """``GET /v1/key``."""

    @extend_schema(operation_id="get_key", responses={200: CallingKeySerializer})
    def get(self, request: Request) -> Response:
        """The calling key and what it used today, this week and this month (UTC)."""
        principal = principal_of(request)
        assert principal.organization_id is not None
        facts = keys.find([principal.key_id])[principal.key_id]
        midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        day, week, month = _starts(midnight)
        spent = usage.spent_by_key(principal.organization_id, principal.key_id, since=(day, week, month))
        tightest = budgets.tightest(principal.organization_id, principal.key_id)
        shown = {
            "label": facts.name,
            "limit": None if tightest is None else wire.number(tightest.ceiling),
            "limit_remaining": None if tightest is None else wire.number(tightest.left),
            "usage": wire.number(spent[month]),
            "usage_daily": wire.number(spent[day]),
            "usage_weekly": wire.number(spent[week]),
            "usage_monthly": wire.number(spent[month]),
            "is_free_tier": False,
            "expires_at": None if facts.expires_at is None else clock.to_unix(facts.expires_at),
        }
        return Response({"data": shown})


class Explain(APIView):
    """``GET /v1/usage/{id}/explain``."""

    needs = permissions.USAGE_READ_OWN

    @extend_schema(operation_id="explain_usage", responses={200: ExplanationSerializer, **failures(404)})
    def get(self, request: Request, record_id: str) -> Response:
        """How this cost came about, derived again from what the record froze."""
        principal = principal_of(request)
        record = usage.find(visible(principal), record_id)
        if record is None:
            raise _absent(record_id)
        found = explain(record)
        # A transfer pays for a whole batch: its amount is for those who may read that wallet's statement.
        if permissions.WALLET_READ not in principal.permissions or record.payer_id != principal.organization_id:
            found = found._replace(transfer=None)
        return Response(show_explanation(found))


def _absent(record_id: str) -> errors.NotFound:
    """Why there is no such record: one answer for a neighbour's and a made-up one of the same month."""
    if usage.is_archived(record_id):
        return errors.Archived("Usage of that time is archived and cannot be explained any more.", param="record_id")
    return errors.NotFound("No usage record with that id is open to this key.", param="record_id")


class Estimate(APIView):
    """``POST /v1/estimate``."""

    kinds = permissions.CUSTOMER | permissions.SERVICE
    needs = permissions.USAGE_READ_OWN

    @extend_schema(
        operation_id="estimate",
        request=ToEstimateSerializer,
        responses={200: EstimateSerializer, **failures(400, 413, 415, 422, 503)},
    )
    def post(self, request: Request) -> Response:
        """What a request would cost the caller's organization, by the code that debits."""
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        asked = quotes.read(body)
        organization_id = principal_of(request).organization_id
        found = quotes.quote(model=asked.model, counts=asked.counts, organization_id=organization_id)
        return Response(show_estimate(asked, found))


def _starts(midnight: datetime) -> tuple[datetime, datetime, datetime]:
    """Starts of the day, the week (Monday) and the month."""
    return midnight, midnight - timedelta(days=midnight.weekday()), midnight.replace(day=1)
