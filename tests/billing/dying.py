"""A process that dies before each of its words to the database, for what only a death can show.

``python -m tests.billing.dying SLUG SLUG``: charges the same mixed batch again and again, each time
in a process of its own that is killed (SIGKILL) before its first, second, … statement or COMMIT, and
prints as JSON how many words a whole batch takes and how the process ended that said them all.
Event ids begin with the number of the word.
``WITHOUT_GUARD`` takes a guard's code away.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import psycopg

from tests import guards

WORDS_MAX = 60


def die_before(word: int) -> list[int]:
    """Kill this process instead of sending its ``word``-th statement or COMMIT; the count so far."""
    said = [0]

    def counting(send: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            said[0] += 1
            if said[0] == word:
                os.kill(os.getpid(), signal.SIGKILL)
            return send(*args, **options)

        return counted

    for owner, name in ((psycopg.Cursor, "execute"), (psycopg.Cursor, "copy"), (psycopg.Connection, "commit")):
        setattr(owner, name, counting(getattr(owner, name)))
    return said


def events(word: int) -> list[dict[str, Any]]:
    """What the batch of one death holds: priced, failed and unpriced, of the first and of the second organization."""
    kinds: Sequence[dict[str, Any]] = ({}, {"status": 429}, {"model": "nobody-priced-this"})
    return [{"event_id": f"{word}-{place}-{of}", **kind} for of in (0, 1) for place, kind in enumerate(kinds)]


def charge(slugs: Sequence[str], word: int) -> int:
    """Charge the batch as a process that dies before its ``word``-th word; how many words it said."""
    from metering import attribution
    from tests.billing.world import record
    from tests.metering import world

    items = [world.event(organization=slugs[int(told["event_id"][-1])], **told) for told in events(word)]
    found = [item for item in attribution.attribute(items) if isinstance(item, attribution.Attributed)]
    said = die_before(word) if word else [0]
    verdicts = record(found)
    assert [verdict.status.value for verdict in verdicts] == ["created", "created", "quarantined"] * 2, verdicts
    return said[0]


def main() -> int:
    """Die before every word, then live."""
    name = os.environ.get("WITHOUT_GUARD")
    slugs = sys.argv[1:]
    with guards.in_child(name) if name else nullcontext():
        import django

        django.setup()
        # Each child has its own connection, but not its own first look at the catalog.
        charge(slugs, 0)
        from django.db import connections

        connections.close_all()
        for word in range(1, WORDS_MAX):
            child = os.fork()
            if child == 0:
                os._exit(0 if charge(slugs, word) else 1)
            _, status = os.waitpid(child, 0)
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                # It had said all it had to say: nobody died.
                print(json.dumps([word - 1, os.waitstatus_to_exitcode(status)]))
                return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
