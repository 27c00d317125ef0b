"""The idempotency store, by Stripe's documented rules. Part of the fake Stripe.

The first answer to a key is kept for 24 hours, whatever it was, once the call had begun; a call
refused for its parameters, for another with the same key in progress, or for too many is not kept.
"""

from dataclasses import dataclass

from tests.fakes.stripe.errors import Refusal
from tests.fakes.stripe.state import DAY_SECONDS, Clock

KEEP_SECONDS = DAY_SECONDS
KEY_CHARS_MAX = 255


@dataclass
class Saved:
    """What a key was first used for; ``status`` None while that call is in progress."""

    endpoint: str
    params: str
    request_id: str
    made_at: int
    status: int | None = None
    body: bytes = b""


class Keys:
    """Keys and the answers kept under them; the caller holds the state's lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._saved: dict[str, Saved] = {}

    def begin(self, key: str, *, endpoint: str, params: str, request_id: str) -> Saved | None:
        """Take a key for a call; the kept answer if there is one. Raises ``Refusal`` (400, 409)."""
        if not key:
            raise Refusal(
                400,
                message="This fake refuses every POST without an Idempotency-Key.",
                code="idempotency_key_missing",
            )
        if len(key) > KEY_CHARS_MAX:
            raise Refusal(400, message=f"Idempotency keys have at most {KEY_CHARS_MAX} characters.")
        found = self._saved.get(key)
        if found is not None and self._clock.now() - found.made_at >= KEEP_SECONDS:
            found = None
        if found is None:
            self._saved[key] = Saved(endpoint, params, request_id, self._clock.now())
            return None
        for same, what in ((found.endpoint == endpoint, "endpoint"), (found.params == params, "parameters")):
            if not same:
                raise Refusal(
                    400,
                    kind="idempotency_error",
                    message=f"Keys for idempotent requests can only be used with the same {what} they were first used"
                    f" with. Try using a key other than '{key}' if you meant to execute a different request.",
                )
        if found.status is None:
            raise Refusal(
                409,
                kind="idempotency_error",
                message="There is currently another in-progress request using this Stripe Idempotent Key (that"
                f" probably means you submitted twice, and the other request is still going through): {key}.",
                code="idempotency_key_in_use",
            )
        return found

    def keep(self, key: str, *, status: int, body: bytes) -> None:
        """Keep an answer under its key."""
        saved = self._saved[key]
        saved.status, saved.body = status, body

    def forget(self, key: str) -> None:
        """Free a key whose call did not begin."""
        self._saved.pop(key, None)
