"""What a test breaks on purpose. Part of the fake Stripe."""

import re
import threading
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["sticky_500", "500_once", "429", "lost", "reset", "hang", "wait", "slow"]

# Nothing waits longer, should a test forget to let go.
WAIT_SECONDS = 60.0


@dataclass
class Fault:
    """What goes wrong with the next ``times`` calls of a method and path.

    - ``sticky_500``: an error, kept under the key; with ``committed`` the call was carried out all the same.
    - ``500_once``: an error before the call began, not kept.
    - ``429``: too many requests; not kept.
    - ``lost``: the connection is reset before the call began.
    - ``reset``: the call is carried out and its answer kept, then the connection is reset.
    - ``hang``: carried out and kept, then silence until ``let_go`` or the client has gone.
    - ``wait``: nothing happens until ``let_go``, then the call is carried out and answered.
    - ``slow``: answered after ``seconds``.

    ``met`` is set when a call has run into it.
    """

    kind: Kind
    method: str
    path: re.Pattern[str]
    times: int = 1
    committed: bool = False
    seconds: float = 0.0
    met: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)

    def let_go(self) -> None:
        """End the waiting."""
        self._go.set()

    @property
    def released(self) -> bool:
        """Whether the waiting has ended."""
        return self._go.is_set()

    def hold(self) -> None:
        """Wait until ``let_go``."""
        self._go.wait(WAIT_SECONDS)


class Faults:
    """The faults that are on; the first that fits a call is used up by it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: list[Fault] = []
        self._used: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Turn one on."""
        with self._lock:
            self._on.append(fault)
        return fault

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for a call, if one is on."""
        with self._lock:
            for fault in self._on:
                if fault.method == method and fault.path.fullmatch(path):
                    fault.times -= 1
                    if fault not in self._used:
                        self._used.append(fault)
                    if fault.times == 0:
                        self._on.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        """Turn all off and let go whoever waits."""
        with self._lock:
            faults = [*self._on, *self._used]
            self._on.clear()
            self._used.clear()
        for fault in faults:
            fault.let_go()
