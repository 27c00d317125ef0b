"""What the fake Stripe knows: its objects, its clock, its events. Part of the fake Stripe.

One lock for everything: whoever reads or changes objects holds ``State.lock``.
"""

import copy
import pickle
import random
import string
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import stripe

from tests.fakes.stripe import shapes
from tests.fakes.stripe.errors import Invalid, missing
from tests.fakes.stripe.shapes import Json

API_VERSION: str = stripe.api_version
DAY_SECONDS = 86_400
# Stripe shows events for so long.
EVENTS_SECONDS = 30 * DAY_SECONDS
PAGE_DEFAULT = 10
PAGE_MAX = 100

NAMES = {
    "cus": "customer",
    "pm": "PaymentMethod",
    "pi": "payment_intent",
    "seti": "setupintent",
    "ch": "charge",
    "re": "refund",
    "du": "dispute",
    "txn": "balance transaction",
    "cs": "checkout.session",
    "evt": "event",
    "po": "payout",
}


class Clock:
    """The fake's time: the machine's, moved ahead by as much as a test says."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> int:
        """Whole Unix seconds."""
        return int(time.time() + self._ahead)

    def catch_up(self, other: "Clock") -> None:
        """Be as far ahead as another."""
        self._ahead = other._ahead

    def move(self, by: timedelta) -> None:
        """Let that much time pass."""
        self._ahead += by.total_seconds()


class State:
    """Objects by id in the order they were made, and the events about them.

    ``on_event`` is called with each new event, under the lock.
    """

    def __init__(self, *, livemode: bool = False, seed: int | None = None, account: str = "acct_fake") -> None:
        self.lock = threading.RLock()
        self.livemode = livemode
        self.account = account
        self.clock = Clock()
        self.objects: dict[str, Json] = {}
        self.on_event: Callable[[Json], None] = lambda event: None
        # Whether new refunds wait for ``money.settle_refund``, as with some banks.
        self.refunds_wait = False
        # Whether charges wait for ``money.settle_charges`` until Stripe says what it kept of them, as it may.
        self.balance_waits = False
        # What a page needs to know of an object and Stripe does not show: the card of a method, say.
        self.aside: dict[str, Any] = {}
        self.base_url = ""
        # The request that is being answered, for the events it makes.
        self.request: Json = {"id": None, "idempotency_key": None}
        self._random = random.Random(seed) if seed is not None else random.SystemRandom()

    def keep(self, file: Path) -> None:
        """Write everything to a file, replacing it in one step; the caller holds the lock."""
        draft = file.with_suffix(".new")
        draft.write_bytes(pickle.dumps((self.objects, self.aside, self.clock)))
        draft.replace(file)

    def bring_back(self, file: Path) -> None:
        """Read what ``keep`` wrote."""
        if file.exists():
            self.objects, self.aside, ahead = pickle.loads(file.read_bytes())
            self.clock.catch_up(ahead)

    def new_id(self, prefix: str) -> str:
        """A fresh id as Stripe's look."""
        while True:
            id = f"{prefix}_{self.secret(24)}"
            if id not in self.objects:
                return id

    def secret(self, length: int = 24) -> str:
        """Letters and digits at random."""
        return "".join(self._random.choices(string.ascii_letters + string.digits, k=length))

    def add(self, made: Json) -> Json:
        """Keep a new object."""
        self.objects[made["id"]] = made
        return made

    def get(self, id: str, prefix: str, *, param: str = "id") -> Json:
        """An object by id. Raises ``Refusal`` (404)."""
        found = self.objects.get(id)
        if found is None or not id.startswith(f"{prefix}_") or not self._shown(found):
            raise missing(NAMES[prefix], id, param=param)
        return found

    def all(self, prefix: str) -> Iterator[Json]:
        """Every object of a kind, oldest first."""
        return (found for id, found in list(self.objects.items()) if id.startswith(f"{prefix}_") and self._shown(found))

    def _shown(self, found: Json) -> bool:
        return found["object"] != "event" or int(found["created"]) > self.clock.now() - EVENTS_SECONDS

    def emit(self, kind: str, subject: Json, *, previous: Json | None = None) -> Json:
        """Make an event about an object as it is now."""
        event = shapes.event(
            self.new_id("evt"),
            kind=kind,
            subject=copy.deepcopy(self.shown(subject)),
            previous=previous,
            version=API_VERSION,
            request=dict(self.request),
            created=self.clock.now(),
            livemode=self.livemode,
        )
        self.add(event)
        self.on_event(event)
        return event

    def shown(self, found: Json) -> Json:
        """An object as an answer shows it now."""
        if found["object"] == "balance_transaction":
            ready = self.clock.now() >= found["available_on"]
            return found | {"status": "available" if ready else "pending"}
        if found["object"] == "dispute":
            return found | {"balance_transactions": [self.shown(one) for one in found["balance_transactions"]]}
        return found

    def answer(self, found: Json, expand: list[str] | None) -> Json:
        """A copy of an object for the wire, with the named ids replaced by what they name."""
        made = copy.deepcopy(self.shown(found))
        for path in expand or []:
            self._expand(made, path.split("."), path)
        return made

    def _expand(self, place: Any, path: list[str], whole: str) -> None:
        if isinstance(place, list):
            for one in place:
                self._expand(one, path, whole)
            return
        if not path or place is None:
            return
        first, *rest = path
        if not isinstance(place, dict) or first not in place:
            raise Invalid(f"This property cannot be expanded ({whole}).", param="expand")
        if isinstance(place[first], str):
            if place[first] not in self.objects:
                raise Invalid(f"This property cannot be expanded ({whole}).", param="expand")
            place[first] = copy.deepcopy(self.shown(self.objects[place[first]]))
        self._expand(place[first], rest, whole)

    def page(self, found: list[Json], params: Json, *, url: str) -> Json:
        """A list's page, newest first, by ``limit``, ``starting_after``, ``ending_before`` and ``created``."""
        limit = params.get("limit", PAGE_DEFAULT)
        if not 1 <= limit <= PAGE_MAX:
            raise Invalid(f"Limit must be between 1 and {PAGE_MAX}", param="limit")
        rows = [one for one in reversed(found) if _created(one["created"], params.get("created"))]
        after, before = params.get("starting_after"), params.get("ending_before")
        if after and before:
            raise Invalid("You cannot parameterize both starting_after and ending_before.", param="starting_after")
        if cursor := after or before:
            # A cursor may name an object that the filter leaves out: its place in the order of making counts.
            order = {id: at for at, id in enumerate(self.objects)}
            if cursor not in order:
                raise missing("object", cursor, param="starting_after" if after else "ending_before")
            at = order[cursor]
            rows = [one for one in rows if (order[one["id"]] < at if after else order[one["id"]] > at)]
        chosen = rows[-limit:] if before else rows[:limit]
        more = len(rows) > len(chosen)
        data = [copy.deepcopy(self.shown(one)) for one in chosen]
        for path in params.get("expand") or []:
            head, *rest = path.split(".")
            if head != "data":
                raise Invalid(f"This property cannot be expanded ({path}).", param="expand")
            self._expand(data, rest, path)
        return {"object": "list", "data": data, "has_more": more, "url": url}


def _created(at: int, bounds: Any) -> bool:
    """Whether a time is within ``created``: a number, or gt, gte, lt, lte."""
    if bounds is None:
        return True
    if isinstance(bounds, int):
        return at == bounds
    low = max(bounds.get("gt", -1) + 1, bounds.get("gte", 0))
    high = min(bounds.get("lt", at + 1) - 1, bounds.get("lte", at))
    return bool(low <= at <= high)


def merge_metadata(found: Json, given: Any) -> None:
    """Stripe's rule: keys are added, an empty value removes its key, an empty whole removes all."""
    if given == "":
        found["metadata"] = {}
        return
    for name, value in (given or {}).items():
        if value == "":
            found["metadata"].pop(name, None)
        else:
            found["metadata"][name] = value
