"""Every amount of payments, refunds and disputes has its bounds, so that NaN is none."""

from decimal import Decimal
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0013_reconciliation'),
        ('orgs', '0005_rate_limits'),
    ]

    operations = [
        migrations.AddConstraint(
            model_name='dispute',
            constraint=models.CheckConstraint(condition=models.Q(('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000')), ('frozen_usd__gte', 0), ('frozen_usd__lt', Decimal('100000000000')), ('withdrawn_usd__gte', 0), ('withdrawn_usd__lt', Decimal('100000000000')), ('reinstated_usd__gte', 0), ('reinstated_usd__lt', Decimal('100000000000')), ('fee_usd__gt', Decimal('-100000000000')), ('fee_usd__lt', Decimal('100000000000'))), name='dispute_amounts_in_range'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000')), ('received_usd__gte', 0), ('received_usd__lt', Decimal('100000000000')), ('refunded_usd__gte', 0), ('refunded_usd__lt', Decimal('100000000000')), ('fee_usd__gte', 0), ('fee_usd__lt', Decimal('100000000000'))), name='payment_amounts_in_range'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000'))), name='refund_tax_in_range'),
        ),
    ]
