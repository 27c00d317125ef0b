"""Ceilings, and what counts against them."""

from django.db import models
from django.db.models import Q
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from core.money import USD_MAX
from orgs.models import Organization


class Budget(models.Model):
    """A ceiling on what an organization, one of its projects, members or keys may use in a window.

    Written by ``billing.budgets``. ``spent`` and ``held`` are in its unit: dollars or tokens.
    ``spent`` sums the buckets from ``counted_from`` on; what lies before has fallen out of the
    window. ``level`` is what people were told last. Rows change under the lock of the organization's wallet.
    """

    class Level(models.IntegerChoices):
        QUIET = 0
        NEAR = 1
        FULL = 2

    class Subject(models.TextChoices):
        ORGANIZATION = "organization"
        PROJECT = "project"
        MEMBER = "member"
        KEY = "key"

    class Window(models.TextChoices):
        FIVE_HOURS = "5h", "rolling 5 hours"
        DAY = "1d", "rolling day"
        WEEK = "7d", "rolling 7 days"
        MONTH = "month", "calendar month"

    class Unit(models.TextChoices):
        USD = "usd", "US dollars"
        TOKENS = "tokens"

    id = IdField("budget")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    subject = models.TextField(choices=Subject.choices)
    subject_id = models.UUIDField(help_text="Of the organization itself, the project, the member or the key")
    window = models.TextField(choices=Window.choices)
    unit = models.TextField(choices=Unit.choices, default=Unit.USD)
    ceiling = UsdField()
    spent = UsdField(default=0)
    held = UsdField(default=0)
    counted_from = models.DateTimeField()
    warn_percent = models.SmallIntegerField(default=80, help_text="People are told when so much of it is used")
    level = models.SmallIntegerField(choices=Level.choices, default=Level.QUIET)
    created_at = models.DateTimeField(default=timezone.now)
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "budget"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "subject", "subject_id", "window", "unit"),
                condition=Q(removed_at__isnull=True),
                name="budget_once",
            ),
            models.CheckConstraint(name="budget_ceiling_in_range", condition=within("ceiling")),
            models.CheckConstraint(name="budget_warn_percent", condition=Q(warn_percent__gte=1, warn_percent__lte=100)),
            models.CheckConstraint(name="budget_level", condition=Q(level__in=(0, 1, 2))),
            models.CheckConstraint(name="budget_held_in_range", condition=within("held")),
            models.CheckConstraint(name="budget_spent_in_range", condition=Q(spent__gt=-USD_MAX, spent__lt=USD_MAX)),
        )

    def __str__(self) -> str:
        return ids.show("budget", self.pk)


class BudgetSpend(models.Model):
    """What counted against a ceiling in five minutes (rolling windows) or in a month, by ``recorded_at``.

    Written by ``billing.budgets``.
    """

    pk = models.CompositePrimaryKey("organization_id", "budget_id", "bucket")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    budget_id = models.UUIDField()
    bucket = models.DateTimeField(help_text="Its start")
    amount = UsdField()

    class Meta:
        db_table = "budget_spend"
        constraints = (
            models.CheckConstraint(name="budget_spend_in_range", condition=Q(amount__gt=-USD_MAX, amount__lt=USD_MAX)),
        )

    def __str__(self) -> str:
        return f"{ids.show('budget', self.budget_id)} {self.bucket}"
