"""Checks of what is set aside: holds, and the ceilings that count them and what was used."""

from billing.invariants.checks import Check

# The sweep runs each minute; this long after its end a hold is money locked away.
OVERDUE = "interval '5 minutes'"

CHECKS = (
    Check(
        "V04 held = open holds",
        "SELECT count(*) FROM hold WHERE state = 'open'",
        """
        SELECT format('wallet %s: held %s, its open holds come to %s',
            coalesce(w.organization_id, h.payer_id), w.held_usd, h.held)
        FROM wallet w FULL JOIN (
            SELECT payer_id, sum(amount_usd) AS held FROM hold WHERE state = 'open' GROUP BY payer_id
        ) h ON h.payer_id = w.organization_id
        WHERE coalesce(w.held_usd, 0) <> coalesce(h.held, 0)
        """,
    ),
    Check(
        "V23 holds end once",
        "SELECT count(*) FROM $holds h",
        f"""
        SELECT format('hold %s of %s is open, past its end at %s', id, organization_id, expires_at)
        FROM hold WHERE state = 'open' AND expires_at < now() - {OVERDUE}
        UNION ALL
        SELECT format('hold %s of %s was captured by record %s, which names %s and was paid by %s', h.id,
            h.organization_id, coalesce(h.record_id::text, 'none'), coalesce(r.authorization_id::text, 'no hold'),
            coalesce(r.payer_id::text, 'nobody'))
        FROM $holds h LEFT JOIN usage_record r ON r.organization_id = h.organization_id AND r.id = h.record_id
        WHERE h.state = 'captured' AND (h.record_id IS NULL OR h.record_id >= $first)
            AND (r.authorization_id, r.payer_id) IS DISTINCT FROM (h.id, h.payer_id)
        UNION ALL
        SELECT format('record %s of %s names hold %s, which is %s', r.id, r.organization_id, h.id, h.state)
        FROM $records r JOIN hold h ON h.organization_id = r.organization_id AND h.id = r.authorization_id
        WHERE r.corrects_id IS NULL AND h.state = 'open'
        """,
    ),
    Check(
        "B01 ceilings = records",
        "SELECT count(*) FROM budget WHERE removed_at IS NULL",
        """
        SELECT format('ceiling %s of %s: held %s, the open holds it counts come to %s',
            b.id, b.organization_id, b.held, coalesce(h.held, 0))
        FROM budget b LEFT JOIN LATERAL (
            SELECT sum(CASE b.unit WHEN 'usd' THEN h.amount_usd ELSE h.tokens END) AS held FROM hold h
            WHERE h.organization_id = b.organization_id AND h.state = 'open' AND h.budget_ids @> ARRAY[b.id]
        ) h ON true
        WHERE b.held <> coalesce(h.held, 0)
        UNION ALL
        SELECT format('ceiling %s of %s: spent %s, counted since %s %s',
            b.id, b.organization_id, b.spent, b.counted_from, coalesce(s.counted, 0))
        FROM budget b LEFT JOIN LATERAL (
            SELECT sum(amount) AS counted FROM budget_spend s WHERE s.organization_id = b.organization_id
                AND s.budget_id = b.id AND s.bucket >= b.counted_from
        ) s ON true
        WHERE b.removed_at IS NULL AND b.spent <> coalesce(s.counted, 0)
        UNION ALL
        -- Rolling windows by their five minutes; of a calendar month there is one sum.
        SELECT format('ceiling %s of %s: counted %s since %s, the records say %s',
            b.id, b.organization_id, coalesce(s.counted, 0), since.at, coalesce(r.used, 0))
        FROM budget b
        CROSS JOIN LATERAL (
            SELECT CASE WHEN b."window" = 'month' THEN b.counted_from ELSE greatest(b.counted_from, $since) END AS at
        ) since
        LEFT JOIN LATERAL (
            SELECT sum(amount) AS counted FROM budget_spend s WHERE s.organization_id = b.organization_id
                AND s.budget_id = b.id AND s.bucket >= since.at
        ) s ON true
        LEFT JOIN LATERAL (
            SELECT sum(CASE b.unit WHEN 'usd' THEN r.cost_usd ELSE r.input_tokens + r.output_tokens END) AS used
            FROM usage_record r
            -- The least id of that instant: ids carry recorded_at.
            WHERE r.organization_id = b.organization_id AND r.id >= (lpad(
                    to_hex((extract(epoch FROM since.at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
                AND CASE b.subject WHEN 'project' THEN r.project_id WHEN 'member' THEN r.member_id
                    WHEN 'key' THEN r.api_key_id ELSE r.organization_id END = b.subject_id
        ) r ON true
        WHERE b.removed_at IS NULL AND ($deep OR b."window" <> 'month' OR b.counted_from >= $since)
            AND coalesce(s.counted, 0) <> coalesce(r.used, 0)
        UNION ALL
        SELECT format('wallet %s says that it has ceilings: %s', organization_id, has_budgets)
        FROM wallet w
        WHERE has_budgets <> EXISTS (
            SELECT 1 FROM budget b WHERE b.organization_id = w.organization_id AND b.removed_at IS NULL)
        """,
    ),
)
