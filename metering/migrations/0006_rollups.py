"""Rollups of usage by the quarter of an hour, and up to where they are folded."""

from django.db import migrations, models

# Rows of a quarter are numbered, so that the key is short whatever they are told apart by; it leads with
# the organization, so the table can be sharded by it.
ROLLUP = """
CREATE TABLE usage_rollup (
    organization_id uuid NOT NULL,
    starts_at timestamptz NOT NULL,
    place integer NOT NULL,
    api_key_id uuid,
    member_id uuid,
    project_id uuid,
    model text NOT NULL,
    source text NOT NULL,
    service_tier text,
    batch boolean NOT NULL,
    records bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_usd numeric(38,12) NOT NULL,
    provider_cost_usd numeric(38,12) NOT NULL,
    PRIMARY KEY (organization_id, starts_at, place),
    CONSTRAINT usage_rollup_on_quarter CHECK (
        starts_at = date_bin('15 minutes', starts_at, timestamptz '1970-01-01 00:00:00+00')),
    CONSTRAINT usage_rollup_counts_something CHECK (
        records > 0 AND cost_usd <> 'NaN' AND provider_cost_usd <> 'NaN')
);
CREATE TABLE rollup_mark (
    id smallint NOT NULL PRIMARY KEY,
    folded_until timestamptz NOT NULL,
    CONSTRAINT rollup_mark_one_row CHECK (id = 1),
    CONSTRAINT rollup_mark_on_quarter CHECK (
        folded_until = date_bin('15 minutes', folded_until, timestamptz '1970-01-01 00:00:00+00'))
);
CREATE TRIGGER no_delete BEFORE DELETE ON rollup_mark FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON rollup_mark FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
ROLLUP_UNDO = "DROP TABLE usage_rollup; DROP TABLE rollup_mark"


def first_mark(apps, schema_editor):
    """Folding begins with the oldest month that is there; where nothing was used yet, now."""
    from metering import partitions

    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT date_bin('15 minutes', now(), timestamptz '1970-01-01 00:00:00+00'),"
            " EXISTS (SELECT 1 FROM usage_record)")
        start, used = cursor.fetchone()
        if used:
            start = partitions.months("usage_record")[0]
        cursor.execute("INSERT INTO rollup_mark (id, folded_until) VALUES (1, %s)", [start])


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0005_price_digest'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(ROLLUP, ROLLUP_UNDO)],
            state_operations=[
                migrations.CreateModel(
                    name='UsageRollup',
                    fields=[
                        ('pk', models.CompositePrimaryKey('organization_id', 'starts_at', 'place', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('organization_id', models.UUIDField()),
                        ('starts_at', models.DateTimeField(help_text="The quarter's first instant, by created_at")),
                        ('place', models.IntegerField()),
                        ('api_key_id', models.UUIDField(null=True)),
                        ('member_id', models.UUIDField(null=True)),
                        ('project_id', models.UUIDField(null=True)),
                        ('model', models.TextField()),
                        ('source', models.TextField()),
                        ('service_tier', models.TextField(null=True)),
                        ('batch', models.BooleanField()),
                        ('records', models.BigIntegerField()),
                        ('requests', models.BigIntegerField()),
                        ('input_tokens', models.BigIntegerField()),
                        ('cached_input_tokens', models.BigIntegerField()),
                        ('output_tokens', models.BigIntegerField()),
                        ('cost_usd', models.DecimalField(decimal_places=12, max_digits=38)),
                        ('provider_cost_usd', models.DecimalField(decimal_places=12, max_digits=38)),
                    ],
                    options={
                        'db_table': 'usage_rollup',
                    },
                ),
                migrations.CreateModel(
                    name='RollupMark',
                    fields=[
                        ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                        ('folded_until', models.DateTimeField()),
                    ],
                    options={
                        'db_table': 'rollup_mark',
                    },
                ),
            ],
        ),
        migrations.RunPython(first_mark, migrations.RunPython.noop),
    ]
