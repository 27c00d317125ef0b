"""Who sells to whom and on what terms. The only module that writes ``LegalEntity``, ``BillingProfile``, ``TaxRate``.

Every organization belongs to one legal entity. Until somebody says otherwise that is the first one, which is made
with the first profile; it has neither country nor address, so its sales are not taxed and its documents name
nobody's address until an operator fills it in.
"""

from collections.abc import Collection, Mapping
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from billing.corrections import check_reason
from billing.models import BillingProfile, LegalEntity, TaxRate
from core import clock, errors, money
from orgs import audit
from orgs.audit import Actor
from orgs.models import Organization

__all__ = ["BillingProfile", "default_entity", "of", "of_many", "rates_on", "record_check", "set_entity", "set_profile",
           "set_rate"]  # fmt: skip

DEFAULT = "default"
Terms = BillingProfile.Terms
Grouping = BillingProfile.Grouping

_ENTITY = (
    "name", "address", "country", "vat_id", "email", "time_zone", "number_prefix", "bank_details", "reminder_days",
    "stop_days", "freeze_days",
)  # fmt: skip
_PROFILE = (
    "legal_entity_id", "terms", "net_days", "name", "address", "country", "vat_id", "email", "grouping", "anchor_day",
    "bound_usd",
)  # fmt: skip
# What texts may be.
TEXT_MAX = 2000
DAYS_MAX = 365
REMINDERS_MAX = 10
NET_DAYS_MAX = 180


def default_entity() -> LegalEntity:
    """The legal entity of organizations for which nobody named one; made if there is none."""
    found, _ = LegalEntity.objects.get_or_create(slug=DEFAULT, defaults={"name": "Tollbook", "number_prefix": "TB"})
    return found


def of(organization_id: UUID) -> BillingProfile:
    """An organization's profile with its legal entity; made if there is none."""
    return of_many([organization_id])[organization_id]


def of_many(organization_ids: Collection[UUID]) -> dict[UUID, BillingProfile]:
    """Profiles of organizations, with legal entity and organization; those missing are made. One query, or three."""
    found = _read(organization_ids)
    missing = [one for one in organization_ids if one not in found]
    if missing:
        entity = default_entity()
        BillingProfile.objects.bulk_create(
            [BillingProfile(organization_id=one, legal_entity=entity) for one in missing], ignore_conflicts=True
        )
        found |= _read(missing)
    return found


def _read(organization_ids: Collection[UUID]) -> dict[UUID, BillingProfile]:
    rows = BillingProfile.objects.select_related("legal_entity", "organization")
    return {row.pk: row for row in rows.filter(pk__in=list(organization_ids))}


def set_entity(*, slug: str, fields: Mapping[str, Any], by: Actor) -> LegalEntity:
    """Make a legal entity, or change what stands on its documents from now on. Raises ``OutOfRange``.

    The prefix of its numbers stays once it has one: numbers that were given out bear it.
    """
    _check_names(fields, _ENTITY)
    _check_party(fields)
    reminders = list(fields.get("reminder_days", []))
    if len(reminders) > REMINDERS_MAX or reminders != sorted(set(reminders)):
        raise errors.OutOfRange("reminder_days are up to ten days in rising order.", param="reminder_days")
    for name in ("reminder_days", "stop_days", "freeze_days"):
        for days in reminders if name == "reminder_days" else [fields.get(name, 1)]:
            if not 1 <= days <= DAYS_MAX:
                raise errors.OutOfRange(f"{name} is from 1 to {DAYS_MAX}.", param=name)
    with transaction.atomic():
        entity = LegalEntity.objects.select_for_update(no_key=True).filter(slug=slug).first()
        if entity is None:
            entity = LegalEntity(slug=slug)
        elif fields.get("number_prefix", entity.number_prefix) != entity.number_prefix:
            raise errors.OutOfRange("The prefix of its numbers stays.", param="number_prefix")
        before = {name: getattr(entity, name) for name in fields}
        _fill(entity, fields)
        audit.note(actor=by, verb="legal_entity.set", subject=entity, details=_changes(before, fields))
    return entity


def set_profile(*, organization_id: UUID, fields: Mapping[str, Any], by: Actor) -> BillingProfile:
    """Change how an organization is billed; the period that goes on ends where it was to end. Raises ``OutOfRange``.

    A VAT id or country that changes is not checked any more.
    """
    _check_names(fields, _PROFILE)
    _check_party(fields)
    if fields.get("terms", Terms.PREPAID) not in Terms.values:
        raise errors.OutOfRange("terms are prepaid or postpaid.", param="terms")
    if fields.get("grouping", Grouping.NONE) not in Grouping.values:
        raise errors.OutOfRange("grouping is none, api_key or project.", param="grouping")
    if not 0 <= fields.get("net_days", 0) <= NET_DAYS_MAX:
        raise errors.OutOfRange(f"net_days is from 0 to {NET_DAYS_MAX}.", param="net_days")
    if not 1 <= fields.get("anchor_day", 1) <= 31:
        raise errors.OutOfRange("anchor_day is from 1 to 31.", param="anchor_day")
    bound = fields.get("bound_usd")
    if bound is not None and not money.holds(bound):
        raise errors.OutOfRange("bound_usd is zero or more, with at most 12 decimals.", param="bound_usd")
    of(organization_id)
    with transaction.atomic():
        profile = BillingProfile.objects.select_for_update(no_key=True).get(pk=organization_id)
        before = {name: getattr(profile, name) for name in fields}
        if any(fields.get(name, before.get(name)) != before.get(name) for name in ("vat_id", "country")):
            profile.vat_checked_at, profile.vat_checked_by, profile.vat_checked_how = None, "", ""
        profile.changed_at = clock.now()
        _fill(profile, fields)
        owner = Organization.objects.get(pk=organization_id)
        audit.note(
            actor=by, verb="billing_profile.set", subject=owner, organization=owner, details=_changes(before, fields)
        )  # fmt: skip
    return of(organization_id)


def record_check(*, organization_id: UUID, how: str, by: Actor) -> BillingProfile:
    """Record that an organization's VAT id was checked: by whom, and ``how`` (a service's answer, its reference).

    From then on reverse charge applies. Raises ``Conflict`` where there is no id, ``OutOfRange`` for no ``how``.
    """
    how = check_reason(how)
    of(organization_id)
    with transaction.atomic():
        profile = BillingProfile.objects.select_for_update(no_key=True).get(pk=organization_id)
        if not profile.vat_id:
            raise errors.Conflict("There is no VAT id to check.")
        profile.vat_checked_at, profile.vat_checked_by, profile.vat_checked_how = clock.now(), by.label, how
        profile.save(update_fields=["vat_checked_at", "vat_checked_by", "vat_checked_how"])
        owner = Organization.objects.get(pk=organization_id)
        audit.note(
            actor=by, verb="billing_profile.vat_checked", subject=owner, organization=owner,
            details={"vat_id": profile.vat_id, "how": how},
        )  # fmt: skip
    return of(organization_id)


def set_rate(*, country: str, valid_from: date, percent: Decimal, name: str, source: str, by: Actor) -> TaxRate:
    """Enter a country's rate from a day on; documents of before keep theirs. Raises ``OutOfRange`` or ``Conflict``."""
    if len(country) != 2 or not country.isascii() or not country.isupper() or not country.isalpha():
        raise errors.OutOfRange("country is two capital letters (ISO 3166).", param="country")
    if not money.holds(percent) or percent >= 100 or percent != round(percent, 3):
        raise errors.OutOfRange("percent is from 0 to below 100, with at most 3 decimals.", param="percent")
    for field, text in (("name", name), ("source", source)):
        if not text.strip():
            raise errors.OutOfRange(f"{field} may not be empty.", param=field)
    with transaction.atomic():
        made, new = TaxRate.objects.get_or_create(
            country=country, valid_from=valid_from,
            defaults={"percent": percent, "name": name.strip(), "source": source.strip(), "actor": by.label},
        )  # fmt: skip
        if not new and (made.percent, made.name) != (percent, name.strip()):
            raise errors.Conflict(f"{country} has a rate from that day on: {money.plain(made.percent)} %.")
        if new:
            audit.note(
                actor=by, verb="tax_rate.set", subject=made,
                details={"country": country, "valid_from": valid_from.isoformat(), "percent": money.plain(percent)},
            )  # fmt: skip
    return made


def rates_on(day: date, countries: Collection[str]) -> dict[str, tuple[Decimal, str]]:
    """Percent and name in force on a day, by country; a country without a rate is missing. One query."""
    rows = (
        TaxRate.objects.filter(country__in=list(countries), valid_from__lte=day)
        .order_by("country", "-valid_from")
        .distinct("country")
    )
    return {row.country: (row.percent, row.name) for row in rows}


def _check_names(fields: Mapping[str, Any], known: Collection[str]) -> None:
    for name in fields:
        assert name in known, f"{name} is not set here"


def _check_party(fields: Mapping[str, Any]) -> None:
    """Raise ``OutOfRange`` naming a field of a company that cannot be."""
    for name in ("name", "address", "vat_id", "email", "bank_details"):
        text = fields.get(name, "")
        if len(text) > TEXT_MAX or "\x00" in text:
            raise errors.OutOfRange(f"{name} has at most {TEXT_MAX} characters.", param=name)
    country = fields.get("country", "")
    if country and not (len(country) == 2 and country.isascii() and country.isalpha() and country.isupper()):
        raise errors.OutOfRange("country is two capital letters (ISO 3166).", param="country")
    if fields.get("email"):
        try:
            validate_email(fields["email"])
        except ValidationError as error:
            raise errors.OutOfRange("email is not an e-mail address.", param="email") from error


def _fill(row: LegalEntity | BillingProfile, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(row, name, value)
    row.save()


def _changes(before: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"before": _told(before[name]), "after": _told(value)}
        for name, value in fields.items()
        if before[name] != value
    }


def _told(value: object) -> str:
    return money.plain(value) if isinstance(value, Decimal) else str(value)
