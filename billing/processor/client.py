"""Calling Stripe: one pinned version, one place where requests go out, four ways in which they end.

Every POST carries the key that its caller has written down before, so that asking again is asking for the
same; the SDK's own habit of making up a fresh key for each call is out of reach here. An answer is a plain
``dict`` of the object. What is no answer:

* ``Declined``: the bank says no. Nothing was paid.
* ``Refused``: Stripe says no (4xx). By itself it says nothing of an earlier attempt under the same key.
* ``InDoubt``: nobody knows. A timeout, a reset, a 5xx (also a saved one), a 409 or 429, a key that Stripe
  remembers with other parameters: what was asked may have happened.
* ``Off``: there is no key to call Stripe with.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import stripe
from django.conf import settings
from stripe import RequestsClient, StripeClient

from core import clock, errors

# What every payload here was written against (S16). A new version is a change of this line and of the golden
# payloads of the tests.
VERSION = "2026-10-28.endive"
CONNECT_SECONDS = 5
ANSWER_SECONDS = 20
# Stripe forgets keys after 24 hours; nothing is repeated blindly after 23 (S08).
KEY_HOURS = 23
PAGE = 100
# More objects than anything of ours has; a list that goes on is a fault, not a longer wait.
PAGES_MAX = 50

Object = dict[str, Any]


class Off(errors.Unavailable):
    """Payments are switched off here: no ``STRIPE_API_KEY``."""

    code = "payments_off"
    default = "Payments by card are switched off on this installation."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "3600", "x-should-retry": "false"})


class Failure(Exception):
    """What Stripe answered instead of an object: ``code`` is its word, ``about`` the payment it is about, if any."""

    def __init__(self, code: str, message: str, about: Object | None = None) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.message = message
        self.about = about


class Declined(Failure):
    """The card's bank said no."""


class Refused(Failure):
    """Stripe would not do it."""


class InDoubt(Failure):
    """Whether it was done is not known."""


def is_on() -> bool:
    """Whether Stripe can be called at all."""
    return bool(settings.STRIPE_API_KEY)


def is_live() -> bool:
    """Whether the key moves real money."""
    return "_live_" in settings.STRIPE_API_KEY


def connect() -> "Client":
    """The client by the settings. Raises ``Off``."""
    if not is_on():
        raise Off
    return Client(_stripe(settings.STRIPE_API_KEY, settings.STRIPE_API_BASE))


@lru_cache(maxsize=8)
def _stripe(key: str, base: str) -> StripeClient:
    """Connections are kept for each thread by the SDK's own client."""
    stripe.enable_telemetry = False
    return StripeClient(
        key,
        stripe_version=VERSION,
        base_addresses={"api": base},
        # Asking again is for whoever wrote the key down.
        max_network_retries=0,
        http_client=RequestsClient(timeout=(CONNECT_SECONDS, ANSWER_SECONDS)),
    )


class Client:
    """The calls that are made of Stripe, each by its name."""

    def __init__(self, sdk: StripeClient) -> None:
        self._sdk = sdk

    def post(self, path: str, params: Mapping[str, Any], *, key: str) -> Object:
        """Do something at Stripe, once for each ``key``. Raises ``Declined``, ``Refused``, ``InDoubt``."""
        if not key:
            raise ValueError(f"POST {path} without an idempotency key could happen twice")
        return self._send("post", path, {**params, "idempotency_key": key})

    def get(self, path: str, **params: Any) -> Object:
        """An object as it stands. Raises ``Refused`` or ``InDoubt``."""
        return self._send("get", path, params)

    def each(self, path: str, **params: Any) -> Iterator[Object]:
        """All objects of a list, page by page. Raises as ``get``."""
        after: dict[str, Any] = {}
        for _ in range(PAGES_MAX):
            page = self.get(path, limit=PAGE, **params, **after)
            yield from page["data"]
            if not page.get("has_more"):
                return
            after = {"starting_after": page["data"][-1]["id"]}
        raise InDoubt("list_too_long", f"{path} goes on after {PAGES_MAX} pages")

    def _send(self, method: str, path: str, params: Mapping[str, Any]) -> Object:
        try:
            answer = self._sdk.raw_request(method, path, **params)
        except stripe.CardError as error:
            raise _told(Declined, error) from error
        except (stripe.IdempotencyError, stripe.RateLimitError, stripe.APIConnectionError) as error:
            raise _told(InDoubt, error) from error
        except (stripe.InvalidRequestError, stripe.AuthenticationError, stripe.PermissionError) as error:
            raise _told(Refused, error) from error
        except stripe.StripeError as error:
            # 5xx, 409 while another request under the key runs, an answer that is no JSON.
            raise _told(InDoubt, error) from error
        found = json.loads(answer.body)
        if not isinstance(found, dict):
            raise InDoubt("strange_answer", f"{path} answered no object")
        return found

    # Payments.

    def create_session(self, params: Mapping[str, Any], *, key: str) -> Object:
        """Open a Checkout page."""
        return self.post("/v1/checkout/sessions", params, key=key)

    def session(self, session_id: str) -> Object:
        """A Checkout page as it stands."""
        return self.get(f"/v1/checkout/sessions/{session_id}")

    def sessions(self, *, customer: str, since: datetime) -> Iterator[Object]:
        """A customer's Checkout pages opened from an instant on."""
        return self.each("/v1/checkout/sessions", customer=customer, created={"gte": clock.to_unix(since)})

    def expire_session(self, session_id: str, *, key: str) -> Object:
        """Close a Checkout page: nobody can pay on it any more. ``Refused`` if it is not open."""
        return self.post(f"/v1/checkout/sessions/{session_id}/expire", {}, key=key)

    def create_intent(self, params: Mapping[str, Any], *, key: str) -> Object:
        """Charge a saved card."""
        return self.post("/v1/payment_intents", params, key=key)

    def intent(self, intent_id: str) -> Object:
        """A PaymentIntent as it stands, with its charge and what Stripe kept of it."""
        return self.get(f"/v1/payment_intents/{intent_id}", expand=["latest_charge.balance_transaction"])

    def intents(self, *, customer: str, since: datetime) -> Iterator[Object]:
        """A customer's PaymentIntents made from an instant on."""
        return self.each("/v1/payment_intents", customer=customer, created={"gte": clock.to_unix(since)})

    def cancel_intent(self, intent_id: str, *, key: str) -> Object:
        """Give a PaymentIntent up: nothing can be charged for it any more. ``Refused`` if it is at its end."""
        return self.post(f"/v1/payment_intents/{intent_id}/cancel", {}, key=key)

    # What goes back.

    def create_refund(self, params: Mapping[str, Any], *, key: str) -> Object:
        """Send money back to the card."""
        return self.post("/v1/refunds", params, key=key)

    def refunds(self, *, intent: str) -> list[Object]:
        """Every refund of a payment."""
        return list(self.each("/v1/refunds", payment_intent=intent))

    def disputes(self, *, intent: str) -> list[Object]:
        """Every dispute about a payment."""
        return list(self.each("/v1/disputes", payment_intent=intent))

    def object(self, kind: str, object_id: str) -> Object:
        """A ``refund``, ``dispute`` or ``charge`` as it stands."""
        return self.get(f"/v1/{kind}s/{object_id}")

    # Customers.

    def create_customer(self, params: Mapping[str, Any], *, key: str) -> Object:
        """Make an organization known."""
        return self.post("/v1/customers", params, key=key)

    def customer(self, customer_id: str) -> Object:
        """A customer as it stands; one that was deleted says so (``deleted``)."""
        return self.get(f"/v1/customers/{customer_id}")

    def cards(self, *, customer: str) -> list[Object]:
        """Every card that a customer saved."""
        return list(self.each("/v1/payment_methods", customer=customer, type="card"))

    def detach(self, card_id: str, *, key: str) -> Object:
        """Let a customer's card go."""
        return self.post(f"/v1/payment_methods/{card_id}/detach", {}, key=key)


def _told(kind: type[Failure], error: stripe.StripeError) -> Failure:
    """A failure with what Stripe said of it."""
    body = error.json_body if isinstance(error.json_body, dict) else {}
    said = body.get("error") if isinstance(body.get("error"), dict) else {}
    assert isinstance(said, dict)
    # A declined card has two words: the bank's own says more.
    code = str(said.get("decline_code") or said.get("code") or said.get("type") or type(error).__name__)
    if said.get("code") == "authentication_required":
        code = "authentication_required"
    about = said.get("payment_intent")
    message = str(said.get("message") or "Stripe did not answer.")
    return kind(code, message, about if isinstance(about, dict) else None)
