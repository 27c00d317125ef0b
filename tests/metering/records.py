"""Usage records of any time, written past the books, and rollups folded up to any instant."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

from django.db import connection, transaction

from core import ids
from core.bulk import copy_rows
from metering import partitions, rollups, usage

QUARTER = timedelta(minutes=15)
_COLUMNS = usage.RECORD | {"corrects_id": "uuid"}
_PLAIN: dict[str, Any] = {
    **{name: 0 if name.endswith("_tokens") else None for name in _COLUMNS},
    "source": "api_key", "model": "gpt-4o", "outcome": "success", "batch": False, "usage_source": "provider",
    "cost_usd": Decimal(0), "price_id": UUID(int=1),
}  # fmt: skip


def record(of: UUID, at: datetime, **fields: Any) -> dict[str, Any]:
    """A record of an organization for ``write``, made at ``at``; ``fields`` are columns."""
    record_id = next(ids.run(at=at))
    cost = fields.get("cost_usd")
    made = {
        **_PLAIN, "organization_id": of, "payer_id": of, "id": record_id, "event_id": str(record_id),
        "occurred_at": at, "recorded_at": at, "transfer_id": UUID(int=1) if cost else None, **fields,
    }  # fmt: skip
    assert made.keys() == _COLUMNS.keys()
    return made


def write(*records: dict[str, Any]) -> list[UUID]:
    """Append records, whatever their month; their ids."""
    for month in {partitions.month_start(one["recorded_at"]) for one in records}:
        partitions.ensure(at=month, ahead=0)
    with transaction.atomic():
        copy_rows("usage_record", _COLUMNS, (tuple(one[name] for name in _COLUMNS) for one in records))
    return [one["id"] for one in records]


def mark(at: datetime) -> None:
    """Say that everything before an instant is folded."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE rollup_mark SET folded_until = %s", [at])


@contextmanager
def final_until(at: datetime) -> Iterator[None]:
    """In the block, what is older than ``at`` is final, and nothing else."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
    with mock.patch.object(usage, "FINAL_AFTER", now - at):
        yield


def fold(*, start: datetime, until: datetime) -> None:
    """Fold the quarters from ``start`` to ``until``, as if nothing had been folded before; in one step."""
    mark(start)
    with final_until(until), mock.patch.object(rollups, "STEP", until - start):
        assert rollups.fold().until == until


def fold_everything() -> None:
    """Fold all there is, the present quarter too: nothing is to be written before the next one begins."""
    with mock.patch.object(usage, "FINAL_AFTER", timedelta(minutes=-16)):
        assert rollups.fold().steps > 0


def fold_on(until: str) -> None:
    """Fold from the mark to an instant, in as many steps as that takes."""
    with final_until(datetime.fromisoformat(until)):
        rollups.fold()
