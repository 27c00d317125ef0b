"""The desk's pages of what usage comes to: margins by model and day, and who used how much."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from django import forms
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from billing import figures, margins
from billing.money_admin import may, records_place
from billing.start_page import SOLD_HEADS, sold_cells
from core import clock, money
from core.admin import QuickAdmin, Section, Tool
from core.errors import ApiError
from core.http import from_exception
from core.markup import link, link_to, paragraphs, percent, table
from metering.admin import find_organization
from metering.models import UsageRecord
from orgs.models import Organization


def dollars(amount: Decimal | None) -> str | None:
    """Plain digits, or nothing."""
    return None if amount is None else money.plain(amount)


MARGIN_HEADS = (
    *("model", "served by", "records", "cost (USD)", "provider's cost (USD)", "margin (USD)", "of cost"),
    *("apart: records", "apart: cost (USD)", "corrections"),
)


def margin_cells(one: margins.Margin) -> tuple[object, ...]:
    """A margin in the columns of ``MARGIN_HEADS``; what is unknown is left out, not zero."""
    known = one.known
    return (
        one.model,
        one.routed_model,
        f"{one.records:,}",
        dollars(one.cost_usd if known else None),
        dollars(one.provider_cost_usd if known else None),
        dollars(one.margin_usd),
        percent(one.margin_usd, one.cost_usd) if one.margin_usd is not None else None,
        f"{one.unknown_records:,}",
        money.plain(one.unknown_cost_usd),
        f"{one.corrections:,}",
    )


def margin_sections(found: margins.Margins) -> list[Section]:
    """Margins of a period as a page shows them."""
    foot = ("all", *margin_cells(found.total)[1:])
    by_model = table(MARGIN_HEADS, map(margin_cells, found.by_model), foot=foot)
    by_day = table(("day (UTC)", *MARGIN_HEADS), [(one.day, *margin_cells(one)) for one in found.by_day])
    told = [
        "The margin is what customers paid for records whose gateway said what they cost, less that. Corrections are "
        "in it on the day on which they were posted; failed requests are not."
    ]
    if found.total.unknown_records:
        apart = f"Of {found.total.unknown_records:,} records nobody said what they cost us"
        told.append(f"{apart}; they are counted apart and are in no margin.")
    more = paragraphs("The latest; for the others choose a shorter period.") if found.has_more else ""
    return [
        Section("By model", format_html("{}{}", paragraphs(*told), by_model)),
        Section("By day", format_html("{}{}", by_day, more)),
    ]


class PeriodForm(forms.Form):
    """Days, and whose records."""

    first = forms.DateField(label="from (UTC)", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="to, inclusive", widget=forms.DateInput(attrs={"type": "date"}))
    organization = forms.CharField(
        required=False, help_text="A slug, an org_ id or a person's e-mail address; everybody's records without one."
    )

    def clean_organization(self) -> Organization | None:
        """The one that is meant."""
        text = self.cleaned_data["organization"]
        found = find_organization(text)
        if text and found is None:
            raise forms.ValidationError("No organization has that name.")
        return found


class SalesForm(forms.Form):
    """Days, and of which model."""

    first = forms.DateField(label="from (UTC)", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="to, inclusive", widget=forms.DateInput(attrs={"type": "date"}))
    model = forms.CharField(required=False, help_text="A model's id; all of them without one.")


def sales_sections(found: Sequence[figures.Customer], first: date, after: date, model: str) -> list[Section]:
    """Who used how much, each with the way to the records."""
    total = figures.Sold()
    rows = []
    for customer in found:
        total = total.plus(customer.sold)
        name = link("orgs_organization", customer.organization_id, customer.slug)
        start, end = (datetime.combine(day, time(), UTC) for day in (first, after))
        records = records_place(customer.slug, start, end, **({"model": model} if model else {}))
        rows.append((name, *sold_cells(customer.sold), link_to(records, "records")))
    if not rows:
        return [Section("", paragraphs("Nothing was used, or it is not folded yet."))]
    told = "Where a gateway said nothing of its cost, it counts as nothing here."
    if len(found) == figures.CUSTOMERS_MAX:
        told = f"The first {figures.CUSTOMERS_MAX}, the largest first. {told}"
    shown = table(("organization", *SOLD_HEADS, "what"), rows, foot=("all", *sold_cells(total), ""))
    return [Section("", format_html("{}{}", shown, paragraphs(told)))]


def _day_after(day: date) -> date:
    """The next day; the last one there is has none."""
    return min(day, date.max - timedelta(days=1)) + timedelta(days=1)


class SalesPages(QuickAdmin[UsageRecord]):
    """What usage records come to, from their list: margins, and who used how much."""

    def get_urls(self) -> list[URLPattern]:
        """With both."""
        framed = self.admin_site.admin_view
        return [
            path("margins/", framed(self.margins_view), name=f"{self.page}_margins"),
            path("sales/", framed(self.sales_view), name=f"{self.page}_sales"),
            *super().get_urls(),
        ]

    def list_tools(self, request: HttpRequest) -> list[Tool]:
        """The ways to what they come to."""
        if not may(request, "billing.view_providerbill"):
            return super().list_tools(request)
        return [
            *super().list_tools(request),
            Tool("Margins", reverse(f"admin:{self.page}_margins")),
            Tool("Sales by organization", reverse(f"admin:{self.page}_sales")),
        ]

    def margins_view(self, request: HttpRequest) -> HttpResponse:
        """Margins by model and day; of the last week unless other days are asked for."""
        # What providers cost us is more than what customers used.
        if not may(request, "billing.view_providerbill"):
            raise PermissionDenied
        today = clock.now().date()
        form = PeriodForm(request.GET or {"first": today - timedelta(days=6), "last": today})
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            owner = told["organization"]
            try:
                found = margins.between(
                    start=told["first"],
                    end=_day_after(told["last"]),
                    organization_id=None if owner is None else owner.pk,
                )
            except ApiError as error:
                form.add_error("last", str(error))
            except DatabaseError as error:
                form.add_error(
                    None, f"It could not be worked out, perhaps for a shorter period: {from_exception(error)}"
                )
            else:
                sections = margin_sections(found)
        return self.show(request, "Margins", sections, template="admin/ask.html", form=form)

    def sales_view(self, request: HttpRequest) -> HttpResponse:
        """Who used how much on some days, of one model or of all; today's unless others are asked for."""
        # What providers cost us is more than what customers used.
        if not may(request, "billing.view_providerbill"):
            raise PermissionDenied
        today = clock.now().date()
        form = SalesForm(request.GET or {"first": today, "last": today})
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            try:
                found = figures.customers(start=told["first"], end=_day_after(told["last"]), model=told["model"])
            except ApiError as error:
                form.add_error("last", str(error))
            else:
                sections = sales_sections(found, told["first"], _day_after(told["last"]), told["model"])
        return self.show(request, "Sales by organization", sections, template="admin/ask.html", form=form)
