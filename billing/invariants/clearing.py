"""Checks of the money that lies at Stripe: the books against the balance transactions that were fetched.

They read what ``billing.processor.reconciliation`` has kept and ask nobody. Before its first run there is nothing to
compare. For two days one side may know what the other does not yet; what finance has explained is no violation.
"""

from billing import clearing
from billing.invariants.checks import Check

_GRACE = f"make_interval(secs => {clearing.GRACE.total_seconds():.0f})"
# Whether subject ``u`` may still differ.
_YOUNG = f"u.at > clock_timestamp() - {_GRACE}"
_PLATFORM = ", ".join(f"'{kind}'" for kind in clearing.PLATFORM)

CHECKS = (
    Check(
        "V19 payments at Stripe = books",
        f"SELECT count(*) FROM ({clearing.SUBJECTS}) u",
        f"""
        SELECT format('%s of %s: %s less a fee of %s in the books, %s less %s at Stripe', u.subject,
            coalesce(u.organization_id::text, 'nobody'), coalesce(u.our_amount::text, 'nothing'),
            coalesce(u.our_fee, 0), coalesce(u.their_amount::text, 'nothing'), coalesce(u.their_fee, 0))
        FROM ({clearing.APART}) u WHERE NOT ({_YOUNG}) AND NOT {clearing.EXPLAINED}
        """,
    ),
    # By plain sums of accounts, not by subjects: those only say by how much the sums may differ.
    Check(
        "V20 clearing account = Stripe's balance",
        "SELECT count(*) FROM balance_transaction",
        f"""
        WITH moved (organization_id, usd) AS (
            SELECT organization_id, CASE debit WHEN 'stripe_clearing' THEN amount_usd ELSE -amount_usd END
            FROM transfer WHERE (debit = 'stripe_clearing' OR credit = 'stripe_clearing')
                AND created_at >= (SELECT began_at FROM reconciliation_mark)
            UNION ALL
            SELECT organization_id, -net FROM ({clearing.THEIRS}) s
            UNION ALL
            SELECT organization_id, -(coalesce(our_amount - our_fee, 0) - coalesce(their_amount - their_fee, 0))
            FROM ({clearing.APART}) u WHERE {_YOUNG} OR {clearing.EXPLAINED}
        )
        SELECT format('%s: %s USD more through the clearing account than at Stripe',
            coalesce(organization_id::text, 'nobody'), sum(usd))
        FROM moved GROUP BY organization_id HAVING sum(usd) <> 0
        """,
    ),
)
