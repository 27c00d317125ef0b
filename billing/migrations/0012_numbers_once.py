"""A number without its year counts as one number too."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0011_dispute_moves'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='invoice',
            name='invoice_number_once',
        ),
        migrations.AddConstraint(
            model_name='invoice',
            constraint=models.UniqueConstraint(condition=models.Q(('sequence__isnull', False)), fields=('legal_entity', 'year', 'sequence'), name='invoice_number_once', nulls_distinct=False),
        ),
    ]
