"""Credit in lots, holds, ceilings, acts of finance, and the daily heads of the ledger."""

import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models

# Keys that begin with the organization, as every table that grows does.
TABLES = """
CREATE TABLE credit_grant (
    organization_id uuid NOT NULL REFERENCES organization (id),
    id uuid NOT NULL,
    kind text NOT NULL,
    amount_usd numeric(24,12) NOT NULL,
    remaining_usd numeric(24,12) NOT NULL,
    priority smallint NOT NULL,
    effective_at timestamptz NOT NULL,
    expires_at timestamptz,
    model_slugs text[] NOT NULL,
    reference text NOT NULL,
    source text NOT NULL,
    transfer_id uuid,
    actor text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    -- What an index is asked by must not change with every charge, or no charge would be a heap-only update.
    is_open boolean NOT NULL GENERATED ALWAYS AS (remaining_usd > 0) STORED,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT credit_grant_once UNIQUE (reference, organization_id),
    CONSTRAINT credit_grant_positive CHECK (amount_usd > 0 AND amount_usd < 100000000000),
    CONSTRAINT credit_grant_remaining_in_range CHECK (
        remaining_usd >= 0 AND remaining_usd <= amount_usd AND remaining_usd < 100000000000
    ),
    CONSTRAINT credit_grant_ends_after_it_begins CHECK (expires_at IS NULL OR expires_at > effective_at)
) WITH (fillfactor = 70);
CREATE INDEX credit_grant_open ON credit_grant (organization_id) WHERE is_open;
-- Whose a use is, its transfer's key says.
CREATE TABLE grant_use (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    transfer_id uuid NOT NULL,
    grant_id uuid NOT NULL,
    amount_usd numeric(24,12) NOT NULL,
    first_record_id uuid,
    last_record_id uuid,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, transfer_id) REFERENCES transfer (organization_id, id),
    FOREIGN KEY (organization_id, grant_id) REFERENCES credit_grant (organization_id, id),
    CONSTRAINT grant_use_in_range CHECK (
        amount_usd > -100000000000 AND amount_usd < 100000000000 AND amount_usd <> 0)
);
CREATE INDEX grant_use_by_transfer ON grant_use (organization_id, transfer_id);
CREATE INDEX grant_use_by_grant ON grant_use (organization_id, grant_id);
CREATE TABLE hold (
    organization_id uuid NOT NULL REFERENCES organization (id),
    id uuid NOT NULL,
    payer_id uuid NOT NULL,
    api_key_id uuid,
    member_id uuid,
    project_id uuid,
    placed_by uuid,
    model text NOT NULL,
    amount_usd numeric(24,12) NOT NULL,
    tokens bigint NOT NULL,
    max_output_tokens integer NOT NULL,
    budget_ids uuid[] NOT NULL,
    state text NOT NULL,
    record_id uuid,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    settled_at timestamptz,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT hold_in_range CHECK (amount_usd >= 0 AND amount_usd < 100000000000),
    CONSTRAINT hold_tokens_in_range CHECK (tokens >= 0),
    CONSTRAINT hold_settled_when_not_open CHECK ((state = 'open') = (settled_at IS NULL)),
    CONSTRAINT hold_captured_by_a_record CHECK (record_id IS NULL OR state = 'captured')
) WITH (fillfactor = 70);
CREATE INDEX hold_due ON hold (expires_at) WHERE state = 'open';
CREATE INDEX hold_open_of_payer ON hold (payer_id, id) WHERE state = 'open';
"""
TABLES_UNDO = "DROP TABLE hold; DROP TABLE grant_use; DROP TABLE credit_grant"

# What is for ever cannot be changed; what changes cannot be deleted.
GUARDS = "".join(
    f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();"
    f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
    for table in ("grant_use", "ledger_head")
) + "".join(
    f"CREATE TRIGGER no_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();"
    f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
    for table in ("credit_grant", "hold", "adjustment")
)
GUARDS_UNDO = "".join(
    f"DROP TRIGGER append_only ON {table}; DROP TRIGGER no_truncate ON {table};"
    for table in ("grant_use", "ledger_head")
) + "".join(
    f"DROP TRIGGER no_delete ON {table}; DROP TRIGGER no_truncate ON {table};"
    for table in ("credit_grant", "hold", "adjustment")
)


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0004_reratings'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.AddField(
            model_name='wallet',
            name='enforcement',
            field=models.TextField(choices=[('strict', 'a hold must be covered'), ('soft', 'the balance must be above its floor'), ('off', 'never refused')], default='strict'),
        ),
        migrations.AddField(
            model_name='wallet',
            name='has_budgets',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='wallet',
            name='has_scoped',
            field=models.BooleanField(default=False, help_text='Some credit pays for certain models only'),
        ),
        migrations.AddField(
            model_name='wallet',
            name='level',
            field=models.TextField(choices=[('active', 'Active'), ('low', 'Low'), ('empty', 'Empty')], default='active', help_text='What the last alert said'),
        ),
        migrations.AddField(
            model_name='wallet',
            name='mode',
            field=models.TextField(choices=[('strict', 'empty means refused'), ('fallback', "empty means the caller's personal wallet pays")], default='strict'),
        ),
        migrations.AddField(
            model_name='wallet',
            name='next_change',
            field=models.DateTimeField(help_text='When the next credit ends or begins', null=True),
        ),
        migrations.AlterField(
            model_name='transfer',
            name='kind',
            field=models.TextField(choices=[('charge', 'Charge'), ('draw', 'overdraft drawn'), ('repayment', 'overdraft repaid'), ('grant', 'promotional grant'), ('topup', 'top-up'), ('adjustment', 'Adjustment'), ('refund', 'Refund'), ('write_off', 'Write Off'), ('expiry', 'credit expired'), ('void', 'Void'), ('rerate_up', 're-rated upwards'), ('rerate_down', 're-rated downwards')]),
        ),
        migrations.CreateModel(
            name='LedgerHead',
            fields=[
                ('pk', models.CompositePrimaryKey('organization_id', 'day', blank=True, editable=False, primary_key=True, serialize=False)),
                ('day', models.DateField()),
                ('seq', models.BigIntegerField()),
                ('digest', models.BinaryField()),
                ('posted_usd', core.fields.UsdField()),
                ('overdraft_usd', core.fields.UsdField()),
                ('spent_usd', core.fields.UsdField()),
                ('sealed_at', models.DateTimeField()),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'ledger_head',
                'constraints': [models.CheckConstraint(condition=models.Q(('posted_usd__gte', 0), ('posted_usd__lt', Decimal('100000000000'))), name='ledger_head_posted_in_range'), models.CheckConstraint(condition=models.Q(('overdraft_usd__gte', 0), ('overdraft_usd__lt', Decimal('100000000000'))), name='ledger_head_overdraft_in_range'), models.CheckConstraint(condition=models.Q(('spent_usd__gte', 0), ('spent_usd__lt', Decimal('100000000000'))), name='ledger_head_spent_in_range')],
            },
        ),
        migrations.CreateModel(
            name='Adjustment',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='adj', primary_key=True, serialize=False)),
                ('kind', models.TextField(choices=[('grant', 'promotional credit'), ('credit', "correction in the customer's favour"), ('debit', "correction to the customer's debit"), ('refund', 'purchased credit paid back'), ('write_off', 'overdraft forgiven')])),
                ('amount_usd', core.fields.UsdField()),
                ('terms', models.JSONField(default=dict, help_text='Of a grant: priority, end, models')),
                ('reason', models.TextField()),
                ('actor', models.TextField()),
                ('state', models.TextField(choices=[('waiting', 'waits for a second person'), ('posted', 'Posted'), ('refused', 'Refused')], default='waiting')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'adjustment',
                'ordering': ('-id',),
                'constraints': [models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='adjustment_positive')],
            },
        ),
        migrations.CreateModel(
            name='Budget',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='budget', primary_key=True, serialize=False)),
                ('subject', models.TextField(choices=[('organization', 'Organization'), ('project', 'Project'), ('member', 'Member'), ('key', 'Key')])),
                ('subject_id', models.UUIDField(help_text='Of the organization itself, the project, the member or the key')),
                ('window', models.TextField(choices=[('5h', 'rolling 5 hours'), ('1d', 'rolling day'), ('7d', 'rolling 7 days'), ('month', 'calendar month')])),
                ('unit', models.TextField(choices=[('usd', 'US dollars'), ('tokens', 'Tokens')], default='usd')),
                ('ceiling', core.fields.UsdField()),
                ('spent', core.fields.UsdField(default=0)),
                ('held', core.fields.UsdField(default=0)),
                ('counted_from', models.DateTimeField()),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('removed_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'budget',
                'ordering': ('-id',),
                'constraints': [models.UniqueConstraint(condition=models.Q(('removed_at__isnull', True)), fields=('organization', 'subject', 'subject_id', 'window', 'unit'), name='budget_once'), models.CheckConstraint(condition=models.Q(('ceiling__gte', 0), ('ceiling__lt', Decimal('100000000000'))), name='budget_ceiling_in_range'), models.CheckConstraint(condition=models.Q(('held__gte', 0), ('held__lt', Decimal('100000000000'))), name='budget_held_in_range'), models.CheckConstraint(condition=models.Q(('spent__gt', Decimal('-100000000000')), ('spent__lt', Decimal('100000000000'))), name='budget_spent_in_range')],
            },
        ),
        migrations.CreateModel(
            name='BudgetSpend',
            fields=[
                ('pk', models.CompositePrimaryKey('organization_id', 'budget_id', 'bucket', blank=True, editable=False, primary_key=True, serialize=False)),
                ('budget_id', models.UUIDField()),
                ('bucket', models.DateTimeField(help_text='Its start')),
                ('amount', core.fields.UsdField()),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'budget_spend',
                'constraints': [models.CheckConstraint(condition=models.Q(('amount__gt', Decimal('-100000000000')), ('amount__lt', Decimal('100000000000'))), name='budget_spend_in_range')],
            },
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(TABLES, TABLES_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='Grant',
                    fields=[
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='grant', primary_key=True, serialize=False)),
                        ('kind', models.TextField(choices=[('promotional', 'Promotional'), ('adjustment', 'Adjustment'), ('purchased', 'Purchased')])),
                        ('amount_usd', core.fields.UsdField()),
                        ('remaining_usd', core.fields.UsdField()),
                        ('priority', models.SmallIntegerField(default=0, help_text='Lower is spent first')),
                        ('effective_at', models.DateTimeField()),
                        ('expires_at', models.DateTimeField(blank=True, null=True)),
                        ('model_slugs', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), blank=True, default=list, help_text='Empty: pays for any model', size=None)),
                        ('reference', models.TextField(help_text='Its cause, once per organization')),
                        ('source', models.TextField(help_text='The account that the money came from')),
                        ('transfer_id', models.UUIDField(help_text='Empty until it begins', null=True)),
                        ('actor', models.TextField()),
                        ('reason', models.TextField()),
                        ('created_at', models.DateTimeField()),
                        ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'db_table': 'credit_grant',
                        'ordering': ('-id',),
                        'constraints': [models.UniqueConstraint(fields=('reference', 'organization'), name='credit_grant_once'), models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='credit_grant_positive'), models.CheckConstraint(condition=models.Q(('remaining_usd__gte', 0), ('remaining_usd__lte', models.F('amount_usd'))), name='credit_grant_remaining_in_range'), models.CheckConstraint(condition=models.Q(('expires_at__isnull', True), ('expires_at__gt', models.F('effective_at')), _connector='OR'), name='credit_grant_ends_after_it_begins')],
                    },
                ),
                migrations.CreateModel(
                    name='GrantUse',
                    fields=[
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='use', primary_key=True, serialize=False)),
                        ('transfer_id', models.UUIDField()),
                        ('grant_id', models.UUIDField()),
                        ('amount_usd', core.fields.UsdField()),
                        ('first_record_id', models.UUIDField(null=True)),
                        ('last_record_id', models.UUIDField(null=True)),
                        ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'db_table': 'grant_use',
                        'ordering': ('-id',),
                        'constraints': [models.CheckConstraint(condition=models.Q(('amount_usd__gt', Decimal('-100000000000')), ('amount_usd__lt', Decimal('100000000000')), models.Q(('amount_usd', 0), _negated=True)), name='grant_use_in_range')],
                    },
                ),
                migrations.CreateModel(
                    name='Hold',
                    fields=[
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='auth', primary_key=True, serialize=False)),
                        ('payer_id', models.UUIDField()),
                        ('api_key_id', models.UUIDField(null=True)),
                        ('member_id', models.UUIDField(null=True)),
                        ('project_id', models.UUIDField(null=True)),
                        ('placed_by', models.UUIDField(help_text='The service key that asked', null=True)),
                        ('model', models.TextField()),
                        ('amount_usd', core.fields.UsdField()),
                        ('tokens', models.BigIntegerField(help_text='Input and output at most, for ceilings in tokens')),
                        ('max_output_tokens', models.IntegerField()),
                        ('budget_ids', django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), default=list, help_text='The ceilings that count it', size=None)),
                        ('state', models.TextField(choices=[('open', 'Open'), ('captured', 'Captured'), ('released', 'Released'), ('expired', 'Expired')], default='open')),
                        ('record_id', models.UUIDField(help_text='The usage record that captured it', null=True)),
                        ('created_at', models.DateTimeField()),
                        ('expires_at', models.DateTimeField()),
                        ('settled_at', models.DateTimeField(null=True)),
                        ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'db_table': 'hold',
                        'ordering': ('-id',),
                        'constraints': [models.CheckConstraint(condition=models.Q(('amount_usd__gte', 0), ('amount_usd__lt', Decimal('100000000000'))), name='hold_in_range'), models.CheckConstraint(condition=models.Q(('tokens__gte', 0)), name='hold_tokens_in_range'), models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state', 'open')), models.Q(models.Q(('state', 'open'), _negated=True), ('settled_at__isnull', False)), _connector='OR'), name='hold_settled_when_not_open'), models.CheckConstraint(condition=models.Q(('record_id__isnull', True), ('state', 'captured'), _connector='OR'), name='hold_captured_by_a_record')],
                    },
                ),
            ],
        ),
        migrations.RunSQL(
            "CREATE INDEX wallet_due ON wallet (next_change) WHERE next_change IS NOT NULL", "DROP INDEX wallet_due"
        ),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
    ]
