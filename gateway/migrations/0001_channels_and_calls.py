"""Channels, routes, terms of calls, keys of calls, and calls of unknown outcome."""

import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models

GUARDS = (
    "CREATE TRIGGER no_delete BEFORE DELETE ON unknown_outcome FOR EACH ROW EXECUTE FUNCTION refuse_change();"
    "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON unknown_outcome"
    " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
)
GUARDS_UNDO = "DROP TRIGGER no_delete ON unknown_outcome; DROP TRIGGER no_truncate ON unknown_outcome;"
# What looks for calls that nobody ended reads no hold that ended well.
EXPIRED = "CREATE INDEX hold_expired ON hold (settled_at) WHERE state = 'expired'"
EXPIRED_UNDO = "DROP INDEX hold_expired"


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('billing', '0007_topups'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='CallTerms',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='+', serialize=False, to='orgs.organization')),
                ('on_hang_up', models.TextField(choices=[('drain', "read the answer to its end and bill the provider's counts"), ('estimate', 'cancel, and bill the prompt and what was produced')], default='drain')),
            ],
            options={
                'verbose_name_plural': 'call terms',
                'db_table': 'call_terms',
            },
        ),
        migrations.CreateModel(
            name='Route',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='route', primary_key=True, serialize=False)),
                ('model', models.TextField(help_text="The catalog's id that customers name", unique=True)),
                ('by', models.TextField(choices=[('price', 'the cheapest by the catalog'), ('latency', 'the quickest to begin, as this process has seen it'), ('weight', 'by the weights of the channels')], default='weight')),
                ('candidates', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), help_text="The catalog's ids to choose among", size=None)),
            ],
            options={
                'db_table': 'route',
                'ordering': ('model',),
            },
        ),
        migrations.CreateModel(
            name='CallKey',
            fields=[
                ('pk', models.CompositePrimaryKey('organization_id', 'key', blank=True, editable=False, primary_key=True, serialize=False)),
                ('organization_id', models.UUIDField()),
                ('key', models.TextField()),
                ('fingerprint', models.BinaryField(help_text='SHA-256 of the request')),
                ('call_id', models.TextField()),
                ('hold_id', models.UUIDField()),
                ('created_at', models.DateTimeField()),
            ],
            options={
                'db_table': 'call_key',
                'indexes': [models.Index(fields=['created_at'], name='call_key_by_age')],
                'constraints': [models.CheckConstraint(condition=django.db.models.lookups.Exact(django.db.models.functions.text.Length('fingerprint'), 32), name='call_key_sha256')],
            },
        ),
        migrations.CreateModel(
            name='Channel',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='chan', primary_key=True, serialize=False)),
                ('name', models.TextField(unique=True)),
                ('kind', models.TextField(choices=[('openai', "speaks OpenAI's protocol"), ('echo', 'built in: repeats what it is told, without a network, where nobody else serves the model')], default='openai')),
                ('base_url', models.TextField(blank=True, default='', help_text='Such as https://api.example.com/v1')),
                ('key_env', models.TextField(blank=True, default='', help_text='The environment variable that holds the key')),
                ('serves', models.JSONField(default=dict, help_text="The catalog's id: the upstream's id")),
                ('groups', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), blank=True, default=list, help_text='Price groups that it serves; empty: everybody', size=None)),
                ('priority', models.IntegerField(default=0, help_text='The highest is asked first')),
                ('weight', models.IntegerField(default=1, help_text='Share among channels of one priority; 0: last')),
                ('enabled', models.BooleanField(default=True)),
                ('connect_ms', models.IntegerField(default=5000)),
                ('first_byte_ms', models.IntegerField(default=60000, help_text='Until the answer begins')),
                ('idle_ms', models.IntegerField(default=60000, help_text='Between two parts of an answer')),
                ('total_ms', models.IntegerField(default=600000)),
                ('concurrency_max', models.IntegerField(blank=True, help_text='Calls at once in each process; empty: any', null=True)),
                ('has_responses', models.BooleanField(default=False, help_text='Serves /responses itself')),
                ('has_stream_usage', models.BooleanField(default=True, help_text='Tells the counts of a stream when asked')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                'db_table': 'channel',
                'ordering': ('name',),
                'constraints': [models.CheckConstraint(condition=models.Q(('weight__gte', 0)), name='channel_weight_not_negative'), models.CheckConstraint(condition=models.Q(('connect_ms__gt', 0), ('first_byte_ms__gt', 0), ('idle_ms__gt', 0), ('total_ms__gt', 0)), name='channel_times_positive'), models.CheckConstraint(condition=models.Q(('concurrency_max__isnull', True), ('concurrency_max__gt', 0), _connector='OR'), name='channel_concurrency_positive')],
            },
        ),
        migrations.CreateModel(
            name='UnknownOutcome',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='lost', primary_key=True, serialize=False)),
                ('hold_id', models.UUIDField(unique=True)),
                ('api_key_id', models.UUIDField(null=True)),
                ('model', models.TextField()),
                ('amount_usd', core.fields.UsdField(help_text='What was set aside: the most that it can have cost')),
                ('began_at', models.DateTimeField()),
                ('expired_at', models.DateTimeField()),
                ('noted_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('resolved_at', models.DateTimeField(blank=True, null=True)),
                ('resolution', models.TextField(blank=True, default='')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'verbose_name': 'call of unknown outcome',
                'verbose_name_plural': 'calls of unknown outcome',
                'db_table': 'unknown_outcome',
                'ordering': ('-id',),
                'constraints': [models.CheckConstraint(condition=models.Q(('amount_usd__gte', 0), ('amount_usd__lt', Decimal('100000000000'))), name='unknown_outcome_in_range')],
            },
        ),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
        migrations.RunSQL(EXPIRED, EXPIRED_UNDO),
    ]
