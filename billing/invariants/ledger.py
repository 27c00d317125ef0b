"""Checks of the ledger: wallets, transfers, the chain of digests, the sealed heads.

That all accounts sum to zero is structural: a transfer is one amount from one account to another of
the same organization. What can go wrong is the stored side, the order, the cause and the past.
"""

from billing.invariants.checks import Check

# Between which accounts each kind of transfer may move money.
_WAYS = """
    (VALUES ('charge', 'wallet', 'revenue'), ('draw', 'overdraft', 'wallet'), ('repayment', 'wallet', 'overdraft'),
        ('grant', 'promotions', 'wallet'), ('grant', 'adjustments', 'wallet'), ('grant', 'stripe_clearing', 'wallet'),
        ('topup', 'stripe_clearing', 'wallet'), ('adjustment', 'adjustments', 'wallet'),
        ('adjustment', 'wallet', 'adjustments'), ('refund', 'wallet', 'stripe_clearing'),
        ('write_off', 'write_offs', 'wallet'), ('expiry', 'wallet', 'breakage'), ('void', 'revenue', 'wallet'),
        ('rerate_up', 'wallet', 'revenue'), ('rerate_down', 'revenue', 'wallet'),
        ('refund', 'stripe_clearing', 'wallet'), ('invoice', 'stripe_clearing', 'wallet'),
        ('invoice', 'bank', 'wallet'), ('refund', 'wallet', 'bank'), ('tax', 'stripe_clearing', 'taxes'),
        ('tax', 'taxes', 'stripe_clearing'), ('tax', 'receivables', 'taxes'), ('tax', 'taxes', 'receivables'),
        ('tax', 'stripe_clearing', 'receivables'), ('tax', 'bank', 'receivables'),
        ('tax', 'taxes', 'adjustments'),
        ('fee', 'payment_fees', 'stripe_clearing'), ('fee', 'stripe_clearing', 'payment_fees'),
        ('clawback', 'wallet', 'stripe_clearing'), ('clawback', 'wallet', 'disputes'),
        ('dispute', 'wallet', 'disputes'), ('dispute', 'disputes', 'stripe_clearing'),
        ('dispute', 'stripe_clearing', 'disputes'), ('dispute', 'disputes', 'wallet'),
        ('tax', 'receivables', 'stripe_clearing'), ('tax', 'taxes', 'disputes'), ('tax', 'disputes', 'taxes'),
        ('tax', 'receivables', 'disputes'), ('tax', 'disputes', 'receivables')) AS way (kind, debit, credit)
"""

# billing.ledger.link in SQL: the columns in their order, as text, between unit separators.
_LINKED = """
    SELECT t.organization_id, t.id, t.seq, t.digest, sha256(
        lag(t.digest, 1, coalesce(h.digest, ''::bytea)) OVER (PARTITION BY t.organization_id ORDER BY t.seq)
        || convert_to(concat_ws(chr(31), t.id, t.organization_id, t.kind, t.debit, t.credit, t.amount_usd, t.reference,
            t.seq, t.balance_after_usd, t.actor, t.reason, (extract(epoch FROM t.created_at) * 1000000)::bigint),
            'UTF8')) AS derived
    FROM $transfers t LEFT JOIN $heads h USING (organization_id) WHERE t.seq IS NOT NULL
"""

CHECKS = (
    Check(
        "V01 wallet = transfers",
        "SELECT count(*) FROM wallet",
        """
        SELECT format('wallet %s: posted %s, spent %s; its transfers say %s, %s',
            organization_id, w.posted_usd, w.spent_usd, s.posted, s.spent)
        FROM wallet w JOIN (
            SELECT w.organization_id, coalesce(h.posted_usd, 0) + coalesce(sum(CASE 'wallet'
                    WHEN t.credit THEN t.amount_usd WHEN t.debit THEN -t.amount_usd END), 0) AS posted,
                coalesce(h.spent_usd, 0) + coalesce(sum(CASE
                    WHEN t.debit = 'wallet' AND t.credit = 'revenue' THEN t.amount_usd
                    WHEN t.debit = 'revenue' AND t.credit = 'wallet' THEN -t.amount_usd END), 0) AS spent
            FROM wallet w LEFT JOIN $heads h USING (organization_id) LEFT JOIN $transfers t USING (organization_id)
            GROUP BY w.organization_id, h.posted_usd, h.spent_usd
        ) s USING (organization_id)
        WHERE (w.posted_usd, w.spent_usd) IS DISTINCT FROM (s.posted, s.spent)
        """,
    ),
    Check(
        "V02 transfers in order",
        "SELECT count(*) FROM $transfers t",
        """
        SELECT format('transfer %s of %s: seq %s after %s, balance %s, should be %s',
            id, organization_id, seq, before, balance_after_usd, running)
        FROM (
            SELECT t.id, organization_id, t.seq, t.balance_after_usd,
                lag(t.seq, 1, coalesce(h.seq, 0)) OVER of_wallet AS before,
                coalesce(h.posted_usd - h.overdraft_usd, 0) + sum(CASE WHEN t.kind IN ('draw', 'repayment') THEN 0
                    WHEN t.credit = 'wallet' THEN t.amount_usd WHEN t.debit = 'wallet' THEN -t.amount_usd
                    ELSE 0 END) OVER of_wallet AS running
            FROM $transfers t LEFT JOIN $heads h USING (organization_id) WHERE t.seq IS NOT NULL
            WINDOW of_wallet AS (PARTITION BY organization_id ORDER BY t.seq)
        ) t
        WHERE seq <> before + 1 OR balance_after_usd IS DISTINCT FROM running
        UNION ALL
        SELECT format('wallet %s stands at seq %s, its transfers at %s', organization_id, w.seq, s.seq)
        FROM wallet w JOIN (
            SELECT w.organization_id, coalesce(max(t.seq), max(h.seq), 0) AS seq
            FROM wallet w LEFT JOIN $heads h USING (organization_id) LEFT JOIN $transfers t USING (organization_id)
            GROUP BY w.organization_id
        ) s USING (organization_id) WHERE w.seq <> s.seq
        UNION ALL
        SELECT format('transfer %s of %s has no wallet', t.id, t.organization_id)
        FROM $transfers t LEFT JOIN wallet w USING (organization_id) WHERE w.organization_id IS NULL
        """,
    ),
    Check(
        "V03 each transfer has its cause",
        "SELECT count(*) FROM $transfers t",
        f"""
        SELECT format('transfer %s of %s: %s of %s from %s to %s for “%s”',
            id, organization_id, kind, t.amount_usd, debit, credit, t.reference)
        FROM $transfers t LEFT JOIN {_WAYS} USING (kind, debit, credit)
        WHERE way.kind IS NULL OR t.reference = '' OR NOT t.amount_usd > 0
        UNION ALL
        SELECT format('%s %s of %s is of no correction', t.kind, t.id, t.organization_id)
        FROM $transfers t
        WHERE t.kind IN ('void', 'rerate_up', 'rerate_down')
            AND NOT EXISTS (SELECT 1 FROM correction c WHERE c.transfer_id = t.id)
        UNION ALL
        SELECT format('%s %s of %s goes with no transfer', t.kind, t.id, t.organization_id)
        FROM $transfers t
        WHERE t.kind IN ('draw', 'repayment') AND NOT EXISTS (
            SELECT 1 FROM transfer o WHERE o.organization_id = t.organization_id AND o.reference = t.reference
                AND o.kind IN ('charge', 'rerate_up', 'refund', 'adjustment', 'grant', 'topup', 'write_off', 'void',
                    'rerate_down', 'invoice', 'clawback', 'dispute'))
        UNION ALL
        SELECT format('expiry %s of %s ends no grant', t.id, t.organization_id)
        FROM $transfers t
        WHERE t.kind = 'expiry' AND NOT EXISTS (
            SELECT 1 FROM grant_use u WHERE u.organization_id = t.organization_id AND u.transfer_id = t.id)
        UNION ALL
        SELECT format('%s %s of %s gave no grant', t.kind, t.id, t.organization_id)
        FROM $transfers t
        WHERE (t.kind IN ('grant', 'topup', 'invoice') OR t.kind = 'adjustment' AND t.credit = 'wallet')
            AND NOT EXISTS (
            SELECT 1 FROM credit_grant g
            WHERE g.organization_id = t.organization_id AND g.transfer_id = t.id AND g.amount_usd = t.amount_usd)
        UNION ALL
        SELECT format('%s %s of %s is of no act that was posted', t.kind, t.id, t.organization_id)
        FROM $transfers t
        WHERE t.kind IN ('refund', 'write_off', 'adjustment') AND t.reference LIKE 'adjustment:%' AND NOT EXISTS (
            SELECT 1 FROM adjustment a WHERE a.organization_id = t.organization_id AND a.state = 'posted'
                AND a.amount_usd = t.amount_usd AND 'adjustment:' || a.id = t.reference)
        UNION ALL
        SELECT format('act %s of %s says posted, and is not', a.id, a.organization_id)
        FROM adjustment a
        WHERE a.state = 'posted' AND a.id >= $first AND a.id < $last AND NOT EXISTS (
            SELECT 1 FROM transfer t WHERE t.organization_id = a.organization_id AND t.amount_usd = a.amount_usd
                AND t.kind IN ('refund', 'write_off', 'adjustment') AND t.reference = 'adjustment:' || a.id)
        AND NOT EXISTS (
            SELECT 1 FROM credit_grant g WHERE g.organization_id = a.organization_id AND g.amount_usd = a.amount_usd
                AND g.reference = 'adjustment:' || a.id)
        """,
    ),
    Check(
        "V05 wallet in range",
        "SELECT count(*) FROM wallet",
        """
        SELECT format('wallet %s: posted %s, held %s, overdraft %s; draws less repayments are %s',
            organization_id, w.posted_usd, w.held_usd, w.overdraft_usd, s.drawn)
        FROM wallet w JOIN (
            SELECT w.organization_id, coalesce(h.overdraft_usd, 0) + coalesce(sum(CASE 'overdraft'
                WHEN t.debit THEN t.amount_usd WHEN t.credit THEN -t.amount_usd END), 0) AS drawn
            FROM wallet w LEFT JOIN $heads h USING (organization_id) LEFT JOIN $transfers t USING (organization_id)
            GROUP BY w.organization_id, h.overdraft_usd
        ) s USING (organization_id)
        WHERE NOT (w.posted_usd >= 0 AND w.held_usd >= 0 AND w.overdraft_usd >= 0) OR w.overdraft_usd <> s.drawn
        UNION ALL
        SELECT format('wallet %s owes %s beside credit that pays for anything', w.organization_id, w.overdraft_usd)
        FROM wallet w WHERE w.overdraft_usd > 0 AND EXISTS (
            SELECT 1 FROM credit_grant g WHERE g.organization_id = w.organization_id AND g.transfer_id IS NOT NULL
                AND g.remaining_usd > 0 AND g.model_slugs = ARRAY[]::text[])
        UNION ALL
        -- Whether calls are refused is derived; the level that alerts go by is stored, and follows the same rule.
        SELECT format('wallet %s was last told to be %s; balance %s, overdraft %s, limit %s', organization_id, level,
            posted_usd - overdraft_usd, overdraft_usd, credit_limit_usd)
        FROM wallet
        WHERE seq > 0 AND level <> CASE
            WHEN overdraft_usd > credit_limit_usd OR posted_usd - overdraft_usd + credit_limit_usd <= 0 THEN 'empty'
            WHEN posted_usd - overdraft_usd < low_usd THEN 'low' ELSE 'active' END
        """,
    ),
    Check(
        "V31 chain of digests",
        "SELECT count(*) FROM $transfers t",
        f"""
        SELECT format('transfer %s of %s, seq %s, is not what was posted', id, organization_id, seq)
        FROM ({_LINKED}) linked WHERE digest <> derived
        UNION ALL
        SELECT format('wallet %s does not end its chain', w.organization_id)
        FROM wallet w LEFT JOIN LATERAL (
            SELECT digest FROM transfer t WHERE t.organization_id = w.organization_id AND t.seq IS NOT NULL
            ORDER BY t.seq DESC LIMIT 1
        ) newest ON true WHERE w.head <> coalesce(newest.digest, ''::bytea)
        UNION ALL
        SELECT format('transfer %s of %s, seq %s, is not the one sealed on %s', t.id, t.organization_id, t.seq, s.day)
        FROM $sealed s JOIN transfer t USING (organization_id, seq) WHERE t.digest <> s.digest
        """,
    ),
    Check(
        "V32 nothing goes back",
        "SELECT count(*) FROM $sealed s",
        """
        SELECT format('wallet %s stands at seq %s; on %s it stood at %s', s.organization_id, w.seq, s.day, s.seq)
        FROM $sealed s LEFT JOIN wallet w USING (organization_id) WHERE w.seq IS NULL OR w.seq < s.seq
        UNION ALL
        SELECT format('wallet %s was sealed at seq %s on %s, after %s', organization_id, seq, day, before)
        FROM (
            SELECT *, lag(seq, 1, 0::bigint) OVER (PARTITION BY organization_id ORDER BY day) AS before FROM $sealed s
        ) sealed WHERE seq <= before
        UNION ALL
        SELECT format('wallet %s was sealed on %s with posted %s, overdraft %s, spent %s; its transfers say %s, %s, %s',
            organization_id, s.day, s.posted_usd, s.overdraft_usd, s.spent_usd, t.posted, t.overdraft, t.spent)
        FROM $sealed s JOIN (
            SELECT organization_id, seq,
                sum(CASE 'wallet' WHEN credit THEN amount_usd WHEN debit THEN -amount_usd ELSE 0 END) OVER past
                    AS posted,
                sum(CASE 'overdraft' WHEN debit THEN amount_usd WHEN credit THEN -amount_usd ELSE 0 END) OVER past
                    AS overdraft,
                sum(CASE WHEN debit = 'wallet' AND credit = 'revenue' THEN amount_usd
                    WHEN debit = 'revenue' AND credit = 'wallet' THEN -amount_usd ELSE 0 END) OVER past AS spent
            FROM transfer WHERE $whole AND seq IS NOT NULL
            WINDOW past AS (PARTITION BY organization_id ORDER BY seq)
        ) t USING (organization_id, seq)
        WHERE (s.posted_usd, s.overdraft_usd, s.spent_usd) IS DISTINCT FROM (t.posted, t.overdraft, t.spent)
        """,
    ),
)
