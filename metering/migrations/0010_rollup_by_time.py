"""Sums over everybody's rollups of some days read the blocks of these days: they are written in the order of time."""

import django.contrib.postgres.indexes
from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0009_attempts'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='usagerollup',
            index=django.contrib.postgres.indexes.BrinIndex(
                autosummarize=True, fields=['starts_at'], name='usage_rollup_by_time', pages_per_range=32,
            ),
        ),
    ]
