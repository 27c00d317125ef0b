"""Which grants paid for a record. Read-only.

A charge notes for each grant what it took and from which record to which. Where several records
shared several grants, the charge is worked out again with exactly what each gave: the order is the
same, so the result is.
"""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from billing import books, lots
from billing.books import Need
from billing.models import Correction, GrantUse
from core import money
from metering.models import UsageRecord

Shares = dict[UUID, Decimal]


def shares(payer_id: UUID, records: Sequence[UsageRecord]) -> dict[UUID, Shares]:
    """What each grant of the payer has paid for each record by now, in the order in which it was taken.

    ``records`` are of one organization; what overdraft paid is in no share.
    """
    charged = {record.transfer_id for record in records if record.transfer_id is not None}
    corrected = _corrections(records)
    uses: dict[UUID, list[GrantUse]] = {}
    for row in lots.uses_of(payer_id, charged | {transfer for found in corrected.values() for transfer in found}):
        uses.setdefault(row.transfer_id, []).append(row)
    worked_out: dict[UUID, dict[UUID, Shares]] = {}
    paid: dict[UUID, Shares] = {}
    for record in records:
        mine: Shares = {}
        for use in _charge(payer_id, record, uses, worked_out):
            mine[use.lot_id] = mine.get(use.lot_id, money.ZERO) + use.amount
        for transfer in corrected.get(record.id, ()):
            for row in uses.get(transfer, []):
                if row.first_record_id == record.id:
                    mine[row.grant_id] = mine.get(row.grant_id, money.ZERO) + row.amount_usd
        paid[record.id] = {grant: amount for grant, amount in mine.items() if amount > 0}
    return paid


def _corrections(records: Sequence[UsageRecord]) -> dict[UUID, list[UUID]]:
    """The transfers that corrected each record."""
    found: dict[UUID, list[UUID]] = {}
    if records:
        rows = Correction.objects.filter(
            organization_id=records[0].organization_id,
            record_id__in=[record.id for record in records],
            transfer_id__isnull=False,
        ).order_by("id")
        for record_id, transfer_id in rows.values_list("record_id", "transfer_id"):
            assert transfer_id is not None
            found.setdefault(record_id, []).append(transfer_id)
    return found


def _charge(
    payer_id: UUID,
    record: UsageRecord,
    uses: dict[UUID, list[GrantUse]],
    worked_out: dict[UUID, dict[UUID, Shares]],
) -> list[books.Use]:
    """What the record's own charge took for it."""
    if record.transfer_id is None:
        return []
    rows = uses.get(record.transfer_id, [])
    mine = [
        row
        for row in rows
        if row.first_record_id is not None and row.first_record_id <= record.id <= row.last_record_id
    ]
    if all(row.first_record_id == row.last_record_id for row in mine):
        return [books.Use(row.grant_id, row.amount_usd, record.id, record.id) for row in mine]
    if record.transfer_id not in worked_out:
        worked_out[record.transfer_id] = _again(payer_id, record.transfer_id, rows)
    found = worked_out[record.transfer_id].get(record.id, {})
    return [books.Use(grant, amount, record.id, record.id) for grant, amount in found.items()]


def _again(payer_id: UUID, transfer_id: UUID, rows: Sequence[GrantUse]) -> dict[UUID, Shares]:
    """A charge worked out again: by record, what each grant gave."""
    taken = {row.grant_id: row.amount_usd for row in rows}
    known = lots.find(payer_id, taken.keys())
    available = books.arranged(lot._replace(remaining=taken[lot.id]) for lot in known.values())
    # A charge whose records are of several organizations has a row for each of them, and does not come here.
    records = UsageRecord.objects.filter(
        organization_id=payer_id,
        id__gte=min(row.first_record_id for row in rows if row.first_record_id),
        id__lte=max(row.last_record_id for row in rows if row.last_record_id),
        transfer_id=transfer_id,
    ).order_by("id")
    needs = [Need(cost, record_id, model) for record_id, model, cost in records.values_list("id", "model", "cost_usd")]
    found: dict[UUID, Shares] = {}
    for use in books.allocate(needs, available).uses:
        assert use.first is not None
        found.setdefault(use.first, {})[use.lot_id] = use.amount
    return found
