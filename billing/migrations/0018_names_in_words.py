"""What pages call it."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0017_stripe_event_bodies'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='rerating',
            options={'ordering': ('-id',), 'verbose_name': 're-rating'},
        ),
    ]
