"""Roles of the staff, as ``orgs.roles`` has them. It reads the code of today: run again, it comes to the same."""

from django.db import migrations


def apply(apps, schema_editor):
    from orgs import roles

    roles.apply()


class Migration(migrations.Migration):
    dependencies = [
        ("orgs", "0005_rate_limits"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(apply, migrations.RunPython.noop)]
