"""Doors for paying: top-ups, recharging by itself, saved cards, and Stripe's webhooks."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import issued, payments, settlement, topups
from billing.models import Payment, PaymentCard, Recharge, TopUp
from billing.payments import Method, Purpose
from billing.processor import client, customers, inbox
from core import clock, errors, ids, wire
from core.openapi import failures
from metering.serializers import UsdNumber
from ops.idempotency import HEADER
from ops.views import once
from orgs import permissions
from orgs.audit import Actor
from orgs.authentication import principal_of

URL_CHARS_MAX = 2000
IDEMPOTENCY_KEY = OpenApiParameter(
    HEADER, str, OpenApiParameter.HEADER, required=True, description="The same key gets the same top-up"
)


class FailureSerializer(serializers.Serializer[Any]):
    """Why a payment did not go through."""

    code = serializers.CharField()
    message = serializers.CharField()


class TopUpSerializer(serializers.Serializer[Any]):
    """A top-up as it stands. ``requires_action``: the customer has to go to one of the two addresses."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["topup"])
    status = serializers.ChoiceField([state.value for state in TopUp.State])
    amount_usd = UsdNumber()
    tax_usd = UsdNumber()
    total_usd = UsdNumber()
    currency = serializers.ChoiceField(["usd"])
    method = serializers.ChoiceField([method.value for method in Method], allow_null=True)
    checkout_url = serializers.CharField(allow_null=True, help_text="Stripe's page on which it is paid")
    next_action_url = serializers.CharField(allow_null=True, help_text="Where the bank asks to confirm (3-D Secure)")
    failure = FailureSerializer(allow_null=True)
    receipt_id = serializers.CharField(allow_null=True)
    created_at = serializers.IntegerField()
    settled_at = serializers.IntegerField(allow_null=True)


class NewTopUpSerializer(serializers.Serializer[Any]):
    """Credit to be bought."""

    # For the document only: ``read_topup`` reads the body.

    amount_usd = UsdNumber(help_text="From 10 to 5000, in whole cents")
    method = serializers.ChoiceField(
        [method.value for method in Method], required=False, allow_null=True, help_text="card: the saved one"
    )
    payment_method_id = serializers.CharField(
        required=False, allow_null=True, help_text="A saved card other than the default one, card_…"
    )
    success_url = serializers.CharField(required=False, allow_null=True, max_length=URL_CHARS_MAX, help_text="https")
    cancel_url = serializers.CharField(required=False, allow_null=True, max_length=URL_CHARS_MAX, help_text="https")


class RechargeSerializer(serializers.Serializer[Any]):
    """When the wallet asks for a top-up by itself, and how that goes."""

    object = serializers.ChoiceField(["recharge"])
    enabled = serializers.BooleanField()
    threshold_usd = UsdNumber(allow_null=True)
    amount_usd = UsdNumber(allow_null=True)
    monthly_cap_usd = UsdNumber(allow_null=True)
    failures = serializers.IntegerField(help_text="Declines in a row; after the fourth it is switched off")
    paused_until = serializers.IntegerField(allow_null=True)


class NewRechargeSerializer(serializers.Serializer[Any]):
    """When a wallet is to ask for a top-up by itself."""

    # For the document only: ``read_recharge`` reads the body.

    threshold_usd = UsdNumber(help_text="Below it the wallet asks")
    amount_usd = UsdNumber(help_text="From 10 to 5000, in whole cents")
    monthly_cap_usd = UsdNumber(help_text="At most so much in a calendar month")
    enabled = serializers.BooleanField(required=False, allow_null=True)


class CardSerializer(serializers.Serializer[Any]):
    """A saved card, as far as it may be shown."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["payment_method"])
    type = serializers.ChoiceField(["card"])
    brand = serializers.CharField()
    last_four = serializers.CharField()
    exp_month = serializers.IntegerField()
    exp_year = serializers.IntegerField()
    is_default = serializers.BooleanField()
    created_at = serializers.IntegerField()


class CardListSerializer(serializers.Serializer[Any]):
    """All saved cards, newest first."""

    object = serializers.ChoiceField(["list"])
    data = CardSerializer(many=True)  # type: ignore[assignment]


class DeletedCardSerializer(serializers.Serializer[Any]):
    """What is left of a card that was let go."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["payment_method.deleted"])
    deleted = serializers.BooleanField()


class SetupSerializer(serializers.Serializer[Any]):
    """Where a card is saved."""

    object = serializers.ChoiceField(["payment_method_setup"])
    checkout_url = serializers.CharField()


class NewCardSerializer(serializers.Serializer[Any]):
    """The body of ``POST /v1/payment_methods``."""

    success_url = serializers.CharField(required=False, allow_null=True, max_length=URL_CHARS_MAX, help_text="https")
    cancel_url = serializers.CharField(required=False, allow_null=True, max_length=URL_CHARS_MAX, help_text="https")


class ReceivedSerializer(serializers.Serializer[Any]):
    """What Stripe is answered once an event is kept."""

    received = serializers.BooleanField()


class Way(NamedTuple):
    """How somebody wants to pay."""

    method: str
    card: str
    success_url: str
    cancel_url: str


class Wanted(NamedTuple):
    """A top-up that somebody asks for."""

    amount_usd: Decimal
    way: Way


def read_way(body: Mapping[str, Any]) -> Way:
    """How a body wants to pay: on Stripe's page if it does not say. Raises ``InvalidType`` or ``OutOfRange``."""
    method = _text(body, "method") or Method.CHECKOUT.value
    if method not in Method.values:
        raise errors.OutOfRange(f"method is one of {', '.join(Method.values)}.", param="method")
    card = _text(body, "payment_method_id")
    if card and method != Method.CARD:
        raise errors.OutOfRange("payment_method_id goes with the method card.", param="payment_method_id")
    return Way(method, card, _url(body, "success_url"), _url(body, "cancel_url"))


def card_of(organization_id: UUID, way: Way) -> PaymentCard | None:
    """The saved card that pays, if one is to. Raises ``NotFound`` or ``OutOfRange``."""
    if way.method != Method.CARD:
        return None
    if way.card:
        return customers.card(organization_id, way.card, param="payment_method_id")
    card = customers.default_card(organization_id)
    if card is None:
        raise errors.OutOfRange("There is no saved card; save one first, or pay by checkout.", param="method")
    return card


def read_topup(body: Mapping[str, Any]) -> Wanted:
    """The top-up asked for; unknown fields are dropped.

    Raises ``MissingParameter``, ``InvalidType`` or ``OutOfRange`` with the field.
    """
    way = read_way(body)
    amount = _usd(body, "amount_usd")
    topups.check_amount(amount)
    return Wanted(amount, way)


def _usd(body: Mapping[str, Any], field: str) -> Decimal:
    value = body.get(field)
    if value is None:
        raise errors.MissingParameter(f"{field} is required.", param=field)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise errors.InvalidType(f"{field} must be a number.", param=field)
    return Decimal(value)


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise errors.InvalidType(f"{field} must be a string.", param=field)
    return value or ""


def _url(body: Mapping[str, Any], field: str) -> str:
    """Where a browser is sent afterwards: by https, or to this installation itself."""
    text = _text(body, field)
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        own = urlsplit(settings.PUBLIC_URL)
        # Reading the port checks it.
        ours = (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port)
    except ValueError as error:
        raise errors.OutOfRange(f"{field} is no address.", param=field) from error
    plain = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    fits = len(text) <= URL_CHARS_MAX and plain and parts.hostname and "@" not in parts.netloc
    if not fits or not (ours or parts.scheme == "https"):
        raise errors.OutOfRange(f"{field} is an https address of at most {URL_CHARS_MAX} characters.", param=field)
    return text


def _owner(request: Request) -> tuple[UUID, str]:
    """The organization that the caller speaks for, and its slug."""
    principal = principal_of(request)
    assert principal.organization_id is not None
    return principal.organization_id, principal.organization_slug or ""


def _seconds(at: Any) -> int | None:
    return None if at is None else clock.to_unix(at)


def show_topup(row: TopUp, payment: Payment | None) -> dict[str, Any]:
    """A top-up and the payment it waits for, as ``TopUpSerializer`` declares it."""
    waits = row.state == TopUp.State.REQUIRES_ACTION and payment is not None
    failure = None
    if row.state in {TopUp.State.FAILED, TopUp.State.CANCELED}:
        said = payment.failure_message if payment else ""
        failure = {"code": row.failure or "failed", "message": said or "The payment did not go through."}
    return {
        "id": ids.show("topup", row.pk),
        "object": "topup",
        "status": str(row.state),
        "amount_usd": wire.number(row.amount_usd),
        "tax_usd": wire.number(row.tax_usd),
        "total_usd": wire.number(row.amount_usd + row.tax_usd),
        "currency": "usd",
        "method": None if payment is None else str(payment.method),
        "checkout_url": (payment.checkout_url or None) if waits and payment else None,
        "next_action_url": (payment.next_action_url or None) if waits and payment else None,
        "failure": failure,
        "receipt_id": issued.receipt_of(row.pk),
        "created_at": clock.to_unix(row.created_at),
        "settled_at": _seconds(row.settled_at),
    }


def _standing(organization_id: UUID, text: str) -> dict[str, Any]:
    row = topups.find(organization_id, text)
    if row is None:
        raise errors.NotFound("No top-up with that id is open to this key.", param="topup_id")
    return show_topup(row, payments.of_subject(Purpose.TOPUP, row.pk))


def mean_topup(*, organization_id: UUID, wanted: Wanted, by: Actor) -> TopUp:
    """Mean a top-up and its payment, inside the caller's transaction. Raises as ``open_one`` and ``card_of``."""
    way = wanted.way
    card = card_of(organization_id, way)
    row = topups.open_one(organization_id=organization_id, amount_usd=wanted.amount_usd, by=by)
    payments.open_one(
        organization_id=organization_id, purpose=Purpose.TOPUP, subject_id=row.pk,
        amount_usd=row.amount_usd + row.tax_usd, tax_usd=row.tax_usd, method=way.method, card=card,
        success_url=way.success_url, cancel_url=way.cancel_url,
    )  # fmt: skip
    return row


class TopUps(APIView):
    """``POST /v1/topups``."""

    needs = permissions.BILLING_MANAGE

    @extend_schema(
        operation_id="create_topup",
        summary="Buy credit: on Stripe's page, or with a saved card",
        parameters=[IDEMPOTENCY_KEY],
        request=NewTopUpSerializer,
        responses={201: TopUpSerializer, **failures(400, 404, 409, 413, 415, 422, 503)},
    )
    def post(self, request: Request) -> HttpResponse:
        """The top-up as it stands once Stripe was asked; the same key gets the same top-up, as it stands then."""
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        wanted = read_topup(body)
        client.connect()
        organization_id, slug = _owner(request)

        def mean() -> tuple[int, object]:
            made = mean_topup(organization_id=organization_id, wanted=wanted, by=principal_of(request).actor)
            return 201, {"id": ids.show("topup", made.pk)}

        answer = once(request, organization_id=organization_id, organization_slug=slug, work=mean)
        made = json.loads(answer.content)["id"]
        waiting = payments.of_subject(Purpose.TOPUP, ids.read("topup", made))
        if waiting is not None:
            # Committed; whoever comes again finds it begun.
            settlement.ask(waiting.pk)
        answer.content = wire.encode(_standing(organization_id, made))
        return answer


class TopUpById(APIView):
    """``GET /v1/topups/{id}``."""

    needs = permissions.BILLING_MANAGE

    @extend_schema(operation_id="get_topup", responses={200: TopUpSerializer, **failures(404)})
    def get(self, request: Request, topup_id: str) -> Response:
        """How it stands."""
        return Response(_standing(_owner(request)[0], topup_id))


def show_recharge(terms: Recharge | None) -> dict[str, Any]:
    """Terms and state, as ``RechargeSerializer`` declares them; off where none were ever set."""
    return {
        "object": "recharge",
        "enabled": terms is not None and terms.enabled,
        "threshold_usd": None if terms is None else wire.number(terms.threshold_usd),
        "amount_usd": None if terms is None else wire.number(terms.amount_usd),
        "monthly_cap_usd": None if terms is None else wire.number(terms.monthly_cap_usd),
        "failures": 0 if terms is None else terms.failures,
        "paused_until": None if terms is None else _seconds(terms.paused_until),
    }


class WalletRecharge(APIView):
    """``GET`` and ``PUT /v1/wallet/recharge``."""

    needs = permissions.BILLING_MANAGE

    @extend_schema(operation_id="get_recharge", responses={200: RechargeSerializer})
    def get(self, request: Request) -> Response:
        """When the wallet asks for a top-up by itself."""
        return Response(show_recharge(topups.recharge_of(_owner(request)[0])))

    @extend_schema(
        operation_id="set_recharge",
        summary="Have the saved card pay when the wallet falls below a line",
        request=NewRechargeSerializer,
        responses={200: RechargeSerializer, **failures(400, 413, 415, 422, 503)},
    )
    def put(self, request: Request) -> Response:
        """The terms as they are now; declines of before are forgotten."""
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        enabled = body.get("enabled")
        if enabled is not None and not isinstance(enabled, bool):
            raise errors.InvalidType("enabled must be true or false.", param="enabled")
        amounts = {name: _usd(body, name) for name in ("threshold_usd", "amount_usd", "monthly_cap_usd")}
        client.connect()
        organization_id, _ = _owner(request)
        if enabled is not False and customers.default_card(organization_id) is None:
            raise errors.OutOfRange("There is no saved card to pay with; save one first.", param="enabled")
        terms = topups.set_recharge(
            organization_id=organization_id, **amounts, enabled=enabled is not False, by=principal_of(request).actor
        )
        return Response(show_recharge(terms))


def show_card(card: PaymentCard) -> dict[str, Any]:
    """A saved card, as ``CardSerializer`` declares it."""
    return {
        "id": ids.show("card", card.pk),
        "object": "payment_method",
        "type": "card",
        "brand": card.brand,
        "last_four": card.last_four,
        "exp_month": card.expires_month,
        "exp_year": card.expires_year,
        "is_default": card.is_default,
        "created_at": clock.to_unix(card.created_at),
    }


class Cards(APIView):
    """``GET`` and ``POST /v1/payment_methods``."""

    needs = permissions.BILLING_MANAGE

    @extend_schema(operation_id="list_payment_methods", responses={200: CardListSerializer})
    def get(self, request: Request) -> Response:
        """The saved cards."""
        found = customers.cards(_owner(request)[0])
        return Response({"object": "list", "data": [show_card(card) for card in found]})

    @extend_schema(
        operation_id="save_payment_method",
        summary="Open Stripe's page on which a card is saved; nothing is charged",
        request=NewCardSerializer,
        responses={200: SetupSerializer, **failures(400, 413, 415, 422, 503)},
    )
    def post(self, request: Request) -> Response:
        """The page's address."""
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        urls = {name: _url(body, name) for name in ("success_url", "cancel_url")}
        try:
            url = customers.begin_saving(organization_id=_owner(request)[0], **urls)
        except client.Failure as failure:
            raise not_now(failure) from failure
        return Response({"object": "payment_method_setup", "checkout_url": url})


class CardById(APIView):
    """``DELETE /v1/payment_methods/{id}``."""

    needs = permissions.BILLING_MANAGE

    @extend_schema(operation_id="delete_payment_method", responses={200: DeletedCardSerializer, **failures(404, 503)})
    def delete(self, request: Request, payment_method_id: str) -> Response:
        """What is left of the card."""
        card = customers.card(_owner(request)[0], payment_method_id, param="payment_method_id")
        try:
            customers.remove(card=card, by=principal_of(request).actor)
        except client.Failure as failure:
            raise not_now(failure) from failure
        return Response({"id": ids.show("card", card.pk), "object": "payment_method.deleted", "deleted": True})


def not_now(failure: client.Failure) -> errors.Unavailable:
    """What a customer is told when Stripe does not do what is always possible: nothing of the inside."""
    del failure
    return errors.Unavailable("The payment processor did not answer as expected; send it again.")


class StripeWebhook(APIView):
    """``POST /v1/webhooks/stripe``. The signature is the credential."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="stripe_webhook",
        summary="Stripe's events: kept before they are answered, handled afterwards",
        parameters=[OpenApiParameter("Stripe-Signature", str, OpenApiParameter.HEADER, required=True)],
        request=None,
        responses={200: ReceivedSerializer, **failures(400, 413, 503)},
    )
    def post(self, request: Request) -> Response:
        """An event is kept. One that proves nothing is refused without a reason."""
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > inbox.BODY_BYTES_MAX:
            raise errors.RequestTooLarge(f"An event has at most {inbox.BODY_BYTES_MAX} bytes.")
        try:
            inbox.store(request._request.body, request.headers.get("Stripe-Signature"))
        except inbox.Forged as forged:
            raise errors.InvalidRequest from forged
        return Response({"received": True})
