"""The desk's page of corrections: voids, and the differences of re-ratings."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing.models import Correction
from billing.money_admin import transfer_link
from core import ids, money
from core.admin import BooksAdmin
from core.markup import NOTHING, link, stamp, table
from metering.admin import address, find_organization
from metering.models import UsageRecord

ROWS_SHOWN: Final = 20


def correction_table(found: Sequence[Correction], payer_id: UUID) -> str:
    """What was posted about a record afterwards."""
    rows = [
        (
            link("billing_correction", one.pk, one.get_kind_display()),
            stamp(one.created_at),
            money.plain(one.cost_usd),
            transfer_link(payer_id, one.transfer_id),
            one.reason,
        )
        for one in found[:ROWS_SHOWN]
    ]
    return table(("correction", "at (UTC)", "difference (USD)", "transfer", "reason"), rows) if rows else NOTHING


@admin.register(Correction)
class CorrectionAdmin(BooksAdmin[Correction]):
    """Voids and the differences of re-ratings."""

    list_display = ("shown_id", "organization", "kind", "difference", "record", "actor", "reason", "created_at")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "The usage_ id of a correcting record, or an organization's slug."
    fields = (
        *("shown_id", "organization", "kind", "record", "difference", "transfer"),
        *("cause", "actor", "reason", "created_at"),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Correction], search_term: str
    ) -> tuple[QuerySet[Correction], bool]:
        """By id or by organization."""
        if not search_term.strip():
            return queryset, False
        if named := find_organization(search_term):
            return queryset.filter(organization_id=named.pk), False
        try:
            return queryset.filter(pk=ids.read("usage", search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description="difference (USD)")
    def difference(self, row: Correction) -> str:
        """Negative gives back."""
        return money.plain(row.cost_usd)

    @admin.display(description="corrected record")
    def record(self, row: Correction) -> SafeString:
        """The record as it was charged."""
        place = address("usage", row.organization_id, row.record_id)
        return link("metering_usagerecord", place, ids.show("usage", row.record_id))

    @admin.display(description="transfer")
    def transfer(self, row: Correction) -> str:
        """What moved the difference, in the payer's books."""
        if row.transfer_id is None:
            return NOTHING
        corrected = UsageRecord.objects.filter(organization_id=row.organization_id, pk=row.pk)
        payer = corrected.values_list("payer_id", flat=True).first()
        return transfer_link(payer or row.organization_id, row.transfer_id)
