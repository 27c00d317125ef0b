"""That a rule ends before its time is a row of its own, for no rule is ever changed."""

import django.db.models.deletion
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0010_rollup_by_time'),
    ]

    operations = [
        migrations.AddField(
            model_name='pricerule',
            name='ends',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='metering.pricerule'),
        ),
        migrations.RemoveConstraint(model_name='pricerule', name='price_rule_factor_or_rates'),
        AddConstraintNotValid(
            model_name='pricerule',
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(('ends__isnull', True), ('factor__isnull', True), ('model__isnull', False), ('rates__isnull', False)),
                    models.Q(('ends__isnull', True), ('factor__gte', 0), ('factor__lte', 1000), ('rates__isnull', True)),
                    models.Q(('ends__isnull', False), ('factor__isnull', True), ('rates__isnull', True)),
                    _connector='OR',
                ),
                name='price_rule_factor_or_rates',
            ),
        ),
    ]
