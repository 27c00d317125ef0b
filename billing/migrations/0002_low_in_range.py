"""The amount below which a wallet counts as low is a number in range, as every other amount is."""

from decimal import Decimal

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0001_initial'),
    ]

    operations = [
        migrations.AddConstraint(
            model_name='wallet',
            constraint=models.CheckConstraint(condition=models.Q(('low_usd__gte', 0), ('low_usd__lt', Decimal('100000000000'))), name='wallet_low_in_range'),
        ),
    ]
