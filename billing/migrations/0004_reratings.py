"""Acts of re-rating and their share in each organization."""

import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0003_corrections'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='Rerating',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='rerate', primary_key=True, serialize=False)),
                ('start', models.DateTimeField(help_text='Of created_at, inclusive')),
                ('end', models.DateTimeField(help_text='Exclusive')),
                ('model_slugs', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), blank=True, default=list, help_text='Empty means all', size=None)),
                ('organization_ids', django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), blank=True, default=list, help_text='Empty means all', size=None)),
                ('reason', models.TextField()),
                ('actor', models.TextField()),
                ('state', models.TextField(choices=[('planned', 'Planned'), ('applying', 'Applying'), ('applied', 'Applied')], default='planned')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('applied_at', models.DateTimeField(blank=True, null=True)),
                ('undoes', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.rerating')),
            ],
            options={
                'db_table': 'rerating',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='ReratingShare',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('last_record_id', models.UUIDField(null=True)),
                ('records', models.BigIntegerField(default=0, help_text='Records whose cost changes')),
                ('before_usd', core.fields.UsdField(default=0)),
                ('after_usd', core.fields.UsdField(default=0)),
                ('unpriced', models.BigIntegerField(default=0, help_text="Records that today's book cannot price; left alone")),
                ('finished', models.BooleanField(default=False)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('rerating', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.rerating')),
            ],
            options={
                'db_table': 'rerating_share',
                'constraints': [models.UniqueConstraint(fields=('rerating', 'organization'), name='rerating_share_once'), models.CheckConstraint(condition=models.Q(('after_usd__gt', Decimal('-100000000000')), ('after_usd__lt', Decimal('100000000000')), ('before_usd__gt', Decimal('-100000000000')), ('before_usd__lt', Decimal('100000000000'))), name='rerating_share_in_range')],
            },
        ),
    ]
