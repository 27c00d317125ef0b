"""Checks of payments: none is left hanging, what came is what was credited, every event has an outcome."""

from billing.invariants.checks import Check

# A payment that nobody knows anything of for longer than Stripe remembers its key.
HANGING = "interval '24 hours'"
WAITING = "interval '10 minutes'"

CHECKS = (
    Check(
        "V21 payments come to an end",
        "SELECT count(*) FROM payment",
        f"""
        SELECT format('payment %s of %s is %s since %s', id, organization_id, state, coalesce(called_at, created_at))
        FROM payment WHERE state IN ('pending', 'called') AND coalesce(called_at, created_at) < now() - {HANGING}
        UNION ALL
        SELECT format('%s top-ups of %s are open', count(*), organization_id)
        FROM topup WHERE state IN ('pending', 'processing', 'requires_action')
        GROUP BY organization_id HAVING count(*) > 1
        UNION ALL
        SELECT format('%s payments for %s %s are open', count(*), purpose, subject_id)
        FROM payment WHERE state IN ('pending', 'called', 'requires_action', 'processing')
        GROUP BY purpose, subject_id HAVING count(*) > 1
        """,
    ),
    Check(
        "V22 events have an outcome",
        "SELECT count(*) FROM stripe_event",
        f"""
        SELECT format('event %s (%s) waits since %s', stripe_id, kind, coalesce(next_attempt_at, received_at))
        FROM stripe_event WHERE state = 'received' AND (coalesce(next_attempt_at, received_at) < now() - {WAITING}
            OR attempts > 0 AND received_at < now() - {WAITING})
        UNION ALL
        SELECT format('event %s (%s) is %s and nobody says why', stripe_id, kind, state)
        FROM stripe_event WHERE state <> 'received' AND (outcome = '' OR handled_at IS NULL)
        """,
    ),
    Check(
        "P01 payments = credit",
        "SELECT (SELECT count(*) FROM payment) + (SELECT count(*) FROM refund) + (SELECT count(*) FROM dispute)",
        """
        SELECT format('top-up %s of %s is %s, its credit is %s', t.id, t.organization_id, t.state,
            coalesce(g.amount_usd::text, 'none'))
        FROM topup t LEFT JOIN credit_grant g
            ON g.organization_id = t.organization_id AND g.reference = 'topup:' || t.id
        WHERE coalesce(g.amount_usd, 0) <> CASE t.state WHEN 'succeeded' THEN t.amount_usd ELSE 0 END
        UNION ALL
        SELECT format('payment %s of %s is %s, its top-up is %s', p.id, p.organization_id, p.state, t.state)
        FROM payment p JOIN topup t ON t.id = p.subject_id
        WHERE p.purpose = 'topup' AND ((p.state = 'succeeded') <> (t.state = 'succeeded')
            OR p.amount_usd <> t.amount_usd + t.tax_usd)
        UNION ALL
        SELECT format('payment %s of %s says %s went back, its refunds say %s', p.id, p.organization_id,
            p.refunded_usd, coalesce(r.back, 0))
        FROM payment p LEFT JOIN (
            SELECT payment_id, sum(amount_usd) AS back FROM refund
            WHERE state IN ('pending', 'called', 'processing', 'succeeded') GROUP BY payment_id
        ) r ON r.payment_id = p.id
        WHERE p.refunded_usd <> coalesce(r.back, 0)
        UNION ALL
        SELECT format('refund %s of %s is %s over %s, the ledger says %s', r.id, r.organization_id, r.state,
            r.amount_usd, coalesce(t.moved, 0))
        FROM refund r LEFT JOIN LATERAL (
            SELECT sum(CASE WHEN t.credit = 'stripe_clearing' THEN t.amount_usd ELSE -t.amount_usd END) AS moved
            FROM transfer t WHERE t.organization_id = r.organization_id
                AND 'stripe_clearing' IN (t.debit, t.credit)
                AND t.reference IN ('refund:' || r.id, 'refund:' || r.id || '/failed')
        ) t ON true
        WHERE coalesce(t.moved, 0) <> CASE
            WHEN r.state IN ('pending', 'called', 'processing', 'succeeded') THEN r.amount_usd ELSE 0 END
        """,
    ),
)
