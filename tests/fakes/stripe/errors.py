"""Errors as Stripe words them. Part of the fake Stripe."""

from typing import Any


class Refusal(Exception):
    """An answer that is not a success: HTTP ``status`` and what stands under ``error`` in the body."""

    def __init__(self, status: int, *, kind: str = "invalid_request_error", message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message} | {k: v for k, v in more.items() if v is not None}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        code = self.error.get("code")
        doc = {"doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"} if code else {}
        return {"error": self.error | doc}


class Invalid(Refusal):
    """Parameters that Stripe refuses before it begins: 400, never saved under an idempotency key."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(400, message=message, param=param, code=code)


def missing(thing: str, id: str, *, param: str = "id") -> Refusal:
    """404: no such object."""
    return Refusal(404, message=f"No such {thing}: '{id}'", code="resource_missing", param=param)


def wrong_state(message: str, *, code: str, **more: Any) -> Refusal:
    """400: the object is not in a state for that; found while executing, so it is saved under the key."""
    return Refusal(400, message=message, code=code, **more)
