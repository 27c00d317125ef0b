"""Tax: whose rate applies, and how much that is."""

from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from billing import profiles, taxes
from billing.taxes import Tax, treat
from tests.billing.months import ADA
from tests.billing.world import organization


@pytest.mark.parametrize(
    ("seller", "buyer", "checked", "treatment", "country"),
    [
        ("", "DE", True, "off", ""),
        ("DE", "DE", False, "domestic", "DE"),
        ("DE", "DE", True, "domestic", "DE"),
        ("DE", "", True, "domestic", "DE"),
        ("US", "US", False, "domestic", "US"),
        ("DE", "FR", True, "eu_reverse_charge", ""),
        ("DE", "FR", False, "eu_destination", "FR"),
        ("DE", "US", True, "outside", ""),
        ("US", "DE", True, "outside", ""),
        ("DE", "GB", True, "outside", ""),
        ("DE", "GR", False, "eu_destination", "GR"),
    ],
)
def test_a_sale_is_treated_by_where_both_are(
    seller: str, buyer: str, checked: bool, treatment: str, country: str
) -> None:
    assert treat(seller=seller, buyer=buyer, is_checked=checked) == (treatment, country)


def test_the_eu_has_twenty_seven_members() -> None:
    assert len(taxes.EU) == 27
    assert not taxes.EU & {"GB", "CH", "NO", "EL", "UK"}


def _sell(country: str = "DE", vat_id: str = "") -> UUID:
    """An organization in a country, of a seller in Germany, where the rate changed with 2031."""
    acme = organization("acme")
    profiles.default_entity()
    profiles.set_entity(slug="default", fields={"country": "DE"}, by=ADA)
    for name, since, percent in (("DE", 2030, "19"), ("DE", 2031, "21"), ("FR", 2030, "20")):
        profiles.set_rate(
            country=name, valid_from=date(since, 1, 1), percent=Decimal(percent), name="VAT", source="law", by=ADA
        )
    profiles.set_profile(organization_id=acme.pk, fields={"country": country, "vat_id": vat_id}, by=ADA)
    owner: UUID = acme.pk
    return owner


def on(owner: UUID, day: date = date(2031, 5, 1)) -> Tax:
    return taxes.on(organization_id=owner, amount_usd=Decimal("10.00"), day=day)


def test_rates_are_dated_like_prices(db: None) -> None:
    owner = _sell()
    assert on(owner, date(2030, 12, 31)) == Tax(Decimal(19), Decimal("1.90"), "domestic", "VAT")
    assert on(owner, date(2031, 1, 1)) == Tax(Decimal(21), Decimal("2.10"), "domestic", "VAT")


def test_reverse_charge_needs_a_vat_id_that_was_recorded_as_checked(db: None) -> None:
    owner = _sell("FR", "FR123")
    assert on(owner) == Tax(Decimal(20), Decimal("2.00"), "eu_destination", "VAT")
    profiles.record_check(organization_id=owner, how="VIES 4711", by=ADA)
    assert on(owner) == Tax(Decimal(0), Decimal(0), "eu_reverse_charge", "")
    # Another id is not checked any more.
    profiles.set_profile(organization_id=owner, fields={"vat_id": "FR124"}, by=ADA)
    assert on(owner).treatment == "eu_destination"


def test_a_rate_that_is_missing_is_an_error_and_never_zero(db: None) -> None:
    owner = _sell("IT")
    with pytest.raises(taxes.RateMissing, match="IT"):
        on(owner)
    profiles.set_profile(organization_id=owner, fields={"country": "DE"}, by=ADA)
    with pytest.raises(taxes.RateMissing, match="DE"):
        on(owner, date(2029, 12, 31))


def test_who_sells_from_nowhere_is_not_taxed(db: None) -> None:
    acme = organization("acme")
    assert taxes.on(organization_id=acme.pk, amount_usd=Decimal(10)) == Tax(Decimal(0), Decimal(0), "off", "")
