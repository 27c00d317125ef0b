"""The ledger and the wallets."""

import core.fields
import core.ids
import django.db.models.deletion
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models

TRANSFER = """
CREATE TABLE transfer (
    organization_id uuid NOT NULL REFERENCES organization (id),
    id uuid NOT NULL,
    kind text NOT NULL,
    debit text NOT NULL,
    credit text NOT NULL,
    amount_usd numeric(24,12) NOT NULL,
    reference text NOT NULL,
    seq bigint,
    balance_after_usd numeric(24,12),
    actor text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (organization_id, id),
    -- The cause first: a plan made while the table is small must not go by the organization alone, and read all it has.
    CONSTRAINT transfer_once UNIQUE (reference, kind, organization_id),
    CONSTRAINT transfer_positive CHECK (amount_usd > 0 AND amount_usd < 100000000000),
    CONSTRAINT transfer_between_two CHECK (debit <> credit),
    CONSTRAINT transfer_wallet_has_seq CHECK (
        (seq IS NOT NULL AND balance_after_usd IS NOT NULL)
        OR (seq IS NULL AND balance_after_usd IS NULL AND debit <> 'wallet' AND credit <> 'wallet')),
    CONSTRAINT transfer_balance_in_range CHECK (
        balance_after_usd > -100000000000 AND balance_after_usd < 100000000000)
);
CREATE UNIQUE INDEX transfer_seq_once ON transfer (organization_id, seq) WHERE seq IS NOT NULL;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON transfer FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON transfer FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
TRANSFER_UNDO = "DROP TABLE transfer"

# A wallet changes only together with the transfer that says why: the one with its new seq must
# stand, with the same balance. A wallet begins empty and is never deleted.
EXPLAINED = """
CREATE FUNCTION wallet_is_explained() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.posted_usd <> 0 OR NEW.overdraft_usd <> 0 OR NEW.seq <> 0 THEN
            RAISE EXCEPTION 'a wallet begins empty' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    ELSIF NEW.organization_id <> OLD.organization_id OR NEW.seq <= OLD.seq OR NOT EXISTS (
        SELECT 1 FROM transfer
        WHERE transfer.organization_id = NEW.organization_id AND transfer.seq = NEW.seq
            AND transfer.balance_after_usd = NEW.posted_usd - NEW.overdraft_usd
    ) THEN
        RAISE EXCEPTION 'no transfer explains the change of this wallet'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER explained_from_birth AFTER INSERT ON wallet
    FOR EACH ROW EXECUTE FUNCTION wallet_is_explained();
CREATE TRIGGER explained AFTER UPDATE ON wallet FOR EACH ROW
    WHEN (OLD.posted_usd <> NEW.posted_usd OR OLD.overdraft_usd <> NEW.overdraft_usd OR OLD.seq <> NEW.seq
        OR OLD.organization_id <> NEW.organization_id)
    EXECUTE FUNCTION wallet_is_explained();
CREATE TRIGGER no_delete BEFORE DELETE ON wallet FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON wallet FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
EXPLAINED_UNDO = """
DROP TRIGGER explained ON wallet; DROP TRIGGER explained_from_birth ON wallet;
DROP TRIGGER no_delete ON wallet; DROP TRIGGER no_truncate ON wallet; DROP FUNCTION wallet_is_explained();
"""


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('orgs', '0002_roles'),
    ]

    operations = [
        migrations.CreateModel(
            name='Wallet',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='+', serialize=False, to='orgs.organization')),
                ('posted_usd', core.fields.UsdField(default=0)),
                ('held_usd', core.fields.UsdField(default=0)),
                ('overdraft_usd', core.fields.UsdField(default=0)),
                ('spent_usd', core.fields.UsdField(default=0, help_text='All charges ever, so credits ever = balance + spent')),
                ('credit_limit_usd', core.fields.UsdField(default=0, help_text='How far usage may go below zero before calls are refused')),
                ('low_usd', core.fields.UsdField(default=5, help_text='Below this the wallet counts as low')),
                ('seq', models.BigIntegerField(default=0, help_text='Of the last transfer that touched it')),
                ('head', models.BinaryField(default=b'', help_text='Digest of that transfer')),
                ('frozen_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'db_table': 'wallet',
                'constraints': [models.CheckConstraint(condition=models.Q(('posted_usd__gte', 0), ('posted_usd__lt', Decimal('100000000000'))), name='wallet_posted_in_range'), models.CheckConstraint(condition=models.Q(('held_usd__gte', 0), ('held_usd__lt', Decimal('100000000000'))), name='wallet_held_in_range'), models.CheckConstraint(condition=models.Q(('overdraft_usd__gte', 0), ('overdraft_usd__lt', Decimal('100000000000'))), name='wallet_overdraft_in_range'), models.CheckConstraint(condition=models.Q(('spent_usd__gte', 0), ('spent_usd__lt', Decimal('100000000000'))), name='wallet_spent_in_range'), models.CheckConstraint(condition=models.Q(('credit_limit_usd__gte', 0), ('credit_limit_usd__lt', Decimal('100000000000'))), name='wallet_credit_limit_in_range')],
            },
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(TRANSFER, TRANSFER_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='Transfer',
                    fields=[
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='tr', primary_key=True, serialize=False)),
                        ('kind', models.TextField(choices=[('charge', 'Charge'), ('draw', 'overdraft drawn'), ('repayment', 'overdraft repaid'), ('grant', 'promotional grant')])),
                        ('debit', models.TextField(choices=[('wallet', 'Wallet'), ('overdraft', 'overdraft receivable'), ('revenue', 'Revenue'), ('promotions', 'Promotions'), ('stripe_clearing', 'Stripe Clearing'), ('breakage', 'Breakage'), ('write_offs', 'Write Offs'), ('adjustments', 'Adjustments'), ('receivables', 'Receivables'), ('taxes', 'Taxes'), ('payment_fees', 'Payment Fees')])),
                        ('credit', models.TextField(choices=[('wallet', 'Wallet'), ('overdraft', 'overdraft receivable'), ('revenue', 'Revenue'), ('promotions', 'Promotions'), ('stripe_clearing', 'Stripe Clearing'), ('breakage', 'Breakage'), ('write_offs', 'Write Offs'), ('adjustments', 'Adjustments'), ('receivables', 'Receivables'), ('taxes', 'Taxes'), ('payment_fees', 'Payment Fees')])),
                        ('amount_usd', core.fields.UsdField()),
                        ('reference', models.TextField()),
                        ('seq', models.BigIntegerField(null=True)),
                        ('balance_after_usd', core.fields.UsdField(null=True)),
                        ('actor', models.TextField(default='')),
                        ('reason', models.TextField(default='')),
                        ('created_at', models.DateTimeField()),
                        ('digest', models.BinaryField(help_text="SHA-256 over the wallet's transfer before this one and this one")),
                        ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'db_table': 'transfer',
                        'ordering': ('-id',),
                        'constraints': [models.UniqueConstraint(fields=('reference', 'kind', 'organization'), name='transfer_once'), models.UniqueConstraint(condition=models.Q(('seq__isnull', False)), fields=('organization', 'seq'), name='transfer_seq_once'), models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='transfer_positive'), models.CheckConstraint(condition=models.Q(('debit', models.F('credit')), _negated=True), name='transfer_between_two'), models.CheckConstraint(condition=models.Q(models.Q(('balance_after_usd__isnull', False), ('seq__isnull', False)), models.Q(('balance_after_usd__isnull', True), ('seq__isnull', True), models.Q(('debit', 'wallet'), _negated=True), models.Q(('credit', 'wallet'), _negated=True)), _connector='OR'), name='transfer_wallet_has_seq')],
                    },
                ),
            ],
        ),
        migrations.RunSQL(EXPLAINED, EXPLAINED_UNDO),
    ]
