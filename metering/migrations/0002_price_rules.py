"""Rules: what someone pays instead of the catalog's price. Append-only like the prices."""

import core.fields
import core.ids
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0001_initial'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='PriceRule',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='rule', primary_key=True, serialize=False)),
                ('price_group', models.TextField(blank=True, help_text='A group of organizations', null=True)),
                ('provider', models.TextField(blank=True, help_text="The catalog's label", null=True)),
                ('factor', models.DecimalField(blank=True, decimal_places=6, help_text='1.2 is 20 % more', max_digits=10, null=True)),
                ('rates', models.JSONField(blank=True, null=True)),
                ('effective_from', models.DateTimeField()),
                ('effective_to', models.DateTimeField(blank=True, null=True)),
                ('reason', models.TextField()),
                ('created_by', models.TextField()),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('model', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='metering.catalogmodel')),
                ('organization', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'price_rule',
                'ordering': ('-id',),
                'constraints': [models.CheckConstraint(condition=models.Q(('effective_to__isnull', True), ('effective_to__gt', models.F('effective_from')), _connector='OR'), name='price_rule_ends_after_start'), models.CheckConstraint(condition=models.Q(models.Q(('factor__isnull', True), ('model__isnull', False), ('rates__isnull', False)), models.Q(('factor__gte', 0), ('factor__lte', 1000), ('rates__isnull', True)), _connector='OR'), name='price_rule_factor_or_rates'), models.CheckConstraint(condition=models.Q(('organization__isnull', True), ('price_group__isnull', True), _connector='OR'), name='price_rule_one_whom'), models.CheckConstraint(condition=models.Q(('provider__isnull', True), ('model__isnull', True), _connector='OR'), name='price_rule_one_what')],
            },
        ),
        migrations.RunSQL(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON price_rule"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change();"
            "CREATE TRIGGER no_truncate BEFORE TRUNCATE ON price_rule"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
            "DROP TRIGGER append_only ON price_rule; DROP TRIGGER no_truncate ON price_rule",
        ),
    ]
