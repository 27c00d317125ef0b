"""Groups of organizations, for prices."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('orgs', '0002_roles'),
    ]

    operations = [
        migrations.AddField(
            model_name='organization',
            name='price_group',
            field=models.TextField(default='standard', help_text='Whose markups and discounts apply'),
        ),
    ]
