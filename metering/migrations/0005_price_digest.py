"""Every published price keeps a digest of what it says; those published before get theirs now."""

import hashlib
import json
from datetime import UTC

from django.db import migrations, models


def digest(price):
    """As ``metering.catalog`` made it when this migration was written."""

    def spelled(at):
        return None if at is None else at.astimezone(UTC).isoformat(timespec="microseconds")

    told = {
        "format": "tollbook/price-1",
        "id": str(price.id),
        "model": str(price.model_id),
        "effective_from": spelled(price.effective_from),
        "effective_to": spelled(price.effective_to),
        "revision": price.revision,
        "active_from": spelled(price.active_from),
        "rates": price.rates,
        "source": price.source,
        "created_at": spelled(price.created_at),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).digest()


def fill(apps, schema_editor):
    """Published rows refuse every change, so the trigger rests meanwhile; the table is locked until we commit."""
    Price = apps.get_model("metering", "Price")
    schema_editor.execute("ALTER TABLE price DISABLE TRIGGER append_only")
    for price in Price.objects.filter(digest__isnull=True):
        Price.objects.filter(pk=price.pk).update(digest=digest(price))
    schema_editor.execute("ALTER TABLE price ENABLE TRIGGER append_only")


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0004_price_book'),
    ]

    operations = [
        migrations.AddField(
            model_name='price',
            name='digest',
            field=models.BinaryField(help_text='SHA-256 of all the above as it was published', null=True),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField(
            model_name='price',
            name='digest',
            field=models.BinaryField(help_text='SHA-256 of all the above as it was published'),
        ),
    ]
