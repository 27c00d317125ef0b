"""Small requests for one organization that arrive side by side, charged as one batch.

A wallet is charged by one transaction at a time, and each must be on disk before the next may
begin, so single events for one organization queued for its lock one flush after the other. Here
the first of them is charged at once; those that come meanwhile in this process wait for it and are
then charged together: one lock, one transfer, one flush. Nobody waits where nobody is in the way,
nobody waits for another organization, and every answer still comes after its own commit.
"""

import threading
from collections.abc import Sequence
from uuid import UUID

from billing import charges
from billing.charges import Item
from metering.attribution import Attributed
from metering.verdicts import Verdict

# A larger request is a batch already and goes alone.
SMALL = 100
EVENTS_MAX = 1000

_Key = tuple[UUID, UUID | None]


class _Request:
    """Events that wait to be charged, and what became of them.

    ``leads``: it is its turn to charge, its own and those ``along`` with them.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.woken = threading.Event()
        self.leads = False
        self.along: list[_Request] = []
        self.verdicts: Sequence[Verdict] | None = None


_lock = threading.Lock()
# Whose events are being charged now, and the requests that wait for that, in the order they came.
_waiting: dict[_Key, list[_Request]] = {}


def record(items: Sequence[Item], *, reported_by: UUID | None) -> Sequence[Verdict]:
    """As ``charges.record``, in one transaction with what others send for the same organization just now."""
    owner = _only_owner(items) if len(items) <= SMALL else None
    if owner is None:
        return charges.record(items, reported_by=reported_by)
    key = (owner, reported_by)
    request = _Request(items)
    with _lock:
        request.leads = key not in _waiting
        if request.leads:
            _waiting[key] = []
        else:
            _waiting[key].append(request)
    if not request.leads:
        request.woken.wait()
    if request.leads:
        try:
            _charge(request, reported_by=reported_by)
        finally:
            _hand_over(key)
            for other in request.along:
                other.woken.set()
    # Without verdicts, whoever led has met an error of its own, which is not ours.
    return charges.record(items, reported_by=reported_by) if request.verdicts is None else request.verdicts


def _only_owner(items: Sequence[Item]) -> UUID | None:
    """The organization that all events are charged to, if it is one."""
    owners = {item.organization_id if isinstance(item, Attributed) else None for item in items}
    return owners.pop() if len(owners) == 1 else None


def _charge(request: _Request, *, reported_by: UUID | None) -> None:
    """Charge a request and those along with it. Raises what ``charges.record`` raises; then none has verdicts."""
    together = [request, *request.along]
    items = [item for one in together for item in one.items]
    if len(together) > 1:
        items = [item._replace(place=place) for place, item in enumerate(items)]
    verdicts = charges.record(items, reported_by=reported_by)
    start = 0
    for one in together:
        one.verdicts = verdicts[start : start + len(one.items)]
        start += len(one.items)


def _hand_over(key: _Key) -> None:
    """Let the first of those who wait lead, along with as many as make a batch; with nobody there, nobody leads."""
    with _lock:
        queue = _waiting[key]
        if not queue:
            del _waiting[key]
            return
        chosen, events = 1, len(queue[0].items)
        while chosen < len(queue) and events + len(queue[chosen].items) <= EVENTS_MAX:
            events += len(queue[chosen].items)
            chosen += 1
        _waiting[key] = queue[chosen:]
    first = queue[0]
    first.leads, first.along = True, queue[1:chosen]
    first.woken.set()
