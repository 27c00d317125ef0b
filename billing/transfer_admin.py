"""The desk's pages of transfers: what moved, what it took from which grant, which records it charged."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar, Final

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import closing
from billing.models import Transfer, TransferKind
from billing.money_admin import PanelsAdmin, cause_link, transfer_link, uses_of
from billing.record_admin import MATCHING_SHOWN, MatchingForm, record_table
from core import clock, ids, money
from core.admin import Section
from core.markup import NOTHING, link, link_to, paragraphs, stamp, table
from metering.admin import KeyedAdmin, list_of
from metering.models import UsageRecord
from orgs.models import Member, Organization

ROWS_SHOWN: Final = 20
_MILLISECOND: Final = timedelta(milliseconds=1)
# How far a transfer's own time may be from its id's.
SLACK: Final = closing.SLACK


def transfer_table(transfers: Iterable[Transfer]) -> SafeString:
    """Transfers as a table."""
    rows = [
        (
            transfer_link(row.organization_id, row.pk),
            stamp(row.created_at),
            row.get_kind_display(),
            f"{row.get_debit_display()} → {row.get_credit_display()}",
            money.plain(row.amount_usd),
            None if row.balance_after_usd is None else money.plain(row.balance_after_usd),
        )
        for row in transfers
    ]
    return table(("transfer", "at (UTC)", "kind", "from → to", "amount (USD)", "balance after (USD)"), rows)


def newest_transfers(organization: Organization) -> SafeString:
    """An organization's last transfers, with the way to the others."""
    rows = transfer_table(Transfer.objects.filter(organization=organization).order_by("-pk")[:ROWS_SHOWN])
    return format_html('{}<a href="{}">All transfers</a>', rows, list_of("billing_transfer", organization))


class BetweenForm(forms.Form):
    """Whose transfers, of which time, and of which kinds."""

    organization = forms.CharField(help_text="A slug, an org_ id or a person's e-mail address.")
    kind = forms.MultipleChoiceField(
        required=False, choices=TransferKind.choices, widget=forms.SelectMultiple(attrs={"size": 5}),
        help_text="Every kind without one.",
    )  # fmt: skip
    start = forms.DateTimeField(label="from (UTC)")
    end = forms.DateTimeField(label="until before (UTC)")

    clean_organization = MatchingForm.clean_organization

    def clean(self) -> dict[str, Any]:
        """An end after the beginning, both of this age."""
        told: dict[str, Any] = super().clean() or self.cleaned_data
        start, end = told.get("start"), told.get("end")
        if start is not None and end is not None and not clock.from_unix(0) + SLACK <= start < end:
            self.add_error("end", "The end is after the beginning, and both are of this age.")
        return told


@admin.register(Transfer)
class TransferAdmin(PanelsAdmin, KeyedAdmin[Transfer]):
    """Transfers of an organization."""

    list_display = ("shown_id", "at", "kind", "amount", "balance_after", "accounts", "seq", "actor", "reason")
    search_help_text = (
        "A tr_ id, or a slug for an organization's transfers; the slug with a reference or a number of its "
        "statement for one of them, such as “acme-labs 17”."
    )
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "organization", "wallet", "created_at")}),
        ("Money", {"fields": ("kind", "debit", "credit", "amount", "balance_after", "seq")}),
        ("Cause", {"fields": ("cause", "actor", "reason")}),
    )
    panels = (
        ("Grants that it took from, or gave back to", ("uses",), "billing.view_grantuse"),
        ("Its records", ("records",), "metering.view_usagerecord"),
    )

    def get_urls(self) -> list[URLPattern]:
        """With those of a stretch of time."""
        between = self.admin_site.admin_view(self.between_view)
        return [path("between/", between, name=f"{self.page}_between"), *super().get_urls()]

    def between_view(self, request: HttpRequest) -> HttpResponse:
        """An organization's transfers of a stretch of time, of some kinds or of all: a page after another."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = BetweenForm(request.GET)
        sections: list[Section] = []
        if form.is_valid():
            told = form.cleaned_data
            # A transfer's id carries the instant that its row does, or nearly: a range of the key.
            rows = Transfer.objects.filter(
                organization=told["organization"], created_at__gte=told["start"], created_at__lt=told["end"],
                pk__gte=ids.floor(told["start"] - SLACK), pk__lt=ids.floor(told["end"] + SLACK),
            )  # fmt: skip
            if told["kind"]:
                rows = rows.filter(kind__in=told["kind"])
            try:
                after = request.GET.get("after")
                rows = rows.filter(pk__lt=ids.read("tr", after)) if after else rows
            except ValueError:
                form.add_error(None, "That is not where a page begins.")
            else:
                sections = [self._between(request, list(rows.order_by("-pk")[: MATCHING_SHOWN + 1]))]
        return self.show(request, "Transfers of a time", sections, template="admin/ask.html", form=form)

    def _between(self, request: HttpRequest, found: list[Transfer]) -> Section:
        shown = transfer_table(found[:MATCHING_SHOWN]) if found else paragraphs("No transfer matches.")
        if len(found) <= MATCHING_SHOWN:
            return Section("", shown)
        asked = request.GET.copy()
        asked["after"] = ids.show("tr", found[MATCHING_SHOWN - 1].pk)
        return Section("", format_html("{}{}", shown, paragraphs(link_to(f"?{asked.urlencode()}", "Older"))))

    def find_in(self, organization: Organization, text: str) -> str | None:
        """By reference or by number, each through its unique key."""
        transfers = Transfer.objects.filter(organization_id=organization.pk).order_by()
        found = transfers.filter(kind__in=TransferKind.values, reference=text).first()
        if found is None and text.isascii() and text.isdigit() and len(text) < 19:
            found = transfers.filter(seq=int(text)).first()
        return None if found is None else self.url_of(organization.pk, found.pk)

    @admin.display(description="at (UTC)")
    def at(self, row: Transfer) -> str:
        """When it was posted."""
        return stamp(row.created_at)

    @admin.display(description="from → to")
    def accounts(self, row: Transfer) -> str:
        """Both accounts."""
        return f"{row.get_debit_display()} → {row.get_credit_display()}"

    @admin.display(description="amount (USD)")
    def amount(self, row: Transfer) -> str:
        """Exact."""
        return money.plain(row.amount_usd)

    @admin.display(description="balance after (USD)")
    def balance_after(self, row: Transfer) -> str:
        """Of the wallet."""
        return NOTHING if row.balance_after_usd is None else money.plain(row.balance_after_usd)

    @admin.display(description="wallet")
    def wallet(self, row: Transfer) -> SafeString:
        """The wallet that it moved."""
        return link("billing_wallet", row.organization_id, f"wallet of {row.organization}")

    @admin.display(description="reference")
    def cause(self, row: Transfer) -> str:
        """What moved it."""
        return cause_link(row.reference)

    @admin.display(description="uses")
    def uses(self, row: Transfer) -> SafeString:
        """What it took from which grant."""
        return uses_of(row)

    @admin.display(description="records")
    def records(self, row: Transfer) -> SafeString | str:
        """The first records that name this transfer.

        They are written in its transaction, so their ids carry the same millisecond: a range of
        the key instead of a search.
        """
        at = ids.instant(row.pk)
        # A person's own wallet may have paid for calls in an organization that they are or were a member of.
        person = row.organization.personal_of_id
        others = Member.objects.filter(user_id=person).values_list("organization_id", flat=True) if person else ()
        records = UsageRecord.objects.filter(
            organization_id__in={row.organization_id, *others}, pk__gte=ids.floor(at),
            pk__lt=ids.floor(at + _MILLISECOND),
        )  # fmt: skip
        found = list(records.filter(transfer_id=row.pk).order_by("pk").defer("metadata", "units")[: ROWS_SHOWN + 1])
        if not found:
            return "No usage record names it."
        more = "" if len(found) <= ROWS_SHOWN else f"The first {ROWS_SHOWN}; there are more."
        return format_html("{}{}", record_table(found[:ROWS_SHOWN]), more)
