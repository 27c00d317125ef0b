"""Who sells, who buys and on what terms, and the rates of tax."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone

from core.fields import IdField, UsdField, within
from orgs.models import Organization

COUNTRY_PATTERN = "^([A-Z]{2})?$"


def _reminder_days() -> list[int]:
    return [3, 10, 17]


class LegalEntity(models.Model):
    """A company that sells: what stands on its documents, their numbers, and how it reminds those who owe it.

    Written by ``billing.profiles``. ``country`` is an ISO 3166 code; while it is empty no tax is worked out.
    Days count from an invoice's due date.
    """

    undeletable: ClassVar[bool] = True

    id = IdField("ent")
    slug = models.TextField(unique=True)
    name = models.TextField()
    address = models.TextField(default="", blank=True)
    country = models.TextField(default="", blank=True)
    vat_id = models.TextField(default="", blank=True)
    email = models.TextField(default="", blank=True)
    time_zone = models.TextField(default="UTC", help_text="Whose calendar says which year a number is of")
    number_prefix = models.TextField(unique=True, help_text="Before the year in a document's number")
    bank_details = models.TextField(default="", blank=True, help_text="Where bank transfers go")
    reminder_days = ArrayField(models.SmallIntegerField(), default=_reminder_days)
    stop_days = models.SmallIntegerField(default=24, help_text="Then the credit limit ends")
    freeze_days = models.SmallIntegerField(default=38, help_text="Then the wallet is frozen")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "legal_entity"
        verbose_name_plural = "legal entities"
        constraints = (
            models.CheckConstraint(name="legal_entity_country", condition=Q(country__regex=COUNTRY_PATTERN)),
            models.CheckConstraint(
                name="legal_entity_prefix", condition=Q(number_prefix__regex="^[A-Z0-9][A-Z0-9-]{0,15}$")
            ),
        )

    def __str__(self) -> str:
        return self.name


class BillingProfile(models.Model):
    """How an organization is billed, and to whom its documents are addressed.

    Written by ``billing.profiles``. A VAT id counts only once a person or a service has recorded it as
    checked. The zone of its periods is the organization's. ``anchor_day`` is the day of the month on which
    periods begin; in a shorter month, its last day.
    """

    class Terms(models.TextChoices):
        PREPAID = "prepaid", "prepaid: a statement each month"
        POSTPAID = "postpaid", "postpaid: an invoice each month"

    class Grouping(models.TextChoices):
        NONE = "none", "by model"
        API_KEY = "api_key", "by model and key"
        PROJECT = "project", "by model and project"

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="+")
    terms = models.TextField(choices=Terms.choices, default=Terms.PREPAID)
    net_days = models.SmallIntegerField(default=14, help_text="Until an invoice is due")
    name = models.TextField(default="", blank=True)
    address = models.TextField(default="", blank=True)
    country = models.TextField(default="", blank=True)
    vat_id = models.TextField(default="", blank=True)
    vat_checked_at = models.DateTimeField(null=True, blank=True)
    vat_checked_by = models.TextField(default="", blank=True)
    vat_checked_how = models.TextField(default="", blank=True)
    email = models.TextField(default="", blank=True, help_text="Where documents go; else to those who manage billing")
    grouping = models.TextField(choices=Grouping.choices, default=Grouping.NONE)
    anchor_day = models.SmallIntegerField(default=1)
    bound_usd = UsdField(null=True, blank=True, help_text="An invoice above it waits for a person; empty: the setting")
    changed_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "billing_profile"
        constraints = (
            models.CheckConstraint(name="billing_profile_country", condition=Q(country__regex=COUNTRY_PATTERN)),
            models.CheckConstraint(name="billing_profile_anchor", condition=Q(anchor_day__gte=1, anchor_day__lte=31)),
            models.CheckConstraint(name="billing_profile_net", condition=Q(net_days__gte=0, net_days__lte=180)),
            models.CheckConstraint(
                name="billing_profile_bound_in_range", condition=Q(bound_usd__isnull=True) | within("bound_usd")
            ),
            # A check that nobody answers for is none.
            models.CheckConstraint(
                name="billing_profile_checked",
                condition=Q(vat_checked_at__isnull=True, vat_checked_by="", vat_checked_how="")
                | (Q(vat_checked_at__isnull=False) & ~Q(vat_id="") & ~Q(vat_checked_by="") & ~Q(vat_checked_how="")),
            ),
        )

    def __str__(self) -> str:
        return f"billing of {self.organization}"


class TaxRate(models.Model):
    """A country's rate from a day on (by UTC), until the next one begins. Written by ``billing.profiles``.

    Append-only: a rate that was wrong is followed by another one, and documents keep what they said.
    """

    append_only: ClassVar[bool] = True

    id = IdField("tax")
    country = models.TextField()
    valid_from = models.DateField()
    percent = models.DecimalField(max_digits=6, decimal_places=3)
    name = models.TextField(default="VAT", help_text="As documents call it")
    source = models.TextField(help_text="Where the rate was published")
    actor = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "tax_rate"
        constraints = (
            models.UniqueConstraint(fields=("country", "valid_from"), name="tax_rate_once"),
            models.CheckConstraint(name="tax_rate_country", condition=Q(country__regex="^[A-Z]{2}$")),
            models.CheckConstraint(name="tax_rate_percent", condition=Q(percent__gte=0, percent__lt=100)),
        )

    def __str__(self) -> str:
        return f"{self.country} {self.percent} % from {self.valid_from}"
