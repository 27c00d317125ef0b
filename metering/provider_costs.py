"""What requests cost us, by provider, model and month, as their gateway told it. Reads only.

The provider is the one that the gateway named, else the catalog's for the model; the model is the one that served
the request. Months are UTC and of ``recorded_at``. Where the gateway told no cost it is unknown, not zero: such
records are counted apart. A correction changes what the customer paid, not what we did.
"""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from core import ids

_COSTS = """
    SELECT lower(coalesce(u.provider, m.provider, '')), coalesce(u.routed_model, u.model),
        date_trunc('month', u.recorded_at AT TIME ZONE 'UTC')::date, count(u.provider_cost_usd),
        count(*) - count(u.provider_cost_usd), coalesce(sum(u.provider_cost_usd), 0)
    FROM usage_record u LEFT JOIN model m ON m.slug = coalesce(u.routed_model, u.model)
    WHERE u.id >= %s AND u.id < %s AND u.corrects_id IS NULL
    GROUP BY 1, 2, 3 ORDER BY 3, 1, 2
"""


class ProviderCost(NamedTuple):
    """What one provider's model cost us in a month: of ``records`` it is known, of ``unknown`` it is not."""

    provider: str
    model: str
    month: date
    records: int
    unknown: int
    cost_usd: Decimal


def of_months(first: date, last: date) -> list[ProviderCost]:
    """Costs of the months from the one that ``first`` lies in up to ``last``'s: one query over their records."""
    after = date(last.year + last.month // 12, last.month % 12 + 1, 1)
    bounds = [ids.floor(datetime.combine(day, time(), UTC)) for day in (first.replace(day=1), after)]
    with connection.cursor() as cursor:
        cursor.execute(_COSTS, bounds)
        return [ProviderCost(*row) for row in cursor.fetchall()]
