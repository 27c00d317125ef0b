"""Checks of periods, documents and their numbers."""

from billing.invariants.checks import Check

# Transfers of a period: their ids carry the time that their rows do, or one that is near it.
_ID = "(lpad(to_hex((extract(epoch FROM {0}) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid"
_FLOW = f"""
    LATERAL (
        SELECT coalesce(sum(CASE WHEN kind IN ('charge', 'rerate_up') THEN amount_usd
                WHEN kind IN ('void', 'rerate_down') THEN -amount_usd END), 0) AS charged,
            coalesce(sum(CASE WHEN kind IN ('draw', 'repayment') THEN 0
                WHEN credit = 'wallet' THEN amount_usd WHEN debit = 'wallet' THEN -amount_usd END), 0) AS moved,
            coalesce(sum(CASE 'overdraft' WHEN debit THEN amount_usd WHEN credit THEN -amount_usd END), 0) AS drawn
        FROM transfer WHERE organization_id = p.organization_id
            AND id >= {_ID.format("p.starts_at - interval '1 hour'")}
            AND id < {_ID.format("p.ends_at + interval '1 hour'")}
            AND created_at >= p.starts_at AND created_at < p.ends_at
    ) t
"""
# What earlier invoices asked for, without tax, and was not settled before the end of a period.
_UNPAID = """
    LATERAL (
        SELECT coalesce(sum(e.subtotal_usd - coalesce((SELECT sum(amount_usd - tax_usd) FROM invoice_settlement
            WHERE invoice_id = e.id AND at < p.ends_at), 0)), 0) AS usd
        FROM invoice e WHERE e.organization_id = p.organization_id AND e.kind = 'invoice' AND e.state <> 'draft'
            AND e.ends_at <= p.starts_at
    ) unpaid
"""

CHECKS = (
    Check(
        "V15 invoice = lines = ledger",
        "SELECT count(*) FROM invoice",
        f"""
        SELECT format('%s %s of %s: its lines come to %s (%s), and it says %s (%s)',
            kind, id, organization_id, l.cents, l.exact, subtotal_usd, exact_usd)
        FROM invoice i LEFT JOIN (
            SELECT invoice_id, sum(amount_usd) AS cents, sum(exact_usd) AS exact FROM invoice_line GROUP BY 1
        ) l ON l.invoice_id = i.id
        WHERE (i.subtotal_usd, i.exact_usd) IS DISTINCT FROM (l.cents, l.exact)
        UNION ALL
        SELECT format('period %s of %s: charged %s, closing %s, owed %s; the ledger says %s, %s, %s', p.id,
            p.organization_id, p.charged_usd, p.closing_usd, p.overdraft_usd, t.charged,
            coalesce(o.closing_usd, 0) + t.moved, coalesce(o.overdraft_usd, 0) + t.drawn)
        FROM billing_period p
        LEFT JOIN billing_period o ON o.organization_id = p.organization_id AND o.ends_at = p.follows
        CROSS JOIN {_FLOW}
        WHERE p.drafted_at IS NOT NULL AND p.ends_at > $since AND (p.charged_usd, p.closing_usd, p.overdraft_usd)
            <> (t.charged, coalesce(o.closing_usd, 0) + t.moved, coalesce(o.overdraft_usd, 0) + t.drawn)
        UNION ALL
        SELECT format('%s %s of %s: its period charged %s, its lines of usage are %s', i.kind, i.id, i.organization_id,
            p.charged_usd, l.used)
        FROM invoice i JOIN billing_period p ON p.id = i.period_id CROSS JOIN LATERAL (
            SELECT coalesce(sum(CASE i.kind WHEN 'invoice' THEN exact_usd ELSE -exact_usd END), 0) AS used
            FROM invoice_line WHERE invoice_id = i.id AND kind = 'usage') l
        WHERE p.state <> 'parked' AND l.used <> p.charged_usd
        UNION ALL
        SELECT format('period %s of %s charged %s and has no document', p.id, p.organization_id, p.charged_usd)
        FROM billing_period p
        WHERE p.state = 'finalized' AND (p.charged_usd <> 0 OR p.carried_usd >= 0.01)
            AND NOT EXISTS (SELECT 1 FROM invoice WHERE period_id = p.id)
        UNION ALL
        SELECT format('invoice %s of %s asks for %s (%s), and %s less %s is owed; carried %s', i.id, i.organization_id,
            i.subtotal_usd, i.exact_usd, p.overdraft_usd, unpaid.usd, p.carried_usd)
        FROM invoice i JOIN billing_period p ON p.id = i.period_id CROSS JOIN {_UNPAID}
        WHERE i.kind = 'invoice' AND (i.exact_usd <> p.overdraft_usd - unpaid.usd
            OR p.carried_usd <> i.exact_usd - i.subtotal_usd OR abs(p.carried_usd) > 0.005)
        UNION ALL
        SELECT format('statement %s of %s goes from %s to %s, by lines of %s (%s); the balance was %s', i.id,
            i.organization_id, i.opening_usd, i.closing_usd, i.subtotal_usd, i.exact_usd, p.closing_usd)
        FROM invoice i JOIN billing_period p ON p.id = i.period_id
        WHERE i.kind = 'statement' AND (i.closing_usd - i.opening_usd <> i.subtotal_usd
            OR p.closing_usd - i.opening_usd <> i.exact_usd OR abs(p.closing_usd - i.closing_usd) > 0.005)
        UNION ALL
        SELECT format('invoice %s of %s has %s open and %s paid; its settlements say %s and %s', i.id,
            i.organization_id, i.open_usd, i.paid_usd, i.total_usd - s.settled, s.paid)
        FROM invoice i CROSS JOIN LATERAL (
            SELECT coalesce(sum(amount_usd), 0) AS settled, coalesce(sum(tax_usd), 0) AS tax,
                coalesce(sum(CASE kind WHEN 'payment' THEN amount_usd WHEN 'return' THEN amount_usd
                    WHEN 'credit' THEN -over_usd END), 0) AS paid
            FROM invoice_settlement WHERE invoice_id = i.id) s
        WHERE i.kind = 'invoice' AND i.state <> 'draft' AND (i.open_usd, i.open_tax_usd, i.paid_usd)
            <> (i.total_usd - s.settled, i.tax_usd - s.tax, s.paid)
        """,
    ),
    Check(
        "V16 periods tile",
        "SELECT count(*) FROM billing_period",
        """
        SELECT format('period %s of %s begins at %s; the one before it ended at %s', id, organization_id, starts_at,
            coalesce(before::text, 'no time'))
        FROM (
            SELECT *, lag(ends_at) OVER (PARTITION BY organization_id ORDER BY starts_at) AS before FROM billing_period
        ) p
        WHERE before IS DISTINCT FROM follows OR before <> starts_at OR NOT ends_at > starts_at
        UNION ALL
        SELECT format('the first period of %s begins at %s, and it was made at %s', o.id, p.starts_at, o.created_at)
        FROM organization o JOIN (SELECT organization_id, min(starts_at) AS starts_at FROM billing_period GROUP BY 1) p
            ON p.organization_id = o.id
        WHERE p.starts_at > o.created_at
        UNION ALL
        SELECT format('period %s of %s is over and nothing follows it', id, organization_id)
        FROM billing_period p WHERE drafted_at IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM billing_period n WHERE n.organization_id = p.organization_id AND n.follows = p.ends_at)
        """,
    ),
    Check(
        "V17 numbers without gaps",
        "SELECT count(*) FROM invoice WHERE sequence IS NOT NULL",
        """
        SELECT format('%s of %s: %s numbers up to %s, and the last one given is %s', coalesce(i.year, s.year),
            coalesce(i.legal_entity_id, s.legal_entity_id), coalesce(i.many, 0), i.last, s.last_number)
        FROM (
            SELECT legal_entity_id, year, count(*) AS many, max(sequence) AS last, min(sequence) AS first,
                max(issued_at) AS at
            FROM invoice WHERE sequence IS NOT NULL GROUP BY 1, 2
        ) i FULL JOIN number_series s ON s.legal_entity_id = i.legal_entity_id AND s.year = i.year
        WHERE (i.many, i.last, i.first, i.at) IS DISTINCT FROM (s.last_number, s.last_number, 1, s.last_issued_at)
            AND NOT (i.many IS NULL AND s.last_number = 0)
        UNION ALL
        SELECT format('number %s of %s was issued at %s, after one of %s', number, legal_entity_id, issued_at, before)
        FROM (
            SELECT *, lag(issued_at) OVER (PARTITION BY legal_entity_id, year ORDER BY sequence) AS before
            FROM invoice WHERE sequence IS NOT NULL
        ) i WHERE before >= issued_at
        UNION ALL
        SELECT format('%s %s of %s was issued without a number', kind, id, organization_id)
        FROM invoice WHERE state <> 'draft' AND (kind = 'statement') <> (sequence IS NULL)
        """,
    ),
    Check(
        "V18 each transfer in one period",
        "SELECT count(*) FROM $transfers t",
        """
        SELECT format('transfer %s of %s at %s is in %s periods', t.id, t.organization_id, t.created_at, p.many)
        FROM $transfers t CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE starts_at <= t.created_at AND ends_at > t.created_at) AS many,
                count(*) AS all, max(ends_at) AS until
            FROM billing_period WHERE organization_id = t.organization_id) p
        WHERE p.many <> 1 AND p.all > 0 AND t.created_at < p.until
        """,
    ),
)
