"""Checks of credit: what is left of grants, and the trace of who took what."""

from billing.invariants.checks import Check

# A transfer carries the time at which its transaction began; what it may take is asked when it has the lock.
WAITED = "interval '60 seconds'"
# Grants end when their wallet is next touched, or by a sweep that runs each minute.
GRACE = "interval '15 minutes'"

CHECKS = (
    Check(
        "V06 wallet = grants",
        "SELECT count(*) FROM credit_grant",
        """
        SELECT format('wallet %s: posted %s, left of its grants %s', organization_id, w.posted_usd, g.remaining)
        FROM wallet w FULL JOIN (
            SELECT organization_id, sum(remaining_usd) AS remaining FROM credit_grant
            WHERE transfer_id IS NOT NULL AND remaining_usd <> 0 GROUP BY organization_id
        ) g USING (organization_id)
        WHERE coalesce(w.posted_usd, 0) <> coalesce(g.remaining, 0)
        UNION ALL
        -- What a transfer does to the wallet and what it does to the grants is the same.
        SELECT format('%s of %s moves the wallet by %s and its grants by %s',
            reference, organization_id, sum(of_wallet), sum(of_grants))
        FROM (
            SELECT t.organization_id, t.reference,
                CASE 'wallet' WHEN t.credit THEN t.amount_usd WHEN t.debit THEN -t.amount_usd ELSE 0 END AS of_wallet,
                coalesce(g.given, 0) - coalesce(u.used, 0) AS of_grants
            FROM $transfers t
            LEFT JOIN (
                SELECT organization_id, transfer_id, sum(amount_usd) AS given FROM credit_grant GROUP BY 1, 2
            ) g ON g.organization_id = t.organization_id AND g.transfer_id = t.id
            LEFT JOIN $used u ON u.organization_id = t.organization_id AND u.transfer_id = t.id
            WHERE t.seq IS NOT NULL
        ) moved
        GROUP BY organization_id, reference HAVING sum(of_wallet) <> sum(of_grants)
        UNION ALL
        -- What decides whether grants are looked at before money is promised.
        SELECT format('wallet %s: scoped %s, next change %s; its grants say %s, %s',
            organization_id, w.has_scoped, w.next_change, coalesce(g.scoped, false), g.change)
        FROM wallet w LEFT JOIN (
            SELECT organization_id, bool_or(model_slugs <> ARRAY[]::text[] AND transfer_id IS NOT NULL) AS scoped,
                min(CASE WHEN transfer_id IS NULL THEN effective_at ELSE expires_at END) AS change
            FROM credit_grant WHERE remaining_usd > 0 GROUP BY organization_id
        ) g USING (organization_id)
        WHERE (w.has_scoped, w.next_change) IS DISTINCT FROM (coalesce(g.scoped, false), g.change)
        """,
    ),
    Check(
        "V07 grants = trace",
        "SELECT count(*) FROM $uses u",
        f"""
        WITH touched AS (
            SELECT * FROM credit_grant WHERE $whole OR remaining_usd > 0
                OR (organization_id, id) IN (SELECT organization_id, grant_id FROM $uses u)
        )
        SELECT format('grant %s of %s: %s of %s left; its trace says %s',
            g.id, g.organization_id, g.remaining_usd, g.amount_usd, g.amount_usd - coalesce(u.used, 0))
        FROM touched g LEFT JOIN (
            SELECT organization_id, grant_id, sum(amount_usd) AS used FROM grant_use
            WHERE $whole OR (organization_id, grant_id) IN (SELECT organization_id, id FROM touched)
            GROUP BY organization_id, grant_id
        ) u ON u.organization_id = g.organization_id AND u.grant_id = g.id
        WHERE g.remaining_usd <> g.amount_usd - coalesce(u.used, 0)
            OR g.transfer_id IS NULL AND g.remaining_usd <> g.amount_usd
        UNION ALL
        SELECT format('grant %s of %s ended at %s and still has %s', id, organization_id, expires_at, remaining_usd)
        FROM credit_grant
        WHERE remaining_usd > 0 AND expires_at < now() - {GRACE}
        UNION ALL
        SELECT format('grant %s of %s should have begun at %s', id, organization_id, effective_at)
        FROM credit_grant WHERE remaining_usd > 0 AND transfer_id IS NULL AND effective_at < now() - {GRACE}
        """,
    ),
    Check(
        "V08 grants within their time",
        "SELECT count(*) FROM $uses u",
        f"""
        SELECT format('%s %s of %s took from grant %s at %s; it lasts from %s to %s', t.kind, t.id, t.organization_id,
            g.id, t.created_at, g.effective_at, coalesce(g.expires_at::text, 'ever'))
        FROM $uses u
        JOIN transfer t ON t.organization_id = u.organization_id AND t.id = u.transfer_id
        JOIN credit_grant g ON g.organization_id = u.organization_id AND g.id = u.grant_id
        WHERE u.amount_usd > 0 AND CASE t.kind
            WHEN 'expiry' THEN t.created_at < coalesce(g.expires_at, 'infinity') - {WAITED}
            ELSE t.created_at >= g.expires_at OR t.created_at < g.effective_at - {WAITED} END
        """,
    ),
)
