"""Tax on what is sold: whose rate applies, and how much that is (decisions 9).

Electronic services between companies and people, sold by a legal entity in its own country or in another:

* ``domestic``: seller and buyer are of one country, or nothing says where the buyer is: that country's rate;
* ``eu_reverse_charge``: both in the EU, in two countries, and the buyer's VAT id was recorded as checked: none, the
  buyer accounts for it (Directive 2006/112/EC, articles 44 and 196);
* ``eu_destination``: the same without such an id: the buyer's country's rate (article 58);
* ``outside``: anywhere else: none;
* ``off``: the seller's country is not set: none, taxes are not worked out here.

No rate is seeded: they change by law in each country, and only who sells knows where it is registered. A
rate that is needed and missing is an error, never zero.
"""

from datetime import date
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from billing import profiles, rounding
from core import clock, errors, money

# Member states by ISO 3166, from https://european-union.europa.eu/principles-countries-history/eu-countries_en
EU = frozenset({
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV",
    "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
})  # fmt: skip

OFF = "off"
DOMESTIC = "domestic"
REVERSE_CHARGE = "eu_reverse_charge"
DESTINATION = "eu_destination"
OUTSIDE = "outside"


class RateMissing(errors.Conflict):
    """A tax has to be worked out and nobody has entered its rate."""

    code = "tax_rate_missing"
    default = "The tax rate is missing."


class Tax(NamedTuple):
    """A rate in percent, what it comes to in cents, why this one (``treatment``), and what documents call it."""

    rate_percent: Decimal
    amount_usd: Decimal
    treatment: str
    name: str = ""


def treat(*, seller: str, buyer: str, is_checked: bool) -> tuple[str, str]:
    """How a sale is treated, and whose country's rate applies (empty: none).

    Countries are ISO codes, empty where unknown; ``is_checked``: the buyer's VAT id was recorded as checked.
    """
    if not seller:
        return OFF, ""
    if buyer in {"", seller}:
        return DOMESTIC, seller
    if seller in EU and buyer in EU:
        return (REVERSE_CHARGE, "") if is_checked else (DESTINATION, buyer)
    return OUTSIDE, ""


def work_out(
    *, seller: str, buyer: str, is_checked: bool, amount_usd: Decimal, rates: dict[str, tuple[Decimal, str]]
) -> Tax:
    """The tax on a net amount; ``rates`` are percent and name by country. Raises ``RateMissing``."""
    treatment, country = treat(seller=seller, buyer=buyer, is_checked=is_checked)
    if not country:
        return Tax(money.ZERO, money.ZERO, treatment)
    if country not in rates:
        raise RateMissing(f"No rate of tax is entered for {country}.")
    percent, name = rates[country]
    return Tax(percent, rounding.percentage(amount_usd, percent), treatment, name)


def on(*, organization_id: UUID, amount_usd: Decimal, day: date | None = None) -> Tax:
    """The tax on what an organization buys for a net amount, on a day (UTC; default today). Raises ``RateMissing``."""
    profile = profiles.of(organization_id)
    return of_profile(profile, amount_usd=amount_usd, day=day or clock.now().date())


def of_profile(profile: profiles.BillingProfile, *, amount_usd: Decimal, day: date) -> Tax:
    """As ``on``, for a profile that was read."""
    seller, buyer = profile.legal_entity.country, profile.country
    return work_out(
        seller=seller, buyer=buyer, is_checked=profile.vat_checked_at is not None, amount_usd=amount_usd,
        rates=profiles.rates_on(day, {seller, buyer}),
    )  # fmt: skip
