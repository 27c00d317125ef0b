"""The app of the ground: commands, the desk's looks, no tables; and Django's admin as ours."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin


class CoreConfig(AppConfig):
    """Commands that run the house."""

    default = True
    name = "core"
    verbose_name = "Core"


class AdminConfig(admin.AdminConfig):
    """Django's admin, with the desk as its site."""

    default = False
    default_site = "orgs.door.Door"
