"""Purchases of credit, one open at a time, and when a wallet asks for one by itself."""

import core.fields
import core.ids
import django.db.models.deletion
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models


GUARDS = (
    "CREATE TRIGGER no_delete BEFORE DELETE ON topup FOR EACH ROW EXECUTE FUNCTION refuse_change();"
    "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON topup FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
)
GUARDS_UNDO = "DROP TRIGGER no_delete ON topup; DROP TRIGGER no_truncate ON topup;"


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0006_check_runs'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='Recharge',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='+', serialize=False, to='orgs.organization')),
                ('threshold_usd', core.fields.UsdField()),
                ('amount_usd', core.fields.UsdField()),
                ('monthly_cap_usd', core.fields.UsdField()),
                ('enabled', models.BooleanField(default=True)),
                ('failures', models.IntegerField(default=0, help_text='Declines in a row')),
                ('paused_until', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'db_table': 'recharge',
                'constraints': [models.CheckConstraint(condition=models.Q(('threshold_usd__gte', 0), ('threshold_usd__lt', Decimal('100000000000'))), name='recharge_threshold_in_range'), models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='recharge_amount_positive'), models.CheckConstraint(condition=models.Q(('monthly_cap_usd__gte', 0), ('monthly_cap_usd__lt', Decimal('100000000000')), ('monthly_cap_usd__gte', models.F('amount_usd'))), name='recharge_cap_in_range')],
            },
        ),
        migrations.CreateModel(
            name='TopUp',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='topup', primary_key=True, serialize=False)),
                ('amount_usd', core.fields.UsdField()),
                ('state', models.TextField(choices=[('pending', 'nobody has been asked for money yet'), ('processing', 'the payment is under way'), ('succeeded', 'Succeeded'), ('failed', 'Failed')], default='pending')),
                ('failure', models.TextField(default='')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'topup',
                'verbose_name': 'top-up',
                'ordering': ('-id',),
                'indexes': [models.Index(fields=['organization', '-id'], name='topup_of_organization')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('state__in', ('pending', 'processing'))), fields=('organization',), name='topup_one_open'), models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='topup_positive'), models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state__in', ('pending', 'processing'))), models.Q(('settled_at__isnull', False), ('state__in', ('succeeded', 'failed'))), _connector='OR'), name='topup_settled')],
            },
        ),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
    ]
