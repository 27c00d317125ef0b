"""What others are to be told, and answers kept for requests that are sent again."""

import core.clock
import core.fields
import core.ids
import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
from django.db import migrations, models

# The key leads with the organization, so the whole table can be sharded by it.
IDEMPOTENCY_KEY = """
CREATE TABLE idempotency_key (
    organization_id uuid NOT NULL REFERENCES organization (id),
    method text NOT NULL,
    path text NOT NULL,
    key text NOT NULL,
    id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    content_type text NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT idempotency_key_once PRIMARY KEY (organization_id, method, path, key),
    CONSTRAINT idempotency_key_done CHECK (status >= 200 AND status < 400),
    CONSTRAINT idempotency_key_sha256 CHECK (length(fingerprint) = 32)
);
CREATE INDEX idempotency_key_by_age ON idempotency_key (id);
"""
IDEMPOTENCY_KEY_UNDO = "DROP TABLE idempotency_key"


class Migration(migrations.Migration):

    dependencies = [
        ('ops', '0002_approvals'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='OutboxMessage',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='evt', primary_key=True, serialize=False)),
                ('kind', models.TextField(help_text='Such as wallet.low')),
                ('key', models.TextField()),
                ('data', models.JSONField(default=dict)),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('delivered_at', models.DateTimeField(blank=True, null=True)),
                ('attempts', models.IntegerField(default=0)),
                ('next_attempt_at', models.DateTimeField(blank=True, help_text='Empty: at once', null=True)),
                ('organization', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'outbox',
                'ordering': ('-id',),
                'indexes': [models.Index(condition=models.Q(('delivered_at__isnull', True)), fields=['id'], name='outbox_waiting')],
                'constraints': [models.UniqueConstraint(fields=('organization', 'kind', 'key'), name='outbox_once', nulls_distinct=False), models.CheckConstraint(condition=models.Q(('attempts__gte', 0)), name='outbox_attempts_not_negative')],
            },
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='IdempotencyKey',
                    fields=[
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='idem', primary_key=True, serialize=False)),
                        ('method', models.TextField()),
                        ('path', models.TextField(help_text='Percent-encoded')),
                        ('key', models.TextField()),
                        ('fingerprint', models.BinaryField(help_text="SHA-256 of the body and the organization's slug")),
                        ('status', models.SmallIntegerField()),
                        ('content_type', models.TextField()),
                        ('body', models.BinaryField()),
                        ('created_at', models.DateTimeField(editable=False)),
                        ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'db_table': 'idempotency_key',
                        'ordering': ('-id',),
                        'indexes': [models.Index(fields=['id'], name='idempotency_key_by_age')],
                        'constraints': [models.UniqueConstraint(fields=('organization', 'method', 'path', 'key'), name='idempotency_key_once'), models.CheckConstraint(condition=models.Q(('status__gte', 200), ('status__lt', 400)), name='idempotency_key_done'), models.CheckConstraint(condition=django.db.models.lookups.Exact(django.db.models.functions.text.Length('fingerprint'), 32), name='idempotency_key_sha256')],
                    },
                ),
            ],
        ),
    ]
