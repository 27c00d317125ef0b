"""Every rule of before says either a factor or rates, as new ones must; asked under a lock that keeps nobody waiting."""

from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0011_rules_end'),
    ]

    operations = [
        ValidateConstraint(model_name='pricerule', name='price_rule_factor_or_rates'),
    ]
