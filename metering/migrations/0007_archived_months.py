"""Months that were taken out, with their sums; and the instant before which claims are forgotten."""

import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
from decimal import Decimal
from django.db import migrations, models

NO_DELETE = """
CREATE TRIGGER no_delete BEFORE DELETE ON {0} FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {0} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

GUARDS = f"""
{NO_DELETE.format("archived_month")}
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON archived_sum
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON archived_sum FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
{NO_DELETE.format("claim_horizon")}
CREATE TRIGGER never_back BEFORE UPDATE ON claim_horizon FOR EACH ROW
    WHEN (NEW.forgotten_before < OLD.forgotten_before) EXECUTE FUNCTION refuse_change();
"""
GUARDS_UNDO = """
DROP TRIGGER never_back ON claim_horizon;
DROP TRIGGER no_truncate ON claim_horizon; DROP TRIGGER no_delete ON claim_horizon;
DROP TRIGGER no_truncate ON archived_sum; DROP TRIGGER append_only ON archived_sum;
DROP TRIGGER no_truncate ON archived_month; DROP TRIGGER no_delete ON archived_month;
"""

# The first instant, page 0 of each of the sixteen parts.
HORIZON = """
INSERT INTO claim_horizon (id, forgotten_before, announced_at, places)
VALUES (1, '1970-01-01 00:00Z', '1970-01-01 00:00Z', array_fill(0::bigint, ARRAY[16]));
"""

# Whatever its owner runs, a claim that may still meet its event stays. Claims of what waits for a price stay too.
CLAIMS_STAY = """
CREATE FUNCTION refuse_forgetting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.occurred_at < (SELECT forgotten_before FROM claim_horizon) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'a claim on what happened at % is not forgotten yet', OLD.occurred_at
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER forgotten_only BEFORE DELETE ON usage_claim FOR EACH ROW EXECUTE FUNCTION refuse_forgetting();
"""
CLAIMS_STAY_UNDO = "DROP TRIGGER forgotten_only ON usage_claim; DROP FUNCTION refuse_forgetting();"


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0006_rollups'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='ArchivedMonth',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='archive', primary_key=True, serialize=False)),
                ('book', models.TextField(help_text='The table that the month was a part of')),
                ('month', models.DateField(help_text='Its first day (UTC)')),
                ('first_id', models.UUIDField()),
                ('end_id', models.UUIDField()),
                ('file', models.TextField(help_text="The file's name in ARCHIVE_DIR")),
                ('sha256', models.TextField(help_text='Of the file, hexadecimal')),
                ('rows', models.BigIntegerField()),
                ('detached_at', models.DateTimeField()),
                ('dropped_at', models.DateTimeField(blank=True, help_text='From then on only the file has the rows', null=True)),
            ],
            options={
                'db_table': 'archived_month',
                'ordering': ('-month', 'book'),
                'constraints': [models.UniqueConstraint(fields=('book', 'month'), name='archived_month_once'), models.CheckConstraint(condition=models.Q(('rows__gte', 0)), name='archived_month_rows_not_negative'), models.CheckConstraint(condition=models.Q(('end_id__gt', models.F('first_id'))), name='archived_month_ends_after_start')],
            },
        ),
        migrations.CreateModel(
            name='ClaimHorizon',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('forgotten_before', models.DateTimeField()),
                ('announced_at', models.DateTimeField()),
                ('places', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), size=None)),
            ],
            options={
                'db_table': 'claim_horizon',
                'constraints': [models.CheckConstraint(condition=models.Q(('pk', 1)), name='claim_horizon_is_one')],
            },
        ),
        migrations.CreateModel(
            name='ArchivedSum',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('payer_id', models.UUIDField()),
                ('rows', models.BigIntegerField()),
                ('cost_usd', core.fields.UsdField(help_text='Below zero where corrections took back more than was used')),
                ('archived', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='metering.archivedmonth')),
                ('organization', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'archived_sum',
                'ordering': ('archived', 'organization', 'payer_id'),
                'constraints': [models.UniqueConstraint(fields=('archived', 'organization', 'payer_id'), name='archived_sum_once'), models.CheckConstraint(condition=models.Q(('rows__gt', 0)), name='archived_sum_has_rows'), models.CheckConstraint(condition=models.Q(('cost_usd__gt', Decimal('-100000000000')), ('cost_usd__lt', Decimal('100000000000'))), name='archived_sum_in_range')],
            },
        ),
        migrations.RunSQL(HORIZON, migrations.RunSQL.noop),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
        migrations.RunSQL(CLAIMS_STAY, CLAIMS_STAY_UNDO),
    ]
