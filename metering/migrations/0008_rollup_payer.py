"""Rollups tell usage apart that another wallet than its organization's paid for: each is on its payer's invoice.

Quarters that were folded before stand as if the organization had paid; ``refold_rollups`` counts them again.
"""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0007_archived_months'),
    ]

    operations = [
        migrations.AddField(
            model_name='usagerollup',
            name='other_payer_id',
            field=models.UUIDField(null=True),
        ),
        # The one question that does not begin with the organization; few rows have another payer.
        migrations.AddIndex(
            model_name='usagerollup',
            index=models.Index(
                fields=['other_payer_id', 'starts_at'], name='usage_rollup_by_other_payer',
                condition=models.Q(('other_payer_id__isnull', False)),
            ),
        ),
    ]
