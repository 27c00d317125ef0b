"""Catalog, usage, claims and quarantine."""

import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

SHARED = """
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    event_id text NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    api_key_id uuid,
    member_id uuid,
    project_id uuid,
    reported_by uuid,
    end_user text,
    source text NOT NULL,
    model text NOT NULL,
    routed_model text,
    provider text,
    channel text,
    attempts smallint,
    endpoint text,
    stream boolean,
    status smallint,
    finish_reason text,
    outcome text NOT NULL,
    ttft_ms integer,
    latency_ms integer,
    request_id text,
    provider_cost_usd numeric(24,12) CHECK (provider_cost_usd > -100000000000 AND provider_cost_usd < 100000000000),
    metadata jsonb,
    input_tokens integer NOT NULL,
    output_tokens integer NOT NULL
"""

APPEND_ONLY = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {0} FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {0} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# The key leads with the organization, so the whole table can be sharded by it; ranges are months
# of the time-ordered id. Counts of a correction are negative; nothing else may be.
USAGE_RECORD = f"""
CREATE TABLE usage_record ({SHARED},
    payer_id uuid NOT NULL,
    transfer_id uuid,
    cached_input_tokens integer NOT NULL,
    cache_write_tokens integer NOT NULL,
    cache_write_1h_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL,
    image_input_tokens integer NOT NULL,
    audio_input_tokens integer NOT NULL,
    cached_image_tokens integer NOT NULL,
    cached_audio_tokens integer NOT NULL,
    image_output_tokens integer NOT NULL,
    audio_output_tokens integer NOT NULL,
    units jsonb,
    service_tier text,
    batch boolean NOT NULL,
    usage_source text NOT NULL,
    cost_usd numeric(24,12) NOT NULL,
    price_id uuid NOT NULL,
    rule_id uuid,
    authorization_id uuid,
    corrects_id uuid,
    PRIMARY KEY (organization_id, id),
    CONSTRAINT usage_record_cost_in_range CHECK (
        cost_usd > -100000000000 AND cost_usd < 100000000000 AND (cost_usd >= 0 OR corrects_id IS NOT NULL)),
    CONSTRAINT usage_record_counts_not_negative CHECK (
        corrects_id IS NOT NULL OR (input_tokens >= 0 AND output_tokens >= 0)),
    CONSTRAINT usage_record_cost_has_transfer CHECK ((cost_usd = 0) = (transfer_id IS NULL))
) PARTITION BY RANGE (id);
{APPEND_ONLY.format("usage_record")}
"""
USAGE_RECORD_UNDO = "DROP TABLE usage_record"

REQUEST_LOG = f"""
CREATE TABLE request_log ({SHARED},
    PRIMARY KEY (organization_id, id)
) PARTITION BY RANGE (id);
{APPEND_ONLY.format("request_log")}
"""
REQUEST_LOG_UNDO = "DROP TABLE request_log"

CLAIM_PARTS = 16
CLAIM = """
CREATE TABLE usage_claim (
    organization_id uuid NOT NULL,
    event_id text NOT NULL,
    state text NOT NULL,
    record_id uuid NOT NULL,
    cost_usd numeric(24,12) NOT NULL,
    fingerprint bytea NOT NULL,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, event_id),
    CONSTRAINT usage_claim_cost_in_range CHECK (cost_usd >= 0 AND cost_usd < 100000000000)
) PARTITION BY HASH (organization_id);
""" + "".join(
    f"CREATE TABLE usage_claim_{part:02} PARTITION OF usage_claim"
    f" FOR VALUES WITH (MODULUS {CLAIM_PARTS}, REMAINDER {part});\n"
    for part in range(CLAIM_PARTS)
)
CLAIM_UNDO = "DROP TABLE usage_claim"

PRICES_APPEND_ONLY = APPEND_ONLY.format("price")


def first_months(apps, schema_editor):
    """The present month and those ahead, so that the first event finds its partition."""
    from metering import partitions

    partitions.ensure()


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('orgs', '0002_roles'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CLAIM, CLAIM_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='UsageClaim',
                    fields=[
                        ('pk', models.CompositePrimaryKey('organization_id', 'event_id', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('organization_id', models.UUIDField()),
                        ('event_id', models.TextField()),
                        ('state', models.TextField(choices=[('recorded', 'Recorded'), ('quarantined', 'Quarantined'), ('logged', 'Logged')])),
                        ('record_id', models.UUIDField(help_text='Of the record, the quarantine row or the log row')),
                        ('cost_usd', core.fields.UsdField()),
                        ('fingerprint', models.BinaryField()),
                        ('occurred_at', models.DateTimeField()),
                    ],
                    options={
                        'db_table': 'usage_claim',
                    },
                ),
            ],
        ),
        migrations.CreateModel(
            name='CatalogModel',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='model', primary_key=True, serialize=False)),
                ('slug', models.TextField(unique=True)),
                ('name', models.TextField()),
                ('vendor', models.TextField(help_text='Who made it')),
                ('brand', models.TextField()),
                ('provider', models.TextField(help_text='Who serves it; the label of the catalog')),
                ('owned_by', models.TextField(help_text='The vendor as a slug')),
                ('kind', models.TextField(choices=[('vendor_model', 'Vendor'), ('smart_route', 'Smart'), ('system_route', 'System')], default='vendor_model')),
                ('categories', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), blank=True, default=list, size=None)),
                ('capabilities', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), blank=True, default=list, size=None)),
                ('aliases', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), blank=True, default=list, help_text='Other ids that mean this model', size=None)),
                ('context_window', models.BigIntegerField(blank=True, help_text='Tokens', null=True)),
                ('max_output_tokens', models.BigIntegerField(blank=True, null=True)),
                ('max_stop_sequences', models.SmallIntegerField(default=4)),
                ('encoding', models.TextField(default='o200k_base', help_text="tiktoken's table for estimates")),
                ('released_at', models.DateTimeField()),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'verbose_name': 'model',
                'db_table': 'model',
                'ordering': ('slug',),
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('slug', 'catalog'), _negated=True), models.Q(('slug', ''), _negated=True)), name='model_slug_not_reserved')],
            },
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(REQUEST_LOG, REQUEST_LOG_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='RequestLog',
                    fields=[
                        ('event_id', models.TextField()),
                        ('occurred_at', models.DateTimeField()),
                        ('recorded_at', models.DateTimeField()),
                        ('api_key_id', models.UUIDField(null=True)),
                        ('member_id', models.UUIDField(null=True)),
                        ('project_id', models.UUIDField(null=True)),
                        ('reported_by', models.UUIDField(help_text='The service key that posted the event', null=True)),
                        ('end_user', models.TextField(null=True)),
                        ('source', models.TextField()),
                        ('model', models.TextField(help_text='The id asked for and billed')),
                        ('routed_model', models.TextField(null=True)),
                        ('provider', models.TextField(null=True)),
                        ('channel', models.TextField(null=True)),
                        ('attempts', models.SmallIntegerField(null=True)),
                        ('endpoint', models.TextField(null=True)),
                        ('stream', models.BooleanField(null=True)),
                        ('status', models.SmallIntegerField(null=True)),
                        ('finish_reason', models.TextField(null=True)),
                        ('outcome', models.TextField()),
                        ('ttft_ms', models.IntegerField(null=True)),
                        ('latency_ms', models.IntegerField(null=True)),
                        ('request_id', models.TextField(null=True)),
                        ('provider_cost_usd', core.fields.UsdField(null=True)),
                        ('metadata', models.JSONField(null=True)),
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='log', primary_key=True, serialize=False)),
                        ('input_tokens', models.IntegerField()),
                        ('output_tokens', models.IntegerField()),
                        ('organization', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'verbose_name': 'failed request',
                        'db_table': 'request_log',
                        'ordering': ('-id',),
                    },
                ),
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(USAGE_RECORD, USAGE_RECORD_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='UsageRecord',
                    fields=[
                        ('event_id', models.TextField()),
                        ('occurred_at', models.DateTimeField()),
                        ('recorded_at', models.DateTimeField()),
                        ('api_key_id', models.UUIDField(null=True)),
                        ('member_id', models.UUIDField(null=True)),
                        ('project_id', models.UUIDField(null=True)),
                        ('reported_by', models.UUIDField(help_text='The service key that posted the event', null=True)),
                        ('end_user', models.TextField(null=True)),
                        ('source', models.TextField()),
                        ('model', models.TextField(help_text='The id asked for and billed')),
                        ('routed_model', models.TextField(null=True)),
                        ('provider', models.TextField(null=True)),
                        ('channel', models.TextField(null=True)),
                        ('attempts', models.SmallIntegerField(null=True)),
                        ('endpoint', models.TextField(null=True)),
                        ('stream', models.BooleanField(null=True)),
                        ('status', models.SmallIntegerField(null=True)),
                        ('finish_reason', models.TextField(null=True)),
                        ('outcome', models.TextField()),
                        ('ttft_ms', models.IntegerField(null=True)),
                        ('latency_ms', models.IntegerField(null=True)),
                        ('request_id', models.TextField(null=True)),
                        ('provider_cost_usd', core.fields.UsdField(null=True)),
                        ('metadata', models.JSONField(null=True)),
                        ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='usage', primary_key=True, serialize=False)),
                        ('payer_id', models.UUIDField()),
                        ('transfer_id', models.UUIDField(null=True)),
                        ('input_tokens', models.IntegerField()),
                        ('cached_input_tokens', models.IntegerField()),
                        ('cache_write_tokens', models.IntegerField()),
                        ('cache_write_1h_tokens', models.IntegerField()),
                        ('output_tokens', models.IntegerField()),
                        ('reasoning_tokens', models.IntegerField()),
                        ('image_input_tokens', models.IntegerField()),
                        ('audio_input_tokens', models.IntegerField()),
                        ('cached_image_tokens', models.IntegerField()),
                        ('cached_audio_tokens', models.IntegerField()),
                        ('image_output_tokens', models.IntegerField()),
                        ('audio_output_tokens', models.IntegerField()),
                        ('units', models.JSONField(null=True)),
                        ('service_tier', models.TextField(null=True)),
                        ('batch', models.BooleanField()),
                        ('usage_source', models.TextField(help_text='provider, estimated or mixed')),
                        ('cost_usd', core.fields.UsdField()),
                        ('price_id', models.UUIDField()),
                        ('rule_id', models.UUIDField(help_text='The markup or contract rule applied to the price', null=True)),
                        ('authorization_id', models.UUIDField(null=True)),
                        ('corrects_id', models.UUIDField(help_text='The record that this one corrects', null=True)),
                        ('organization', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                    ],
                    options={
                        'db_table': 'usage_record',
                        'ordering': ('-id',),
                    },
                ),
            ],
        ),
        migrations.CreateModel(
            name='Price',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='price', primary_key=True, serialize=False)),
                ('effective_from', models.DateTimeField()),
                ('effective_to', models.DateTimeField(blank=True, null=True)),
                ('rates', models.JSONField(help_text='The rate card (docs/adr/0005)')),
                ('source', models.TextField(help_text='Where the price was published')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='metering.catalogmodel')),
            ],
            options={
                'db_table': 'price',
                'ordering': ('model', '-effective_from'),
                'constraints': [models.UniqueConstraint(fields=('model', 'effective_from'), name='price_once_per_start'), models.CheckConstraint(condition=models.Q(('effective_to__isnull', True), ('effective_to__gt', models.F('effective_from')), _connector='OR'), name='price_ends_after_start')],
            },
        ),
        migrations.CreateModel(
            name='Quarantine',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='quar', primary_key=True, serialize=False)),
                ('scope', models.TextField()),
                ('event_id', models.TextField()),
                ('reason', models.TextField(choices=[('unpriced', 'Unpriced'), ('unknown_model', 'Unknown Model'), ('unknown_organization', 'Unknown Organization'), ('unknown_key', 'Unknown Key'), ('not_a_member', 'Not A Member')])),
                ('detail', models.TextField()),
                ('model', models.TextField()),
                ('occurred_at', models.DateTimeField()),
                ('recorded_at', models.DateTimeField()),
                ('reported_by', models.UUIDField(null=True)),
                ('fingerprint', models.BinaryField()),
                ('event', models.JSONField(help_text="The event's billing fields, no text")),
                ('resolved_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'verbose_name': 'quarantined event',
                'db_table': 'quarantine',
                'ordering': ('-id',),
                'indexes': [models.Index(condition=models.Q(('resolved_at__isnull', True)), fields=['model', 'id'], name='quarantine_open')],
                'constraints': [models.UniqueConstraint(fields=('scope', 'event_id'), name='quarantine_once')],
            },
        ),
        migrations.RunSQL(
            PRICES_APPEND_ONLY, "DROP TRIGGER append_only ON price; DROP TRIGGER no_truncate ON price"
        ),
        migrations.RunPython(first_months, migrations.RunPython.noop),
    ]
