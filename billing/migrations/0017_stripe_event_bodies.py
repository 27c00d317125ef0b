"""Which events of Stripe's are done and still have their bodies."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0016_budget_warnings'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='stripeevent',
            index=models.Index(condition=models.Q(('state__in', ('processed', 'ignored')), models.Q(('payload', ''), _negated=True)), fields=['id'], name='stripe_event_whole'),
        ),
    ]
