"""Four eyes."""

import core.fields
import core.ids
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ops', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Approval',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='appr', primary_key=True, serialize=False)),
                ('kind', models.TextField()),
                ('subject_id', models.UUIDField()),
                ('details', models.JSONField(default=dict)),
                ('asked_by', models.TextField()),
                ('asked_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('decided_by', models.TextField(default='')),
                ('decided_at', models.DateTimeField(blank=True, null=True)),
                ('granted', models.BooleanField(null=True)),
            ],
            options={
                'db_table': 'approval',
                'ordering': ('-id',),
                'constraints': [models.UniqueConstraint(condition=models.Q(('decided_at__isnull', True)), fields=('kind', 'subject_id'), name='approval_open_once'), models.CheckConstraint(condition=models.Q(('decided_at__isnull', True), models.Q(('asked_by', models.F('decided_by')), _negated=True), _connector='OR'), name='approval_second_person')],
            },
        ),
    ]
