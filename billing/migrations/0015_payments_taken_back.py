"""Payments that are taken back open their invoices again, and money of a receipt that goes back has a credit note."""

import django.db.models.deletion
from decimal import Decimal
from django.db import migrations, models

# What was issued stays; only its payment goes on, and back where less of it is paid than before.
FROZEN = """
CREATE OR REPLACE FUNCTION issued_stays() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving constant text[] := ARRAY['state', 'open_usd', 'open_tax_usd', 'paid_usd', 'paid_tax_usd', 'settled_at',
        'reopened_at'];
BEGIN
    IF OLD.state <> 'draft' AND (
        to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving
        OR NOT (NEW.state = OLD.state OR OLD.state = 'open' AND NEW.state IN ('paid', 'void', 'uncollectible')
            OR OLD.state IN ('paid', 'uncollectible') AND NEW.state = 'open' AND NEW.paid_usd < OLD.paid_usd)
    ) THEN
        RAISE EXCEPTION 'an issued document stays as it is' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
"""
FROZEN_BEFORE = """
CREATE OR REPLACE FUNCTION issued_stays() RETURNS trigger LANGUAGE plpgsql AS $$
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
"""


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0014_payment_amounts_in_range'),
        ('orgs', '0005_rate_limits'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='dunningstep',
            name='dunning_step_once',
        ),
        migrations.RemoveConstraint(
            model_name='invoicesettlement',
            name='invoice_settlement_in_range',
        ),
        migrations.AddField(
            model_name='invoice',
            name='dispute',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.dispute'),
        ),
        migrations.AddField(
            model_name='invoice',
            name='refund',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.refund'),
        ),
        migrations.AddField(
            model_name='invoice',
            name='reopened_at',
            field=models.DateTimeField(blank=True, help_text='When a payment of it was taken back', null=True),
        ),
        migrations.AddField(
            model_name='invoicesettlement',
            name='payment',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.payment'),
        ),
        migrations.AlterField(
            model_name='invoicesettlement',
            name='kind',
            field=models.TextField(choices=[('payment', 'Payment'), ('credit', 'credit note'), ('void', 'Void'), ('write_off', 'given up'), ('return', 'payment taken back')]),
        ),
        migrations.AlterField(
            model_name='invoicesettlement',
            name='source',
            field=models.TextField(blank=True, default='', help_text='The account that the money came from, or went to'),
        ),
        migrations.AddConstraint(
            model_name='dunningstep',
            constraint=models.UniqueConstraint(condition=models.Q(('undone_at__isnull', True)), fields=('invoice', 'step'), name='dunning_step_once'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('refund__isnull', False)), fields=('refund',), name='invoice_once_a_refund'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('dispute__isnull', False)), fields=('dispute',), name='invoice_once_a_dispute'),
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('dispute__isnull', True), ('refund__isnull', True)), models.Q(('kind', 'credit_note'), models.Q(('refund__isnull', True), ('dispute__isnull', True), _connector='OR')), _connector='OR'), name='invoice_of_money_back'),
        ),
        migrations.AddConstraint(
            model_name='invoicesettlement',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(models.Q(('kind', 'return'), _negated=True), ('amount_usd__gte', 0), ('amount_usd__lt', Decimal('100000000000')), ('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000')), ('over_usd__gte', 0), ('over_usd__lt', Decimal('100000000000')), ('tax_usd__lte', models.F('amount_usd')), models.Q(('amount_usd__gt', 0), ('over_usd__gt', 0), _connector='OR')), models.Q(('amount_usd__lte', 0), ('kind', 'return'), ('over_usd__lte', 0), ('payment__isnull', False), ('tax_usd__lte', 0), ('amount_usd__gt', Decimal('-100000000000')), ('amount_usd__lt', Decimal('100000000000')), ('tax_usd__gt', Decimal('-100000000000')), ('tax_usd__lt', Decimal('100000000000')), ('over_usd__gt', Decimal('-100000000000')), ('over_usd__lt', Decimal('100000000000')), ('tax_usd__gte', models.F('amount_usd')), models.Q(('amount_usd__lt', 0), ('over_usd__lt', 0), _connector='OR')), _connector='OR'), name='invoice_settlement_in_range'),
        ),
        migrations.RunSQL(FROZEN, FROZEN_BEFORE),
    ]
