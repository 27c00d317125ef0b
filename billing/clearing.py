"""What lies at Stripe, by the books and by Stripe's own account, subject by subject. Reads only.

A subject is a payment, a refund or a dispute: whatever the books moved through ``stripe_clearing`` for it, and
whatever Stripe's balance transactions say of it. What belongs to nobody's money (payouts to our bank, fees of the
account) is Stripe's and ours alone, so no organization's books know it.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection

# So long one side may know what the other does not yet.
GRACE = timedelta(days=2)

# Balance transactions that are about the account and not about a customer's payment, by Stripe's types.
PLATFORM = (
    "payout", "payout_cancel", "payout_failure", "payout_minimum_balance_hold", "payout_minimum_balance_release",
    "stripe_fee", "stripe_fx_fee", "tax_fee", "topup", "topup_reversal", "reserve_transaction", "reserved_funds",
    "reserve_hold", "reserve_release", "payment_network_reserve_hold", "payment_network_reserve_release",
)  # fmt: skip
_PLATFORM = ", ".join(f"'{kind}'" for kind in PLATFORM)
_BEGAN = "coalesce((SELECT began_at FROM reconciliation_mark), 'infinity')"

# Each balance transaction with what it is about; what we do not know keeps Stripe's id.
THEIRS = f"""
    SELECT coalesce('payment:' || p.id, 'refund:' || r.id, 'dispute:' || d.id, nullif(b.source_id, ''), b.stripe_id)
            AS subject,
        coalesce(p.organization_id, r.organization_id, d.organization_id) AS organization_id,
        b.amount_cents * 0.01 AS amount, b.fee_cents * 0.01 AS fee, b.net_cents * 0.01 AS net,
        b.currency <> 'usd' AS strange, b.happened_at AS at
    FROM balance_transaction b
    LEFT JOIN payment p ON p.charge_id = b.source_id
    LEFT JOIN refund r ON r.stripe_id = b.source_id
    LEFT JOIN dispute d ON d.stripe_id = b.source_id
    WHERE b.kind NOT IN ({_PLATFORM}) AND b.happened_at >= {_BEGAN}
"""
# Each transfer through the clearing account with what it is about; out of it is what came to Stripe.
OURS = f"""
    SELECT CASE WHEN p.id IS NOT NULL THEN 'payment:' || p.id
            WHEN t.reference ~ '^(payment|refund|dispute):' THEN split_part(t.reference, '/', 1)
            ELSE 'transfer:' || t.id END AS subject,
        t.organization_id,
        CASE WHEN t.kind = 'fee' THEN 0 WHEN t.debit = 'stripe_clearing' THEN t.amount_usd ELSE -t.amount_usd END
            AS amount,
        CASE WHEN t.kind <> 'fee' THEN 0 WHEN t.debit = 'stripe_clearing' THEN -t.amount_usd ELSE t.amount_usd END
            AS fee,
        t.created_at AS at
    FROM transfer t
    LEFT JOIN LATERAL (
        SELECT id FROM payment WHERE purpose = 'topup' AND organization_id = t.organization_id AND received_usd > 0
            AND subject_id = CASE WHEN t.reference ~ '^topup:[0-9a-f-]{{36}}' THEN substr(t.reference, 7, 36)::uuid END
        ORDER BY id LIMIT 1
    ) p ON true
    WHERE (t.debit = 'stripe_clearing' OR t.credit = 'stripe_clearing') AND t.created_at >= {_BEGAN}
"""
# Both sides of each subject. Where one has nothing, its sum is null.
SUBJECTS = f"""
    SELECT subject, coalesce(o.organization_id, s.organization_id) AS organization_id,
        o.amount AS our_amount, o.fee AS our_fee, s.amount AS their_amount, s.fee AS their_fee,
        coalesce(s.strange, false) AS strange, greatest(o.at, s.at) AS at
    FROM (
        SELECT subject, min(organization_id::text)::uuid AS organization_id, sum(amount) AS amount, sum(fee) AS fee,
            max(at) AS at
        FROM ({OURS}) x GROUP BY subject
    ) o FULL JOIN (
        SELECT subject, min(organization_id::text)::uuid AS organization_id, sum(amount) AS amount, sum(fee) AS fee,
            bool_or(strange) AS strange, max(at) AS at
        FROM ({THEIRS}) x GROUP BY subject
    ) s USING (subject)
"""
# Those on which both sides do not agree.
APART = f"""
    SELECT * FROM ({SUBJECTS}) u
    WHERE strange OR coalesce(our_amount, 0) <> coalesce(their_amount, 0)
        OR coalesce(our_fee, 0) <> coalesce(their_fee, 0)
"""
# Whether finance has explained what subject ``u`` comes to, by these two amounts.
EXPLAINED = """
    EXISTS (SELECT FROM difference d WHERE d.side = 'stripe' AND d.subject = u.subject AND d.state = 'explained'
        AND d.ours_usd IS NOT DISTINCT FROM u.our_amount - u.our_fee
        AND d.theirs_usd IS NOT DISTINCT FROM u.their_amount - u.their_fee)
"""


class Apart(NamedTuple):
    """A subject on which both sides do not agree, in dollars; ``None`` where a side does not know it.

    ``strange``: Stripe moved another currency. ``at``: when either side last moved anything.
    """

    subject: str
    organization_id: UUID | None
    our_amount: Decimal | None
    our_fee: Decimal | None
    their_amount: Decimal | None
    their_fee: Decimal | None
    strange: bool
    at: datetime
    explained: bool

    @property
    def ours(self) -> Decimal | None:
        """What the books say lies at Stripe of it."""
        return None if self.our_amount is None or self.our_fee is None else self.our_amount - self.our_fee

    @property
    def theirs(self) -> Decimal | None:
        """What Stripe says."""
        return None if self.their_amount is None or self.their_fee is None else self.their_amount - self.their_fee


def apart() -> list[Apart]:
    """Every subject on which both sides do not agree just now, however young."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT u.*, {EXPLAINED} FROM ({APART}) u ORDER BY subject")
        return [Apart(*row) for row in cursor.fetchall()]
