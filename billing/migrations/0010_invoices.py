"""Legal entities, profiles, rates of tax, periods, documents and what was paid of them."""

import billing.models.profiles
import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models

KEPT = ("legal_entity", "number_series", "billing_period", "invoice", "bank_transfer", "dunning_step")
APPENDED = ("tax_rate", "invoice_settlement")


def _guards() -> str:
    rows = ""
    for table in (*KEPT, *APPENDED):
        name, changes = ("no_delete", "DELETE") if table in KEPT else ("append_only", "UPDATE OR DELETE")
        rows += (
            f"CREATE TRIGGER {name} BEFORE {changes} ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();"
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
        )
    return rows


# Each period begins where another one ended, only one begins there, and only one has none before it: so they form
# one chain. (EXCLUDE would need an extension that not every server has.)
TILE = """
ALTER TABLE billing_period ADD CONSTRAINT billing_period_tiles
    FOREIGN KEY (organization_id, follows) REFERENCES billing_period (organization_id, ends_at);
"""

# What was issued stays; only its payment goes on, and never back.
FROZEN = """
CREATE FUNCTION issued_stays() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving constant text[] := ARRAY['state', 'open_usd', 'open_tax_usd', 'paid_usd', 'paid_tax_usd', 'settled_at'];
BEGIN
    IF OLD.state <> 'draft' AND (
        to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving
        OR NOT (NEW.state = OLD.state OR OLD.state = 'open' AND NEW.state IN ('paid', 'void', 'uncollectible'))
    ) THEN
        RAISE EXCEPTION 'an issued document stays as it is' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER issued_stays BEFORE UPDATE ON invoice FOR EACH ROW EXECUTE FUNCTION issued_stays();

CREATE FUNCTION lines_of_drafts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM invoice WHERE state <> 'draft'
            AND id = ANY (ARRAY[CASE WHEN TG_OP <> 'INSERT' THEN OLD.invoice_id END,
                                CASE WHEN TG_OP <> 'DELETE' THEN NEW.invoice_id END])
    ) THEN
        RAISE EXCEPTION 'the lines of an issued document stay as they are'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER lines_of_drafts BEFORE INSERT OR UPDATE OR DELETE ON invoice_line
    FOR EACH ROW EXECUTE FUNCTION lines_of_drafts();

CREATE FUNCTION period_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'finalized' OR (OLD.organization_id, OLD.starts_at, OLD.ends_at)
        IS DISTINCT FROM (NEW.organization_id, NEW.starts_at, NEW.ends_at)
    THEN
        RAISE EXCEPTION 'a period stays where it is, and a finalized one as it is'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER period_stays BEFORE UPDATE ON billing_period FOR EACH ROW EXECUTE FUNCTION period_stays();

CREATE FUNCTION one_number_after_the_other() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.legal_entity_id, NEW.year, NEW.last_number) IS DISTINCT FROM
        (OLD.legal_entity_id, OLD.year, OLD.last_number + 1)
        OR NEW.last_issued_at IS NULL OR NEW.last_issued_at <= OLD.last_issued_at
    THEN
        RAISE EXCEPTION 'numbers follow each other' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER one_number_after_the_other BEFORE UPDATE ON number_series
    FOR EACH ROW EXECUTE FUNCTION one_number_after_the_other();
"""
FROZEN_UNDO = """
DROP TRIGGER issued_stays ON invoice; DROP FUNCTION issued_stays();
DROP TRIGGER lines_of_drafts ON invoice_line; DROP FUNCTION lines_of_drafts();
DROP TRIGGER period_stays ON billing_period; DROP FUNCTION period_stays();
DROP TRIGGER one_number_after_the_other ON number_series; DROP FUNCTION one_number_after_the_other();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0009_payments'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='BillingPeriod',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='per', primary_key=True, serialize=False)),
                ('starts_at', models.DateTimeField()),
                ('ends_at', models.DateTimeField()),
                ('follows', models.DateTimeField(null=True)),
                ('zone', models.TextField()),
                ('anchor_day', models.SmallIntegerField()),
                ('state', models.TextField(choices=[('open', 'goes on, or waits to be drafted'), ('drafted', 'drafted, in its grace'), ('finalized', 'Finalized'), ('parked', 'waits for a person')], default='open')),
                ('charged_usd', core.fields.UsdField(default=0)),
                ('closing_usd', core.fields.UsdField(default=0)),
                ('overdraft_usd', core.fields.UsdField(default=0)),
                ('carried_usd', core.fields.UsdField(default=0)),
                ('parked_for', models.TextField(blank=True, default='', help_text='Why it waits for a person')),
                ('released_at', models.DateTimeField(blank=True, null=True)),
                ('released_by', models.TextField(blank=True, default='')),
                ('released_for', models.TextField(blank=True, default='', help_text='Why a person let it pass')),
                ('drafted_at', models.DateTimeField(blank=True, null=True)),
                ('finalize_at', models.DateTimeField(blank=True, help_text='When its grace is over', null=True)),
                ('finalized_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'billing_period',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='Invoice',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='inv', primary_key=True, serialize=False)),
                ('kind', models.TextField(choices=[('invoice', 'Invoice'), ('statement', 'Statement'), ('receipt', 'Receipt'), ('credit_note', 'credit note')])),
                ('state', models.TextField(choices=[('draft', 'Draft'), ('issued', 'issued, nothing is due'), ('open', 'to be paid'), ('paid', 'Paid'), ('void', 'Void'), ('uncollectible', 'Uncollectible')], default='draft')),
                ('number', models.TextField(blank=True, help_text='As printed, such as TB-2026-000001', null=True)),
                ('year', models.SmallIntegerField(blank=True, null=True)),
                ('sequence', models.IntegerField(blank=True, null=True)),
                ('starts_at', models.DateTimeField(blank=True, null=True)),
                ('ends_at', models.DateTimeField(blank=True, null=True)),
                ('zone', models.TextField(default='UTC', help_text='In which its days are shown')),
                ('opening_usd', core.fields.UsdField(blank=True, help_text='Of a statement: the balance before, in cents', null=True)),
                ('closing_usd', core.fields.UsdField(blank=True, help_text='Of a statement: the balance after, in cents', null=True)),
                ('exact_usd', core.fields.UsdField(default=0)),
                ('subtotal_usd', core.fields.UsdField(default=0)),
                ('tax_usd', core.fields.UsdField(default=0)),
                ('total_usd', core.fields.UsdField(default=0)),
                ('tax_percent', models.DecimalField(decimal_places=3, default=0, max_digits=6)),
                ('tax_name', models.TextField(blank=True, default='')),
                ('tax_treatment', models.TextField(blank=True, default='', help_text='Of billing.taxes: why this much')),
                ('open_usd', core.fields.UsdField(default=0)),
                ('open_tax_usd', core.fields.UsdField(default=0)),
                ('paid_usd', core.fields.UsdField(default=0)),
                ('paid_tax_usd', core.fields.UsdField(default=0)),
                ('seller', models.JSONField(default=dict)),
                ('buyer', models.JSONField(default=dict)),
                ('reason', models.TextField(blank=True, default='', help_text='Of a credit note: why')),
                ('actor', models.TextField(blank=True, default='')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('issued_at', models.DateTimeField(blank=True, null=True)),
                ('due_at', models.DateTimeField(blank=True, help_text='The end of the last day on which it may be paid', null=True)),
                ('settled_at', models.DateTimeField(blank=True, help_text='When it was paid, voided or given up', null=True)),
                ('corrects', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.invoice')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('period', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.billingperiod')),
                ('topup', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.topup')),
            ],
            options={
                'db_table': 'invoice',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='DunningStep',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='dun', primary_key=True, serialize=False)),
                ('step', models.TextField(help_text='reminder_1, reminder_2 …, stop, freeze')),
                ('before', models.JSONField(default=dict)),
                ('at', models.DateTimeField()),
                ('undone_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('invoice', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='dunning', to='billing.invoice')),
            ],
            options={
                'db_table': 'dunning_step',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='BankTransfer',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='bank', primary_key=True, serialize=False)),
                ('amount_usd', core.fields.UsdField()),
                ('statement_reference', models.TextField(help_text="What the bank's statement calls it")),
                ('actor', models.TextField()),
                ('reason', models.TextField()),
                ('state', models.TextField(choices=[('waiting', 'waits for a second person'), ('posted', 'Posted'), ('refused', 'Refused')], default='waiting')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.invoice')),
            ],
            options={
                'db_table': 'bank_transfer',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='InvoiceLine',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='line', primary_key=True, serialize=False)),
                ('place', models.IntegerField()),
                ('kind', models.TextField(choices=[('usage', 'Usage'), ('credit', 'paid from credit, and other movements'), ('carried', 'carried over'), ('topup', 'top-ups'), ('given', 'credit given'), ('adjustment', 'adjustments'), ('refund', 'refunds and payments taken back'), ('expiry', 'credit expired'), ('forgiven', 'debt forgiven'), ('payment', 'invoices paid'), ('correction', 'Correction')])),
                ('text', models.TextField(blank=True, default='')),
                ('model', models.TextField(blank=True, null=True)),
                ('service_tier', models.TextField(blank=True, null=True)),
                ('batch', models.BooleanField(blank=True, null=True)),
                ('api_key_id', models.UUIDField(blank=True, null=True)),
                ('project_id', models.UUIDField(blank=True, null=True)),
                ('requests', models.BigIntegerField(blank=True, null=True)),
                ('input_tokens', models.BigIntegerField(blank=True, null=True)),
                ('cached_input_tokens', models.BigIntegerField(blank=True, null=True)),
                ('output_tokens', models.BigIntegerField(blank=True, null=True)),
                ('exact_usd', core.fields.UsdField()),
                ('amount_usd', core.fields.UsdField()),
                ('invoice', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='lines', to='billing.invoice')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'invoice_line',
                'ordering': ('invoice', 'place'),
            },
        ),
        migrations.CreateModel(
            name='InvoiceSettlement',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='set', primary_key=True, serialize=False)),
                ('kind', models.TextField(choices=[('payment', 'Payment'), ('credit', 'credit note'), ('void', 'Void'), ('write_off', 'given up')])),
                ('amount_usd', core.fields.UsdField()),
                ('tax_usd', core.fields.UsdField()),
                ('over_usd', core.fields.UsdField(default=0)),
                ('source', models.TextField(blank=True, default='', help_text='The account that the money came from')),
                ('reference', models.TextField()),
                ('actor', models.TextField()),
                ('reason', models.TextField(blank=True, default='')),
                ('at', models.DateTimeField()),
                ('invoice', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='settlements', to='billing.invoice')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'invoice_settlement',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='LegalEntity',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='ent', primary_key=True, serialize=False)),
                ('slug', models.TextField(unique=True)),
                ('name', models.TextField()),
                ('address', models.TextField(blank=True, default='')),
                ('country', models.TextField(blank=True, default='')),
                ('vat_id', models.TextField(blank=True, default='')),
                ('email', models.TextField(blank=True, default='')),
                ('time_zone', models.TextField(default='UTC', help_text='Whose calendar says which year a number is of')),
                ('number_prefix', models.TextField(help_text="Before the year in a document's number", unique=True)),
                ('bank_details', models.TextField(blank=True, default='', help_text='Where bank transfers go')),
                ('reminder_days', django.contrib.postgres.fields.ArrayField(base_field=models.SmallIntegerField(), default=billing.models.profiles._reminder_days, size=None)),
                ('stop_days', models.SmallIntegerField(default=24, help_text='Then the credit limit ends')),
                ('freeze_days', models.SmallIntegerField(default=38, help_text='Then the wallet is frozen')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                'verbose_name_plural': 'legal entities',
                'db_table': 'legal_entity',
                'constraints': [models.CheckConstraint(condition=models.Q(('country__regex', '^([A-Z]{2})?$')), name='legal_entity_country'), models.CheckConstraint(condition=models.Q(('number_prefix__regex', '^[A-Z0-9][A-Z0-9-]{0,15}$')), name='legal_entity_prefix')],
            },
        ),
        migrations.AddField(
            model_name='invoice',
            name='legal_entity',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.legalentity'),
        ),
        migrations.CreateModel(
            name='BillingProfile',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='+', serialize=False, to='orgs.organization')),
                ('terms', models.TextField(choices=[('prepaid', 'prepaid: a statement each month'), ('postpaid', 'postpaid: an invoice each month')], default='prepaid')),
                ('net_days', models.SmallIntegerField(default=14, help_text='Until an invoice is due')),
                ('name', models.TextField(blank=True, default='')),
                ('address', models.TextField(blank=True, default='')),
                ('country', models.TextField(blank=True, default='')),
                ('vat_id', models.TextField(blank=True, default='')),
                ('vat_checked_at', models.DateTimeField(blank=True, null=True)),
                ('vat_checked_by', models.TextField(blank=True, default='')),
                ('vat_checked_how', models.TextField(blank=True, default='')),
                ('email', models.TextField(blank=True, default='', help_text='Where documents go; else to those who manage billing')),
                ('grouping', models.TextField(choices=[('none', 'by model'), ('api_key', 'by model and key'), ('project', 'by model and project')], default='none')),
                ('anchor_day', models.SmallIntegerField(default=1)),
                ('bound_usd', core.fields.UsdField(blank=True, help_text='An invoice above it waits for a person; empty: the setting', null=True)),
                ('changed_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('legal_entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.legalentity')),
            ],
            options={
                'db_table': 'billing_profile',
            },
        ),
        migrations.CreateModel(
            name='NumberSeries',
            fields=[
                ('pk', models.CompositePrimaryKey('legal_entity_id', 'year', blank=True, editable=False, primary_key=True, serialize=False)),
                ('year', models.SmallIntegerField()),
                ('last_number', models.IntegerField(default=0)),
                ('last_issued_at', models.DateTimeField(null=True)),
                ('legal_entity', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.legalentity')),
            ],
            options={
                'verbose_name_plural': 'number series',
                'db_table': 'number_series',
            },
        ),
        migrations.CreateModel(
            name='TaxRate',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='tax', primary_key=True, serialize=False)),
                ('country', models.TextField()),
                ('valid_from', models.DateField()),
                ('percent', models.DecimalField(decimal_places=3, max_digits=6)),
                ('name', models.TextField(default='VAT', help_text='As documents call it')),
                ('source', models.TextField(help_text='Where the rate was published')),
                ('actor', models.TextField()),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                'db_table': 'tax_rate',
                'constraints': [models.UniqueConstraint(fields=('country', 'valid_from'), name='tax_rate_once'), models.CheckConstraint(condition=models.Q(('country__regex', '^[A-Z]{2}$')), name='tax_rate_country'), models.CheckConstraint(condition=models.Q(('percent__gte', 0), ('percent__lt', 100)), name='tax_rate_percent')],
            },
        ),
        migrations.AddIndex(
            model_name='billingperiod',
            index=models.Index(condition=models.Q(('state', 'open')), fields=['ends_at'], name='billing_period_open'),
        ),
        migrations.AddIndex(
            model_name='billingperiod',
            index=models.Index(condition=models.Q(('state', 'drafted')), fields=['finalize_at'], name='billing_period_drafted'),
        ),
        migrations.AddIndex(
            model_name='billingperiod',
            index=models.Index(condition=models.Q(('state', 'parked')), fields=['ends_at'], name='billing_period_parked'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.UniqueConstraint(fields=('organization', 'starts_at'), name='billing_period_starts_once'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.UniqueConstraint(fields=('organization', 'ends_at'), name='billing_period_ends_once'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.UniqueConstraint(condition=models.Q(('follows__isnull', True)), fields=('organization',), name='billing_period_one_first'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.CheckConstraint(condition=models.Q(('ends_at__gt', models.F('starts_at'))), name='billing_period_forward'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.CheckConstraint(condition=models.Q(('follows__isnull', True), ('follows', models.F('starts_at')), _connector='OR'), name='billing_period_follows'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.CheckConstraint(condition=models.Q(('charged_usd__gt', Decimal('-100000000000')), ('charged_usd__lt', Decimal('100000000000')), ('closing_usd__gt', Decimal('-100000000000')), ('closing_usd__lt', Decimal('100000000000')), ('overdraft_usd__gt', Decimal('-100000000000')), ('overdraft_usd__lt', Decimal('100000000000')), ('carried_usd__gt', Decimal('-100000000000')), ('carried_usd__lt', Decimal('100000000000'))), name='billing_period_in_range'),
        ),
        migrations.AddConstraint(
            model_name='billingperiod',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('drafted_at__isnull', True), ('finalized_at__isnull', True), ('state', 'open')), models.Q(('drafted_at__isnull', False), ('finalize_at__isnull', False), ('finalized_at__isnull', True), ('state', 'drafted')), models.Q(('finalized_at__isnull', True), ('state', 'parked'), models.Q(('parked_for', ''), _negated=True)), models.Q(('finalized_at__isnull', False), ('state', 'finalized')), _connector='OR'), name='billing_period_state'),
        ),
        migrations.AddConstraint(
            model_name='dunningstep',
            constraint=models.UniqueConstraint(fields=('invoice', 'step'), name='dunning_step_once'),
        ),
        migrations.AddConstraint(
            model_name='banktransfer',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'refused'), _negated=True), fields=('statement_reference',), name='bank_transfer_once'),
        ),
        migrations.AddConstraint(
            model_name='banktransfer',
            constraint=models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='bank_transfer_positive'),
        ),
        migrations.AddConstraint(
            model_name='invoiceline',
            constraint=models.UniqueConstraint(fields=('invoice', 'place'), name='invoice_line_place_once'),
        ),
        migrations.AddConstraint(
            model_name='invoiceline',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'usage')), fields=('invoice', 'model', 'service_tier', 'batch', 'api_key_id', 'project_id'), name='invoice_line_once', nulls_distinct=False),
        ),
        migrations.AddConstraint(
            model_name='invoiceline',
            constraint=models.CheckConstraint(condition=models.Q(('exact_usd__gt', Decimal('-100000000000')), ('exact_usd__lt', Decimal('100000000000')), ('amount_usd__gt', Decimal('-100000000000')), ('amount_usd__lt', Decimal('100000000000'))), name='invoice_line_in_range'),
        ),
        migrations.AddConstraint(
            model_name='invoiceline',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'usage'), _negated=True), models.Q(('batch__isnull', False), ('model__isnull', False), ('requests__isnull', False)), _connector='OR'), name='invoice_line_usage'),
        ),
        migrations.AddConstraint(
            model_name='invoicesettlement',
            constraint=models.UniqueConstraint(fields=('organization', 'reference'), name='invoice_settlement_once'),
        ),
        migrations.AddConstraint(
            model_name='invoicesettlement',
            constraint=models.CheckConstraint(condition=models.Q(('amount_usd__gte', 0), ('amount_usd__lt', Decimal('100000000000')), ('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000')), ('over_usd__gte', 0), ('over_usd__lt', Decimal('100000000000')), ('tax_usd__lte', models.F('amount_usd')), models.Q(('amount_usd__gt', 0), ('over_usd__gt', 0), _connector='OR')), name='invoice_settlement_in_range'),
        ),
        migrations.AddIndex(
            model_name='invoice',
            index=models.Index(fields=['organization', '-id'], name='invoice_of_organization'),
        ),
        migrations.AddIndex(
            model_name='invoice',
            index=models.Index(condition=models.Q(('state', 'open')), fields=['due_at'], name='invoice_unpaid'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('period__isnull', False)), fields=('period',), name='invoice_once_a_period'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('topup__isnull', False)), fields=('topup',), name='invoice_once_a_topup'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('sequence__isnull', False)), fields=('legal_entity', 'year', 'sequence'), name='invoice_number_once'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('number__isnull', False)), fields=('number',), name='invoice_shown_once'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'statement'), ('number__isnull', True), ('sequence__isnull', True), ('year__isnull', True)), models.Q(('number__isnull', True), ('sequence__isnull', True), ('state', 'draft'), ('year__isnull', True)), models.Q(models.Q(('kind', 'statement'), _negated=True), models.Q(('state', 'draft'), _negated=True), ('number__isnull', False), ('sequence__gt', 0), ('year__isnull', False)), _connector='OR'), name='invoice_numbered'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('issued_at__isnull', True), ('state', 'draft')), models.Q(models.Q(('state', 'draft'), _negated=True), ('issued_at__isnull', False)), _connector='OR'), name='invoice_issued'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'draft'), models.Q(('due_at__isnull', False), ('kind', 'invoice'), models.Q(('state', 'issued'), _negated=True)), models.Q(models.Q(('kind', 'invoice'), _negated=True), ('state', 'issued')), _connector='OR'), name='invoice_state_of_kind'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind__in', ('invoice', 'statement')), ('period__isnull', False), ('topup__isnull', True)), models.Q(('kind', 'receipt'), ('period__isnull', True), ('topup__isnull', False)), models.Q(('corrects__isnull', False), ('kind', 'credit_note'), ('period__isnull', True), ('topup__isnull', True)), _connector='OR'), name='invoice_cause'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('total_usd', django.db.models.expressions.CombinedExpression(models.F('subtotal_usd'), '+', models.F('tax_usd'))), ('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000')), ('subtotal_usd__gt', Decimal('-100000000000')), ('subtotal_usd__lt', Decimal('100000000000'))), name='invoice_adds_up'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('exact_usd__gt', Decimal('-100000000000')), ('exact_usd__lt', Decimal('100000000000')), ('total_usd__gt', Decimal('-100000000000')), ('total_usd__lt', Decimal('100000000000')), models.Q(('opening_usd__isnull', True), models.Q(('opening_usd__gt', Decimal('-100000000000')), ('opening_usd__lt', Decimal('100000000000'))), _connector='OR'), models.Q(('closing_usd__isnull', True), models.Q(('closing_usd__gt', Decimal('-100000000000')), ('closing_usd__lt', Decimal('100000000000'))), _connector='OR')), name='invoice_amounts_in_range'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('kind', 'statement'), ('state', 'draft'), ('total_usd__gt', 0), _connector='OR'), name='invoice_positive'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(('open_usd__gte', 0), ('open_usd__lt', Decimal('100000000000')), ('open_tax_usd__gte', 0), ('open_tax_usd__lt', Decimal('100000000000')), ('paid_usd__gte', 0), ('paid_usd__lt', Decimal('100000000000')), ('paid_tax_usd__gte', 0), ('paid_tax_usd__lt', Decimal('100000000000')), ('open_tax_usd__lte', models.F('open_usd')), ('paid_tax_usd__lte', models.F('paid_usd')), models.Q(models.Q(('kind', 'invoice'), ('open_usd__gt', 0), ('settled_at__isnull', True), ('state', 'open')), models.Q(('kind', 'invoice'), ('open_usd', 0), ('settled_at__isnull', False), ('state__in', ('paid', 'void', 'uncollectible'))), models.Q(('open_usd', 0), ('settled_at__isnull', True), ('state__in', ('draft', 'issued'))), _connector='OR')), name='invoice_open'),
        ),
        migrations.AddConstraint(
            model_name='billingprofile',
            constraint=models.CheckConstraint(condition=models.Q(('country__regex', '^([A-Z]{2})?$')), name='billing_profile_country'),
        ),
        migrations.AddConstraint(
            model_name='billingprofile',
            constraint=models.CheckConstraint(condition=models.Q(('anchor_day__gte', 1), ('anchor_day__lte', 31)), name='billing_profile_anchor'),
        ),
        migrations.AddConstraint(
            model_name='billingprofile',
            constraint=models.CheckConstraint(condition=models.Q(('net_days__gte', 0), ('net_days__lte', 180)), name='billing_profile_net'),
        ),
        migrations.AddConstraint(
            model_name='billingprofile',
            constraint=models.CheckConstraint(condition=models.Q(('bound_usd__isnull', True), models.Q(('bound_usd__gte', 0), ('bound_usd__lt', Decimal('100000000000'))), _connector='OR'), name='billing_profile_bound_in_range'),
        ),
        migrations.AddConstraint(
            model_name='billingprofile',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('vat_checked_at__isnull', True), ('vat_checked_by', ''), ('vat_checked_how', '')), models.Q(('vat_checked_at__isnull', False), models.Q(('vat_id', ''), _negated=True), models.Q(('vat_checked_by', ''), _negated=True), models.Q(('vat_checked_how', ''), _negated=True)), _connector='OR'), name='billing_profile_checked'),
        ),
        migrations.RunSQL(_guards(), migrations.RunSQL.noop),
        migrations.RunSQL(TILE, "ALTER TABLE billing_period DROP CONSTRAINT billing_period_tiles"),
        migrations.RunSQL(FROZEN, FROZEN_UNDO),
    ]
