"""Corrections: voids and the differences of re-ratings. Append-only."""

import core.fields
import core.ids
import django.db.models.deletion
from decimal import Decimal
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0002_low_in_range'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.AlterField(
            model_name='transfer',
            name='kind',
            field=models.TextField(choices=[('charge', 'Charge'), ('draw', 'overdraft drawn'), ('repayment', 'overdraft repaid'), ('grant', 'promotional grant'), ('void', 'Void'), ('rerate_up', 're-rated upwards'), ('rerate_down', 're-rated downwards')]),
        ),
        migrations.CreateModel(
            name='Correction',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='usage', primary_key=True, serialize=False)),
                ('record_id', models.UUIDField(help_text='The record that is corrected')),
                ('kind', models.TextField(choices=[('void', 'Void'), ('rerating', 're-rating')])),
                ('cause', models.TextField()),
                ('cost_usd', core.fields.UsdField(help_text='The difference: negative gives back')),
                ('transfer_id', models.UUIDField(null=True)),
                ('actor', models.TextField()),
                ('reason', models.TextField()),
                ('created_at', models.DateTimeField()),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'correction',
                'ordering': ('-id',),
                'constraints': [models.UniqueConstraint(fields=('organization', 'record_id', 'cause'), name='correction_once'), models.CheckConstraint(condition=models.Q(('cost_usd__gt', Decimal('-100000000000')), ('cost_usd__lt', Decimal('100000000000'))), name='correction_in_range')],
            },
        ),
        migrations.RunSQL(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON correction"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change();"
            "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON correction"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
            "DROP TRIGGER append_only ON correction; DROP TRIGGER no_truncate ON correction",
        ),
    ]
