"""The five roles that every installation has, and the one row of the cache epoch."""

from django.db import migrations

MEMBER = ["calls:make", "usage:read_own", "wallet:read"]
VIEWER = ["usage:read_all", "wallet:read", "billing:read"]
BILLING = [*VIEWER, "billing:manage"]
ADMIN = [
    "calls:make",
    "usage:read_own",
    "usage:read_all",
    "wallet:read",
    "keys:manage",
    "members:manage",
    "billing:read",
    "billing:manage",
    "webhooks:manage",
]
OWNER = [*ADMIN, "organization:manage"]
ROLES = {"owner": OWNER, "admin": ADMIN, "billing": BILLING, "member": MEMBER, "viewer": VIEWER}


def seed(apps, schema_editor):
    role = apps.get_model("orgs", "Role")
    role.objects.bulk_create([role(name=name, permissions=permissions) for name, permissions in ROLES.items()])
    apps.get_model("orgs", "CacheEpoch").objects.create(id=1, value=0)


def clear(apps, schema_editor):
    apps.get_model("orgs", "Role").objects.filter(name__in=ROLES).delete()
    apps.get_model("orgs", "CacheEpoch").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("orgs", "0001_initial")]
    operations = [migrations.RunPython(seed, clear)]
