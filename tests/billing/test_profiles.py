"""Profiles: who sells to whom, and on what terms."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from billing import profiles
from billing.models import BillingProfile, LegalEntity
from core import errors
from orgs.models import AuditEntry
from tests.billing.months import ADA
from tests.billing.world import organization


def test_an_organization_is_prepaid_by_the_first_entity_until_somebody_says_otherwise(db: None) -> None:
    acme, other = organization("acme"), organization("other")
    found = profiles.of_many([acme.pk, other.pk])
    assert {one.terms for one in found.values()} == {"prepaid"}
    assert LegalEntity.objects.count() == 1
    assert profiles.of(acme.pk).legal_entity.number_prefix == "TB"
    assert BillingProfile.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"terms": "later"}, "terms"), ({"grouping": "member"}, "grouping"), ({"net_days": 181}, "net_days"),
        ({"net_days": -1}, "net_days"), ({"anchor_day": 0}, "anchor_day"), ({"anchor_day": 32}, "anchor_day"),
        ({"country": "de"}, "country"), ({"country": "DEU"}, "country"), ({"email": "nobody"}, "email"),
        ({"name": "x" * 2001}, "name"), ({"address": "a\x00b"}, "address"),
        ({"bound_usd": Decimal("NaN")}, "bound_usd"),
    ],
)  # fmt: skip
def test_what_cannot_be_names_its_field(db: None, fields: dict[str, Any], param: str) -> None:
    acme = organization("acme")
    with pytest.raises(errors.OutOfRange) as raised:
        profiles.set_profile(organization_id=acme.pk, fields=fields, by=ADA)
    assert raised.value.param == param


def test_what_changes_is_in_the_audit_trail(db: None) -> None:
    acme = organization("acme")
    profiles.set_profile(organization_id=acme.pk, fields={"anchor_day": 15, "net_days": 14}, by=ADA)
    noted = AuditEntry.objects.get(verb="billing_profile.set")
    assert noted.details == {"anchor_day": {"before": "1", "after": "15"}}
    assert noted.actor_label == "ada@example.com"


def test_only_an_id_that_is_there_can_be_checked(db: None) -> None:
    acme = organization("acme")
    with pytest.raises(errors.Conflict):
        profiles.record_check(organization_id=acme.pk, how="VIES", by=ADA)
    profiles.set_profile(organization_id=acme.pk, fields={"country": "FR", "vat_id": "FR1"}, by=ADA)
    with pytest.raises(errors.OutOfRange):
        profiles.record_check(organization_id=acme.pk, how=" ", by=ADA)
    checked = profiles.record_check(organization_id=acme.pk, how="VIES", by=ADA)
    assert (checked.vat_checked_by, checked.vat_checked_how) == ("ada@example.com", "VIES")
    # The address does not matter to it, the country does.
    assert profiles.set_profile(organization_id=acme.pk, fields={"address": "here"}, by=ADA).vat_checked_at is not None
    assert profiles.set_profile(organization_id=acme.pk, fields={"country": "BE"}, by=ADA).vat_checked_at is None


def test_an_entitys_numbers_keep_their_prefix(db: None) -> None:
    made = profiles.set_entity(slug="de", fields={"name": "Tollbook GmbH", "number_prefix": "DE"}, by=ADA)
    assert profiles.set_entity(slug="de", fields={"name": "Other GmbH"}, by=ADA).pk == made.pk
    with pytest.raises(errors.OutOfRange, match="stays"):
        profiles.set_entity(slug="de", fields={"number_prefix": "XX"}, by=ADA)
    for fields in ({"reminder_days": [3, 3]}, {"reminder_days": [0]}, {"stop_days": 0}, {"freeze_days": 366}):
        with pytest.raises(errors.OutOfRange):
            profiles.set_entity(slug="de", fields=fields, by=ADA)


def test_a_rate_is_followed_by_another_and_never_changed(db: None) -> None:
    def rate(percent: str, day: date = date(2031, 1, 1), country: str = "DE") -> Decimal:
        made = profiles.set_rate(
            country=country, valid_from=day, percent=Decimal(percent), name="VAT", source="law", by=ADA
        )
        return Decimal(made.percent)

    assert rate("19") == 19
    assert rate("19") == 19
    with pytest.raises(errors.Conflict):
        rate("20")
    assert rate("20", date(2031, 7, 1)) == 20
    for percent, country in (("100", "DE"), ("-1", "DE"), ("1.0001", "DE"), ("NaN", "DE"), ("19", "de"), ("19", "D1")):
        with pytest.raises(errors.OutOfRange):
            rate(percent, date(2032, 1, 1), country)
