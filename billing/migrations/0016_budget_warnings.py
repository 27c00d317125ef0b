"""Budgets warn: from which part on, and what was told last."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0015_payments_taken_back'),
    ]

    operations = [
        migrations.AddField(
            model_name='budget',
            name='warn_percent',
            field=models.SmallIntegerField(default=80, help_text='People are told when so much of it is used'),
        ),
        migrations.AddField(
            model_name='budget',
            name='level',
            field=models.SmallIntegerField(choices=[(0, 'Quiet'), (1, 'Near'), (2, 'Full')], default=0),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('warn_percent__gte', 1), ('warn_percent__lte', 100)), name='budget_warn_percent'),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('level__in', (0, 1, 2))), name='budget_level'),
        ),
    ]
