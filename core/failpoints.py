"""Named places where a test has a process die, stop, wait or fail.

Each boundary of a writing transaction says its name: ``failpoints.reach("charge.after_claims")``.
Unless a test has armed it, that costs one look at a flag.

Nothing of the product arms a failpoint or reads the environment for one. ``from_environment`` is
for the entry points under ``tests/``, which a deployment does not run: a ``FAILPOINT`` that strays
into a production's environment does nothing at all. A test keeps both so, and that each name
below is reached in exactly one place.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NAMES = (
    # Charging a batch.
    "charge.after_claims",
    "charge.after_quarantine",
    "charge.before_commit",
    "charge.after_commit",
    # Holds, records and money of claimed events, whoever claimed them.
    "book.after_holds",
    "book.after_records",
    "book.after_failures",
    "book.after_ledger",
    # The ledger's part of any transaction that moves money.
    "ledger.after_lock",
    "ledger.after_wallets",
    # Corrections, of voids and of re-rating alike.
    "correction.after_rows",
    "correction.after_records",
    "correction.after_ledger",
    # Voiding one event.
    "void.after_withdrawal",
    "void.before_commit",
    "void.after_commit",
    # Charging what waited in quarantine.
    "release.after_rows",
    "release.after_reclaim",
    "release.after_claims",
    "release.after_resolve",
    "release.before_commit",
    "release.after_commit",
    # Applying a re-rating: it begins, posts chunk after chunk, ends.
    "rerate.before_begin",
    "rerate.after_begin",
    "rerate.after_progress",
    "rerate.before_commit",
    "rerate.after_commit",
    "rerate.after_end",
    # Taking a month out to a file, and dropping it.
    "archive.after_write",
    "archive.after_rename",
    "archive.after_checksum",
    "archive.before_detach",
    "archive.before_commit",
    "archive.after_commit",
    "archive.before_drop",
    # Asking Stripe for money and for refunds, and taking in what it says.
    "payment.before_call",
    "payment.after_call",
    "payment.before_commit",
    "payment.after_commit",
    "event.before_handling",
    "refund.before_call",
    "refund.after_call",
    # Folding records into rollups.
    "fold.after_rows",
    "fold.after_commit",
    # A scheduled job's turn, and the message that wakes a worker.
    "job.after_claim",
    "wake.before_send",
    # Closing periods: drafting a chunk of them, finalizing each.
    "close.after_snapshot",
    "close.after_documents",
    "close.before_commit",
    "close.after_commit",
    "finalize.after_snapshot",
    "finalize.after_draft",
    "finalize.before_commit",
    # Issuing a document, and what happens to it afterwards.
    "issue.after_ledger",
    "issue.after_number",
    "receive.after_ledger",
    "drop.after_ledger",
    "credit.after_ledger",
    "receipt.before_commit",
    # Telling others: after a receiver or a mail server has it, before we know.
    "delivery.after_post",
    "mail.before_send",
    "mail.after_send",
)

# What a shell says of a process that was killed by SIGKILL.
EXIT_CODE = 137

Act = Callable[[], object]


@dataclass
class _Charge:
    """What happens at a failpoint: every time if ``nth`` is 0, else the ``nth`` time."""

    act: Act
    nth: int
    hits: int = 0


_armed: dict[str, list[_Charge]] = {}
_lock = threading.Lock()
_on = False


def reach(name: str) -> None:
    """Say that the code is at ``name``; nothing happens unless a test armed it."""
    if _on:
        _hit(name)


@contextmanager
def armed(name: str, act: Act, *, nth: int = 0) -> Iterator[None]:
    """In the block, whoever reaches ``name`` calls ``act``, every time or only the ``nth`` time.

    ``act`` may raise, wait or end the process. Raises ``LookupError`` for a name that is not listed.
    """
    charge = _arm(name, act, nth)
    try:
        yield
    finally:
        _disarm(name, charge)


def from_environment() -> None:
    """Arm, for the rest of this process, what ``FAILPOINT=name:action[:n]`` says, if it says anything.

    ``exit`` ends the process as SIGKILL would, without another word to anybody; ``stop`` stops it
    as SIGSTOP does. At the ``n``-th time (the first). Raises ``ValueError`` or ``LookupError`` for
    what cannot be meant.
    """
    text = os.environ.get("FAILPOINT", "")
    if not text:
        return
    name, _, rest = text.partition(":")
    action, _, count = rest.partition(":")
    if action not in ACTIONS or not (count or "1").isdecimal() or count == "0":
        raise ValueError(f"FAILPOINT={text!r} should be name:action[:n] with one of {', '.join(ACTIONS)}")
    _arm(name, ACTIONS[action], int(count or "1"))


def die() -> None:
    """End this process at once: nothing is flushed, rolled back or said."""
    os._exit(EXIT_CODE)


def stop() -> None:
    """Stop this process until somebody sends it SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


ACTIONS: dict[str, Act] = {"exit": die, "stop": stop}


def _arm(name: str, act: Act, nth: int) -> _Charge:
    global _on
    if name not in NAMES:
        raise LookupError(f"no failpoint is named {name!r}")
    charge = _Charge(act, nth)
    with _lock:
        _armed.setdefault(name, []).append(charge)
        _on = True
    return charge


def _disarm(name: str, charge: _Charge) -> None:
    global _on
    with _lock:
        _armed[name].remove(charge)
        _on = any(_armed.values())


def _hit(name: str) -> None:
    assert name in NAMES, f"{name} is no failpoint's name"
    with _lock:
        charges = list(_armed.get(name, ()))
        for charge in charges:
            charge.hits += 1
        due = [charge.act for charge in charges if charge.nth in {0, charge.hits}]
    for act in due:
        act()
