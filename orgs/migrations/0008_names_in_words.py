"""What pages call it."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('orgs', '0007_audit_by_actor'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='apikey',
            options={'verbose_name': 'API key'},
        ),
    ]
