"""A month of many organizations, written past the books by SQL: what closing meets at size.

Every other one is postpaid. Each has ``charges`` transfers in May 2031, of ``records`` records each; a record costs
362 millionths of a dollar. What only ingest needs (wallets, grants, claims) is not there.
"""

import resource
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import psycopg

from billing import closing, profiles
from metering import partitions, rollups
from tests.billing.months import at
from tests.metering import records as usage
from tests.metering.world import COST

USD = Decimal(COST)
ZONES = [
    "Pacific/Pago_Pago", "America/New_York", "America/St_Johns", "UTC", "Europe/Berlin", "Asia/Kathmandu",
    "Asia/Tokyo", "Pacific/Kiritimati",
]  # fmt: skip
# Many rows are written in parts of so many organizations.
PART = 500

_ID = "(lpad(to_hex(floor(extract(epoch FROM {0}) * 1000)::int8), 12, '0') || '7' || substr({1}::text, 16))::uuid"
_ORGANIZATIONS = """
    INSERT INTO organization (id, slug, name, time_zone, price_group, created_at)
    SELECT gen_random_uuid(), 'many-' || place, 'Many ' || place, (%(zones)s::text[])[1 + place %% %(count)s],
        'standard', '2031-05-02 00:00Z' FROM generate_series(0, %(organizations)s - 1) AS place
"""
_PROFILES = """
    INSERT INTO billing_profile (organization_id, legal_entity_id, terms, net_days, name, address, country, vat_id,
        vat_checked_by, vat_checked_how, email, grouping, anchor_day, changed_at)
    SELECT id, %(entity)s, CASE WHEN right(slug, 1)::int %% 2 = 0 THEN 'prepaid' ELSE 'postpaid' END, 14, name, '', '',
        '', '', '', '', 'none', 1, created_at FROM organization WHERE slug LIKE 'many-%%'
"""
_USAGE = f"""
    WITH charge AS MATERIALIZED (
        SELECT o.id AS owner, p.terms, place, {_ID.format("moment", "dice")} AS id, moment
        FROM organization o JOIN billing_profile p ON p.organization_id = o.id
        CROSS JOIN LATERAL (
            SELECT place, timestamptz '2031-05-02 12:00Z' + interval '28 days' * place / %(charges)s AS moment,
                gen_random_uuid() AS dice
            FROM generate_series(1, %(charges)s) AS place WHERE o.id IS NOT NULL
        ) c
        WHERE o.slug LIKE 'many-%%' AND substr(o.slug, 6)::int >= %(first)s AND substr(o.slug, 6)::int < %(beyond)s
    ), moved AS (
        INSERT INTO transfer (id, organization_id, kind, debit, credit, amount_usd, reference, seq, balance_after_usd,
            actor, reason, created_at, digest)
        SELECT id, owner, 'charge', 'wallet', 'revenue', %(usd)s * %(records)s, 'charge:' || id, 2 * place, 0, '', '',
            moment, ''::bytea FROM charge
        UNION ALL
        SELECT {_ID.format("moment", "gen_random_uuid()")}, owner,
            CASE terms WHEN 'postpaid' THEN 'draw' ELSE 'grant' END,
            CASE terms WHEN 'postpaid' THEN 'overdraft' ELSE 'promotions' END, 'wallet', %(usd)s * %(records)s,
            'before:' || id, 2 * place - 1, 0, '', '', moment, ''::bytea FROM charge
    )
    INSERT INTO usage_record (organization_id, id, event_id, occurred_at, recorded_at, source, model, attempts, stream,
        outcome, input_tokens, output_tokens, payer_id, transfer_id, cached_input_tokens, cache_write_tokens,
        cache_write_1h_tokens, reasoning_tokens, image_input_tokens, audio_input_tokens, cached_image_tokens,
        cached_audio_tokens, image_output_tokens, audio_output_tokens, batch, usage_source, cost_usd, price_id)
    SELECT owner, {_ID.format("moment", "gen_random_uuid()")}, gen_random_uuid()::text, moment, moment, 'api_key',
        (ARRAY['deepseek-chat', 'gpt-4o', 'gpt-4o-mini'])[1 + number %% 3], 1, false, 'success', 1000, 200, owner, id,
        640, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 'provider', %(usd)s, id
    FROM charge, generate_series(1, %(records)s) AS number
"""


def fill(url: str, *, organizations: int, charges: int, records: int) -> None:
    """Write them, and fold their month as the product does, a day in a step."""
    partitions.ensure(at=partitions.month_start(at("2031-05-20T00:00:00Z")), ahead=0)
    entity = profiles.default_entity()
    values: dict[str, Any] = {
        "organizations": organizations, "charges": charges, "records": records, "usd": USD, "zones": ZONES,
        "count": len(ZONES), "entity": entity.pk,
    }  # fmt: skip
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("SET session_replication_role = replica")
        raw.execute(_ORGANIZATIONS, values)
        raw.execute(_PROFILES, values)
        for place in range(0, organizations, PART):
            raw.execute(_USAGE, {**values, "first": place, "beyond": place + PART})
        raw.execute("ANALYZE organization, billing_profile, transfer, usage_record")
    usage.mark(at("2031-05-01T00:00:00Z"))
    with mock.patch.object(rollups, "STEP", timedelta(days=1)):
        rollups.fold(seconds=3600)
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("ANALYZE usage_rollup")


def close() -> dict[str, int]:
    """Both jobs, once; what was done, and by how many MB the process grew at its largest."""
    profiles.of_many([])
    before = peak_mb()
    drafted = closing.close_due()
    finalized = closing.finalize_due()
    return {
        "drafted": drafted.drafted, "finalized": finalized.finalized, "parked": drafted.parked + finalized.parked,
        "grown_mb": peak_mb() - before,
    }  # fmt: skip


def peak_mb() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
