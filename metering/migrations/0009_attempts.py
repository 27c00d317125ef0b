"""What was tried before a call was answered."""

import core.fields
from decimal import Decimal
from django.db import migrations, models

# The key leads with the organization, so the whole table can be sharded by it.
GUARDS = (
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON attempt FOR EACH ROW EXECUTE FUNCTION refuse_change();"
    "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON attempt FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
)
GUARDS_UNDO = "DROP TRIGGER append_only ON attempt; DROP TRIGGER no_truncate ON attempt;"


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0008_rollup_payer'),
    ]

    operations = [
        migrations.CreateModel(
            name='Attempt',
            fields=[
                ('pk', models.CompositePrimaryKey('organization_id', 'event_id', 'number', blank=True, editable=False, primary_key=True, serialize=False)),
                ('organization_id', models.UUIDField()),
                ('event_id', models.TextField()),
                ('number', models.SmallIntegerField(help_text='From 1')),
                ('channel', models.TextField()),
                ('model', models.TextField(help_text='As the upstream calls it')),
                ('outcome', models.TextField(help_text='answered, or what went wrong')),
                ('status', models.SmallIntegerField(null=True)),
                ('latency_ms', models.IntegerField()),
                ('provider_cost_usd', core.fields.UsdField(null=True)),
                ('at', models.DateTimeField(help_text='When it ended')),
            ],
            options={
                'db_table': 'attempt',
                'constraints': [models.CheckConstraint(condition=models.Q(('provider_cost_usd__isnull', True), models.Q(('provider_cost_usd__gte', 0), ('provider_cost_usd__lt', Decimal('100000000000'))), _connector='OR'), name='attempt_cost_in_range')],
            },
        ),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
    ]
