"""What Stripe and providers say of our money, and where the books differ."""

import core.fields
import core.ids
import django.db.models.deletion
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models

APPEND_ONLY = ("balance_transaction", "provider_bill_line")
UNDELETABLE = ("difference", "provider_bill")


def _guards() -> tuple[str, str]:
    """Triggers that keep what was written, and their removal."""
    made, undone = [], []
    for table in (*APPEND_ONLY, *UNDELETABLE):
        name, changes = ("append_only", "UPDATE OR DELETE") if table in APPEND_ONLY else ("no_delete", "DELETE")
        made.append(
            f"CREATE TRIGGER {name} BEFORE {changes} ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();"
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
        )
        undone.append(f"DROP TRIGGER {name} ON {table}; DROP TRIGGER no_truncate ON {table};")
    return "".join(made), "".join(undone)


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0012_numbers_once'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='BalanceTransaction',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='txn', primary_key=True, serialize=False)),
                ('stripe_id', models.TextField(unique=True)),
                ('kind', models.TextField(help_text="Stripe's type")),
                ('category', models.TextField(default='', help_text="Stripe's reporting category")),
                ('source_id', models.TextField(default='')),
                ('description', models.TextField(default='')),
                ('currency', models.TextField()),
                ('amount_cents', models.BigIntegerField()),
                ('fee_cents', models.BigIntegerField()),
                ('net_cents', models.BigIntegerField()),
                ('happened_at', models.DateTimeField(help_text="By Stripe's clock")),
                ('available_at', models.DateTimeField(help_text='When it can be paid out')),
                ('fetched_at', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'db_table': 'balance_transaction',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='Difference',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='diff', primary_key=True, serialize=False)),
                ('side', models.TextField(choices=[('stripe', 'Stripe'), ('provider', 'Provider')])),
                ('subject', models.TextField()),
                ('ours_usd', core.fields.UsdField(blank=True, null=True)),
                ('theirs_usd', core.fields.UsdField(blank=True, null=True)),
                ('detail', models.TextField(default='')),
                ('state', models.TextField(choices=[('open', 'Open'), ('explained', 'Explained'), ('over', 'no difference any more')], default='open')),
                ('reason', models.TextField(default='', help_text='What finance says of it')),
                ('explained_by', models.TextField(default='')),
                ('found_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('changed_at', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'db_table': 'difference',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='ProviderBill',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='bill', primary_key=True, serialize=False)),
                ('name', models.TextField(help_text='Of the file')),
                ('digest', models.BinaryField(help_text='SHA-256 of the file', unique=True)),
                ('actor', models.TextField()),
                ('loaded_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('withdrawn_at', models.DateTimeField(blank=True, null=True)),
                ('reason', models.TextField(default='', help_text='Why it was withdrawn')),
            ],
            options={
                'db_table': 'provider_bill',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='ProviderBillLine',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='billline', primary_key=True, serialize=False)),
                ('line', models.IntegerField(help_text='In the file')),
                ('provider', models.TextField()),
                ('model', models.TextField()),
                ('month', models.DateField(help_text='Its first day')),
                ('cost_usd', core.fields.UsdField()),
            ],
            options={
                'db_table': 'provider_bill_line',
                'ordering': ('line',),
            },
        ),
        migrations.CreateModel(
            name='ReconciliationMark',
            fields=[
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('began_at', models.DateTimeField()),
                ('fetched_until', models.DateTimeField()),
            ],
            options={
                'db_table': 'reconciliation_mark',
            },
        ),
        migrations.AddIndex(
            model_name='transfer',
            index=models.Index(condition=models.Q(('debit', 'stripe_clearing'), ('credit', 'stripe_clearing'), _connector='OR'), fields=['organization', 'id'], name='transfer_of_clearing'),
        ),
        migrations.AddIndex(
            model_name='balancetransaction',
            index=models.Index(fields=['source_id'], name='balance_transaction_of_source'),
        ),
        migrations.AddIndex(
            model_name='balancetransaction',
            index=models.Index(fields=['happened_at'], name='balance_transaction_by_time'),
        ),
        migrations.AddField(
            model_name='difference',
            name='organization',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization'),
        ),
        migrations.AddConstraint(
            model_name='providerbill',
            constraint=models.CheckConstraint(condition=models.Q(('withdrawn_at__isnull', True), models.Q(('reason', ''), _negated=True), _connector='OR'), name='provider_bill_withdrawn_for_a_reason'),
        ),
        migrations.AddField(
            model_name='providerbillline',
            name='bill',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.providerbill'),
        ),
        migrations.AddConstraint(
            model_name='reconciliationmark',
            constraint=models.CheckConstraint(condition=models.Q(('id', 1)), name='reconciliation_mark_once'),
        ),
        migrations.AddConstraint(
            model_name='reconciliationmark',
            constraint=models.CheckConstraint(condition=models.Q(('fetched_until__gte', models.F('began_at'))), name='reconciliation_mark_goes_on'),
        ),
        migrations.AddIndex(
            model_name='difference',
            index=models.Index(condition=models.Q(('state', 'open')), fields=['state'], name='difference_open'),
        ),
        migrations.AddConstraint(
            model_name='difference',
            constraint=models.UniqueConstraint(fields=('side', 'subject'), name='difference_once'),
        ),
        migrations.AddConstraint(
            model_name='difference',
            constraint=models.CheckConstraint(condition=models.Q(('ours_usd__isnull', True), models.Q(('ours_usd__gt', Decimal('-100000000000')), ('ours_usd__lt', Decimal('100000000000'))), _connector='OR'), name='difference_ours_in_range'),
        ),
        migrations.AddConstraint(
            model_name='difference',
            constraint=models.CheckConstraint(condition=models.Q(('theirs_usd__isnull', True), models.Q(('theirs_usd__gt', Decimal('-100000000000')), ('theirs_usd__lt', Decimal('100000000000'))), _connector='OR'), name='difference_theirs_in_range'),
        ),
        migrations.AddConstraint(
            model_name='difference',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('state', 'explained'), _negated=True), models.Q(models.Q(('reason', ''), _negated=True), models.Q(('explained_by', ''), _negated=True)), _connector='OR'), name='difference_is_explained'),
        ),
        migrations.AddConstraint(
            model_name='providerbillline',
            constraint=models.UniqueConstraint(fields=('bill', 'provider', 'model', 'month'), name='provider_bill_line_once'),
        ),
        migrations.AddConstraint(
            model_name='providerbillline',
            constraint=models.CheckConstraint(condition=models.Q(('cost_usd__gte', 0), ('cost_usd__lt', Decimal('100000000000'))), name='provider_bill_line_in_range'),
        ),
        migrations.AddConstraint(
            model_name='providerbillline',
            constraint=models.CheckConstraint(condition=models.Q(('month__day', 1)), name='provider_bill_line_of_a_month'),
        ),
        migrations.RunSQL(*_guards()),
    ]
