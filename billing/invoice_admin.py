"""The desk's pages of invoicing: documents, periods, profiles, legal entities, tax rates, bank transfers, dunning.

Everything is read here; what finance does is an act that calls a verb. Forms that change a profile or a legal entity
change only what is filled in.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Final

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import bank, closing, invoices, issued, profiles
from billing.documents import csv
from billing.documents.document import Contradiction
from billing.models import (
    BankTransfer,
    BillingPeriod,
    BillingProfile,
    DunningStep,
    Invoice,
    InvoiceLine,
    InvoiceSettlement,
    LegalEntity,
    NumberSeries,
    TaxRate,
)
from billing.money_admin import cause_link, first, records_place, transfers_place, wallet_link, when
from core import errors, ids, lists, money
from core.admin import Act, ActsAdmin, BooksAdmin, Done, Section, Tool
from core.markup import NOTHING, as_facts, link, link_to, stamp, table
from core.reasons import ReasonForm
from metering.admin import find_organization
from ops.admin import RIGHTS, SUBJECTS, question_table, questions
from orgs.admin import actor
from orgs.models import Organization

LINES_SHOWN: Final = 100
ROWS_SHOWN: Final = 20
# What in a form of changes empties a text.
NOTHING_TYPED: Final = "-"

SUBJECTS[bank.APPROVAL] = ("billing_banktransfer", "bank")
RIGHTS[bank.APPROVAL] = "billing.change_invoice"
RIGHTS.update(dict.fromkeys((invoices.GIVE_UP, invoices.CREDIT_NOTE), "billing.change_invoice"))


def invoice_link(row: Invoice) -> SafeString:
    """A link to a document by its number, or its id."""
    return link("billing_invoice", row.pk, str(row))


class AmountForm(ReasonForm):
    """How much, in cents, and why."""

    field_order: tuple[str, ...] = ("amount_usd", "reason")
    amount_usd = forms.DecimalField(
        label="amount (USD, with tax)", min_value=Decimal("0.01"), max_digits=14, decimal_places=2
    )


class BankForm(AmountForm):
    """A line of a bank's statement."""

    field_order = ("amount_usd", "statement_reference", "reason")
    statement_reference = forms.CharField(
        label="on the bank's statement", max_length=bank.REFERENCE_MAX, help_text="Each line is entered once."
    )


def _finalize_document(request: HttpRequest, row: Invoice, _: dict[str, Any]) -> Done:
    assert row.period_id is not None
    closing.finalize(period_id=row.period_id, by=actor(request))
    return Done(f"Finalized as {invoices.find(row.pk)}.")


def _void(request: HttpRequest, row: Invoice, told: dict[str, Any]) -> Done:
    voided = invoices.void(invoice_id=row.pk, reason=told["reason"], by=actor(request))
    return Done(f"{voided} is void. What it asked for stands on the next invoice.")


def _credit(request: HttpRequest, row: Invoice, told: dict[str, Any]) -> Done:
    note = invoices.credit(
        invoice_id=row.pk, amount_usd=told["amount_usd"], reason=told["reason"], by=actor(request)
    )  # fmt: skip
    return Done(f"Credit note {note} is issued.", reverse("admin:billing_invoice_change", args=[note.pk]))


def _give_up(request: HttpRequest, row: Invoice, told: dict[str, Any]) -> Done:
    given_up = invoices.give_up(invoice_id=row.pk, reason=told["reason"], by=actor(request))
    return Done(f"{given_up} is given up.")


def _record_transfer(request: HttpRequest, row: Invoice, told: dict[str, Any]) -> Done:
    made = bank.record(
        invoice_id=row.pk, amount_usd=told["amount_usd"], statement_reference=told["statement_reference"],
        reason=told["reason"], by=actor(request),
    )  # fmt: skip
    if made.state == BankTransfer.State.WAITING:
        return Done("It waits until a second person agrees.", level=messages.WARNING)
    return Done(f"{money.plain(made.amount_usd)} USD were received.")


def _stands(row: Invoice) -> Sequence[Section]:
    told = {
        "wallet": wallet_link(row.organization), "number": row.number, "state": row.get_state_display(),
        "total (USD)": f"{row.total_usd:.2f}", "paid (USD)": f"{row.paid_usd:.2f}", "open (USD)": f"{row.open_usd:.2f}",
        "a second person agrees above (USD)": money.plain(Decimal(settings.MONEY_APPROVAL_USD)),
    }  # fmt: skip
    return [Section("As it stands", as_facts(told))]


def _is_open(row: Invoice) -> bool:
    return bool(row.state == Invoice.State.OPEN)


_SECOND = " Above the limit for one person it waits: when a second one has agreed, do the same again."


@admin.register(Invoice)
class InvoiceAdmin(ActsAdmin[Any]):
    """Documents: invoices, statements, receipts and credit notes, drafts too."""

    list_display = ("shown", "organization", "kind", "state", "total", "open", "issued_at", "due_at")
    list_filter = ("kind", "state", "legal_entity")
    list_select_related = ("organization", "legal_entity")
    sortable_by = ()
    search_fields = ("number", "organization__slug")
    search_help_text = "A number, an inv_ id, or an organization's slug."
    fieldsets: ClassVar[Any] = (
        (
            None,
            {"fields": ("shown_id", "number", "kind", "state", "wallet", "legal_entity", "period_shown", "corrected")},
        ),
        ("Lines, each with the way to its records", {"fields": ("lines",)}),
        ("Money", {"fields": ("exact", "subtotal", "tax", "total", "paid", "open", "opening", "closing")}),
        ("What was paid, credited or given up", {"fields": ("settlements", "steps")}),
        ("When", {"fields": ("starts_at", "ends_at", "zone", "issued_at", "due_at", "settled_at")}),
        ("Seller and buyer", {"fields": ("seller_shown", "buyer_shown")}),
        ("Why", {"fields": ("reason", "actor")}),
    )
    acts = (
        Act(
            "finalize", "Finalize now",
            "It is worked out again, numbered and issued, without waiting for its grace to be over.",
            _finalize_document, facts=_stands,
            possible=lambda row: row.state == Invoice.State.DRAFT and row.period.state == BillingPeriod.State.DRAFTED,
        ),
        Act(
            "bank", "Record a bank transfer",
            "The money pays the invoice; what is beyond it becomes credit. A large one waits for a second person.",
            _record_transfer, form=BankForm, facts=_stands, possible=_is_open,
        ),
        Act(
            "credit", "Issue a credit note",
            "What is open becomes less; what was paid becomes credit." + _SECOND,
            _credit, form=AmountForm, facts=_stands,
            possible=lambda row: row.kind == Invoice.Kind.INVOICE and row.state in {"open", "paid"},
        ),
        Act(
            "void", "Void",
            "Nobody has to pay it any more; it keeps its number. What it asked for is still owed, so the next invoice "
            "asks for it again: to forgive it, issue a credit note.",
            _void, form=ReasonForm, facts=_stands,
            possible=lambda row: _is_open(row) and row.open_usd == row.total_usd,
        ),
        Act(
            "give-up", "Give up",
            "What is open is written off, and of what the wallet owes as much." + _SECOND,
            _give_up, form=ReasonForm, facts=_stands, possible=_is_open,
        ),
    )  # fmt: skip

    def get_urls(self) -> list[URLPattern]:
        """With the document itself, as PDF and as CSV."""
        own = [
            path(
                f"<path:object_id>/{ending}/", self.admin_site.admin_view(partial(self.download, ending=ending)),
                name=f"{self.page}_{ending}",
            )
            for ending in ("pdf", "csv")
        ]  # fmt: skip
        return [*own, *super().get_urls()]

    def tools(self, request: HttpRequest, row: Invoice) -> list[Tool]:
        """The document, and what can be done about it."""
        files = [Tool(name, self.place_of(row, name.lower())) for name in ("PDF", "CSV")]
        return [*files, *super().tools(request, row)]

    def download(self, request: HttpRequest, object_id: str, *, ending: str) -> HttpResponseBase:
        """The document as a file. Raises Django's ``PermissionDenied`` or ``Http404``."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if ending == "csv":
            return lists.csv_answer(issued.file_name(row), csv.COLUMNS, csv.rows(issued.document(row)))
        try:
            drawn = issued.printed(row)
        except Contradiction as error:
            self.message_user(request, f"It does not add up and is not printed: {error}.", messages.ERROR)
            return HttpResponseRedirect(self.place_of(row))
        answer = HttpResponse(drawn, content_type="application/pdf")
        answer["Content-Disposition"] = f'inline; filename="{issued.file_name(row)}.pdf"'
        return answer

    @admin.display(description="document")
    def shown(self, row: Invoice) -> str:
        """Its number, or its id."""
        return str(row)

    @admin.display(description="wallet")
    def wallet(self, row: Invoice) -> SafeString:
        """Whose it is."""
        return wallet_link(row.organization)

    @admin.display(description="period")
    def period_shown(self, row: Invoice) -> str:
        """What it closes."""
        return NOTHING if row.period is None else link("billing_billingperiod", row.period.pk, row.period)

    @admin.display(description="corrects")
    def corrected(self, row: Invoice) -> str:
        """The invoice that a credit note takes back."""
        return NOTHING if row.corrects is None else invoice_link(row.corrects)

    @admin.display(description="lines")
    def lines(self, row: Invoice) -> str:
        """The first of its lines."""
        found, more = first(InvoiceLine.objects.filter(invoice=row).order_by("place"), LINES_SHOWN)
        shown = [
            (
                line.get_kind_display(), _records(row, line), line.service_tier, "batch" if line.batch else None,
                _part(line), line.requests, money.plain(line.exact_usd), f"{line.amount_usd:.2f}",
            )
            for line in found
        ]  # fmt: skip
        heads = ("line", "of", "tier", "batch", "key or project", "requests", "exact (USD)", "amount (USD)")
        return format_html("{}{}", table(heads, shown), more)

    @admin.display(description="settlements")
    def settlements(self, row: Invoice) -> str:
        """What was paid, credited or given up."""
        found, more = first(InvoiceSettlement.objects.filter(invoice=row).order_by("-pk"), ROWS_SHOWN)
        if not found:
            return NOTHING
        shown = [
            (
                stamp(one.at), one.get_kind_display(), f"{one.amount_usd:.2f}", f"{one.tax_usd:.2f}",
                f"{one.over_usd:.2f}", one.source, cause_link(one.reference), one.actor,
            )
            for one in found
        ]  # fmt: skip
        heads = ("at (UTC)", "kind", "amount (USD)", "of it tax", "beyond", "from", "reference", "by")
        return format_html("{}{}", table(heads, shown), more)

    @admin.display(description="dunning")
    def steps(self, row: Invoice) -> str:
        """What was done about it when it was overdue."""
        found = DunningStep.objects.filter(invoice=row).order_by("pk")
        shown = [(one.step, stamp(one.at), when(one.undone_at)) for one in found[:ROWS_SHOWN]]
        return table(("step", "at (UTC)", "given back (UTC)"), shown) if shown else NOTHING

    @admin.display(description="seller")
    def seller_shown(self, row: Invoice) -> str:
        """As it stands on the document."""
        return as_facts(row.seller) if row.seller else NOTHING

    @admin.display(description="buyer")
    def buyer_shown(self, row: Invoice) -> str:
        """As it stands on the document."""
        return as_facts(row.buyer) if row.buyer else NOTHING

    @admin.display(description="opening balance (USD)")
    def opening(self, row: Invoice) -> str:
        """Of a statement."""
        return NOTHING if row.opening_usd is None else f"{row.opening_usd:.2f}"

    @admin.display(description="closing balance (USD)")
    def closing(self, row: Invoice) -> str:
        """Of a statement."""
        return NOTHING if row.closing_usd is None else f"{row.closing_usd:.2f}"

    @admin.display(description="before rounding (USD)")
    def exact(self, row: Invoice) -> str:
        """What its lines come to exactly."""
        return money.plain(row.exact_usd)

    @admin.display(description="net (USD)")
    def subtotal(self, row: Invoice) -> str:
        """Without tax."""
        return f"{row.subtotal_usd:.2f}"

    @admin.display(description="tax (USD)")
    def tax(self, row: Invoice) -> str:
        """How much, and why."""
        said = f"{row.tax_usd:.2f}"
        if not row.tax_treatment:
            return said
        return f"{said} ({row.tax_name or 'tax'} {money.plain(row.tax_percent)} %, {row.tax_treatment})"

    @admin.display(description="total (USD)")
    def total(self, row: Invoice) -> str:
        """With tax."""
        return f"{row.total_usd:.2f}"

    @admin.display(description="open (USD)")
    def open(self, row: Invoice) -> str:
        """Still to be paid."""
        return f"{row.open_usd:.2f}"

    @admin.display(description="paid (USD)")
    def paid(self, row: Invoice) -> str:
        """Paid and not given back."""
        return f"{row.paid_usd:.2f}"


def _records(row: Invoice, line: InvoiceLine) -> str:
    """What a line is about, with the way to what it is made of in the document's time: records, or transfers."""
    if row.starts_at is None or row.ends_at is None:
        return line.model or line.text
    if line.kind == InvoiceLine.Kind.CARRIED and row.period is not None and row.period.follows is not None:
        before = Invoice.objects.filter(organization_id=row.organization_id, period__ends_at=row.period.follows).first()
        return line.text if before is None else invoice_link(before)
    if line.model is None:
        kinds = closing.kinds_of(line.kind)
        place = transfers_place(row.organization, row.starts_at, row.ends_at, kinds)
        return link_to(place, line.text or "transfers") if kinds else line.text
    narrowed = {"model": line.model}
    if line.api_key_id is not None:
        narrowed["key"] = ids.show("key", line.api_key_id)
    if line.project_id is not None:
        narrowed["project"] = ids.show("proj", line.project_id)
    return link_to(records_place(row.organization, row.starts_at, row.ends_at, **narrowed), line.model)


def _part(line: InvoiceLine) -> str:
    if line.api_key_id is not None:
        return ids.show("key", line.api_key_id)
    return NOTHING if line.project_id is None else ids.show("proj", line.project_id)


def _release(request: HttpRequest, row: BillingPeriod, told: dict[str, Any]) -> Done:
    closing.release(period_id=row.pk, reason=told["reason"], by=actor(request))
    return Done("Released: it is worked out again and finalized at the next run, unless it differs from the ledger.")


def _close(request: HttpRequest, row: BillingPeriod, _: dict[str, Any]) -> Done:
    closed = closing.close(period_id=row.pk, by=actor(request))
    found = Invoice.objects.filter(period_id=row.pk).first()
    if found is None:
        return Done(f"Closed: it is {closed.get_state_display().lower()}. Nothing moved in it, so it has no document.")
    return Done(
        f"Closed: look its draft over. It is finalized by itself at {when(closed.finalize_at)} UTC.",
        reverse("admin:billing_invoice_change", args=[found.pk]),
    )


def _comes_to(row: BillingPeriod) -> list[Section]:
    """What a period would come to if it were closed now, as it is worked out then."""
    told: dict[str, object] = {
        "wallet": wallet_link(row.organization), "from (UTC)": stamp(row.starts_at), "until (UTC)": stamp(row.ends_at),
        "time zone": row.zone,
    }  # fmt: skip
    if row.state == BillingPeriod.State.OPEN and closing.is_over(row):
        (worked,) = closing.work_out([row])
        told["charged (USD)"] = money.plain(worked.charged_usd)
        told["balance at its end (USD)"] = money.plain(worked.closing_usd)
        told["owed at its end (USD)"] = money.plain(worked.overdraft_usd)
        told["document"] = "none: nothing moved" if worked.draft is None else worked.draft.kind
        told["parked for"] = "; ".join(worked.doubts) or NOTHING
    return [Section("What it comes to", as_facts(told))]


@admin.register(BillingPeriod)
class BillingPeriodAdmin(ActsAdmin[Any]):
    """Periods of all organizations, and those that wait for a person."""

    list_display = ("organization", "starts_at", "ends_at", "state", "charged", "parked_for")
    list_filter = ("state",)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "A per_ id, or an organization's slug."
    fields = (
        *("shown_id", "wallet", "starts_at", "ends_at", "zone", "anchor_day", "state", "document", "charged"),
        *("closing", "overdraft", "carried", "parked_for", "released_at", "released_by", "released_for", "drafted_at"),
        *("finalize_at", "finalized_at"),
    )
    acts = (
        Act(
            "close", "Close",
            "It is over and is closed by itself soon; this closes it now. Its document is a draft until its grace is "
            "over, and the next period goes on from where it ended.",
            _close, facts=_comes_to,
            possible=lambda row: row.state == BillingPeriod.State.OPEN and closing.is_over(row),
        ),
        Act(
            "release", "Release",
            "Its bounds do not count any more. A difference from the ledger still does: that has to be repaired.",
            _release, form=ReasonForm,
            facts=lambda row: [Section("Parked for", as_facts({"reason": row.parked_for}))],
            possible=lambda row: row.state == BillingPeriod.State.PARKED,
        ),
    )  # fmt: skip

    @admin.display(description="wallet")
    def wallet(self, row: BillingPeriod) -> SafeString:
        """Whose it is."""
        return wallet_link(row.organization)

    @admin.display(description="document")
    def document(self, row: BillingPeriod) -> str:
        """What closes it."""
        found = Invoice.objects.filter(period=row).first()
        return NOTHING if found is None else invoice_link(found)

    @admin.display(description="charged (USD)")
    def charged(self, row: BillingPeriod) -> str:
        """By the ledger."""
        return link_to(records_place(row.organization, row.starts_at, row.ends_at), money.plain(row.charged_usd))

    @admin.display(description="balance at its end (USD)")
    def closing(self, row: BillingPeriod) -> str:
        """Exact, with the way to what moved it."""
        return link_to(transfers_place(row.organization, row.starts_at, row.ends_at), money.plain(row.closing_usd))

    @admin.display(description="owed at its end (USD)")
    def overdraft(self, row: BillingPeriod) -> str:
        """Exact."""
        return money.plain(row.overdraft_usd)

    @admin.display(description="carried over (USD)")
    def carried(self, row: BillingPeriod) -> str:
        """What its document left for the next."""
        return money.plain(row.carried_usd)


class PartyForm(forms.Form):
    """Who somebody is. What is empty stays, and a dash empties a text."""

    name = forms.CharField(required=False, max_length=200, help_text="Empty: as it is. A dash empties a text.")
    address = forms.CharField(required=False, max_length=profiles.TEXT_MAX, widget=forms.Textarea(attrs={"rows": 4}))
    country = forms.CharField(required=False, max_length=2, help_text="Two capital letters (ISO 3166).")
    vat_id = forms.CharField(label="VAT id", required=False, max_length=40)
    email = forms.CharField(label="e-mail", required=False, max_length=254)


class ProfileForm(PartyForm):
    """How an organization is billed."""

    legal_entity = forms.ModelChoiceField(
        LegalEntity.objects.order_by("name"), required=False, empty_label="as it is", label="sold by"
    )
    terms = forms.ChoiceField(required=False, choices=(("", "as it is"), *BillingProfile.Terms.choices))
    grouping = forms.ChoiceField(
        label="lines", required=False, choices=(("", "as it is"), *BillingProfile.Grouping.choices)
    )
    net_days = forms.IntegerField(label="days to pay", required=False, min_value=0, max_value=profiles.NET_DAYS_MAX)
    anchor_day = forms.IntegerField(label="periods begin on day", required=False, min_value=1, max_value=31)
    bound_usd = forms.DecimalField(
        label="parked above (USD)", required=False, min_value=Decimal(0), max_digits=24, decimal_places=money.DECIMALS
    )


class NewProfileForm(ProfileForm):
    """Of which organization."""

    organization = forms.CharField(help_text="A slug, an org_ id or a person's e-mail address.")
    field_order = ("organization",)

    def clean_organization(self) -> Organization:
        """The one that is meant."""
        found = find_organization(self.cleaned_data["organization"])
        if found is None:
            raise forms.ValidationError("There is no such organization.")
        return found


def _filled(told: dict[str, Any]) -> dict[str, Any]:
    """What was filled in, as verbs take it."""
    aside = {"organization", "reason"}
    fields = {name: value for name, value in told.items() if value not in ("", None) and name not in aside}
    if "legal_entity" in fields:
        fields["legal_entity_id"] = fields.pop("legal_entity").pk
    return {name: "" if value == NOTHING_TYPED else value for name, value in fields.items()}


def _set_profile(request: HttpRequest, row: BillingProfile | None, told: dict[str, Any]) -> Done:
    owner = told["organization"] if row is None else row.organization
    made = profiles.set_profile(organization_id=owner.pk, fields=_filled(told), by=actor(request))
    place = reverse("admin:billing_billingprofile_change", args=[made.pk])
    return Done(f"{made} is as you said; it counts for documents that are issued from now on.", place)


def _check(request: HttpRequest, row: BillingProfile, told: dict[str, Any]) -> Done:
    profiles.record_check(organization_id=row.pk, how=told["reason"], by=actor(request))
    return Done(f"{row.vat_id} counts as checked from now on.")


@admin.register(BillingProfile)
class BillingProfileAdmin(ActsAdmin[Any]):
    """How organizations are billed, and to whom."""

    list_display = ("organization", "terms", "legal_entity", "name", "country", "vat_id", "vat_checked_at", "email")
    list_filter = ("terms", "legal_entity")
    list_select_related = ("organization", "legal_entity")
    sortable_by = ()
    search_fields = ("organization__slug", "name")
    search_help_text = "An organization's slug, or a name."
    fields = (
        *("wallet", "legal_entity", "terms", "net_days", "anchor_day", "grouping", "bound", "name", "address"),
        *("country", "vat_id", "vat_checked_at", "vat_checked_by", "vat_checked_how", "email", "changed_at"),
    )
    acts = (
        Act(
            "set", "Change",
            "The period that goes on ends where it was to end. Another VAT id or country has to be checked again.",
            _set_profile, form=ProfileForm,
        ),
        Act(
            "check", "Record the VAT id as checked",
            "From now on reverse charge applies to sales within the EU. Say by what it was checked.",
            _check, form=ReasonForm, possible=lambda row: bool(row.vat_id),
        ),
    )  # fmt: skip
    list_acts = (
        Act(
            "new", "Set a profile", "An organization without one is prepaid, by the first legal entity.",
            _set_profile, form=NewProfileForm,
        ),
    )  # fmt: skip

    @admin.display(description="wallet")
    def wallet(self, row: BillingProfile) -> SafeString:
        """Whose it is."""
        return wallet_link(row.organization)

    @admin.display(description="parked above (USD)")
    def bound(self, row: BillingProfile) -> str:
        """Its own bound."""
        return "as set for all" if row.bound_usd is None else money.plain(row.bound_usd)


class EntityForm(PartyForm):
    """A legal entity."""

    time_zone = forms.CharField(required=False, max_length=64)
    number_prefix = forms.CharField(required=False, max_length=16, help_text="Capital letters and digits; it stays.")
    bank_details = forms.CharField(
        required=False, max_length=profiles.TEXT_MAX, widget=forms.Textarea(attrs={"rows": 3})
    )
    reminder_days = forms.CharField(required=False, help_text="Days after the due date, such as 3, 10, 17.")
    stop_days = forms.IntegerField(required=False, min_value=1, max_value=profiles.DAYS_MAX)
    freeze_days = forms.IntegerField(required=False, min_value=1, max_value=profiles.DAYS_MAX)

    def clean_reminder_days(self) -> list[int] | None:
        """Whole numbers between commas."""
        text = self.cleaned_data["reminder_days"]
        try:
            return [int(part) for part in text.split(",")] if text.strip() else None
        except ValueError as error:
            raise forms.ValidationError("Whole numbers, with commas between them.") from error


class NewEntityForm(EntityForm):
    """One more."""

    slug = forms.SlugField(max_length=40)
    field_order = ("slug",)


def _set_entity(request: HttpRequest, row: LegalEntity | None, told: dict[str, Any]) -> Done:
    slug = told.pop("slug") if row is None else row.slug
    if row is None and LegalEntity.objects.filter(slug=slug).exists():
        raise errors.OutOfRange("There is one of this slug.", param="slug")
    made = profiles.set_entity(slug=slug, fields=_filled(told), by=actor(request))
    return Done(f"{made} is as you said; it counts for documents that are issued from now on.")


@admin.register(LegalEntity)
class LegalEntityAdmin(ActsAdmin[Any]):
    """Companies that sell, and the numbers that each has given."""

    list_display = ("name", "slug", "country", "vat_id", "number_prefix")
    sortable_by = ()
    search_fields = ("name", "slug")
    fields = (
        *("shown_id", "slug", "name", "address", "country", "vat_id", "email", "time_zone", "number_prefix"),
        *("bank_details", "reminder_days", "stop_days", "freeze_days", "series"),
    )
    acts = (Act("set", "Change", "Documents that were issued keep what they say.", _set_entity, form=EntityForm),)
    list_acts = (
        Act("new", "Add a legal entity", "Its prefix stands in its numbers and stays.", _set_entity,
            form=NewEntityForm),
    )  # fmt: skip

    @admin.display(description="numbers")
    def series(self, row: LegalEntity) -> str:
        """The last number of each year."""
        found = NumberSeries.objects.filter(legal_entity=row).order_by("-year")[:ROWS_SHOWN]
        shown = [(str(one.year), one.last_number, when(one.last_issued_at)) for one in found]
        return table(("year", "last number", "issued (UTC)"), shown) if shown else NOTHING


class RateForm(forms.Form):
    """A country's rate from a day on."""

    country = forms.CharField(max_length=2, help_text="Two capital letters (ISO 3166).")
    valid_from = forms.DateField(help_text="The first day, by UTC.")
    percent = forms.DecimalField(min_value=Decimal(0), max_digits=6, decimal_places=3)
    name = forms.CharField(initial="VAT", max_length=40, help_text="As documents call it.")
    source = forms.CharField(max_length=300, help_text="Where the rate was published.")


def _set_rate(request: HttpRequest, _: None, told: dict[str, Any]) -> Done:
    day: date = told["valid_from"]
    made = profiles.set_rate(
        country=told["country"], valid_from=day, percent=told["percent"], name=told["name"], source=told["source"],
        by=actor(request),
    )  # fmt: skip
    return Done(f"{made}.")


@admin.register(TaxRate)
class TaxRateAdmin(ActsAdmin[Any]):
    """Rates of tax by country and day."""

    list_display = ("country", "valid_from", "percent", "name", "source", "actor")
    list_filter = ("country",)
    sortable_by = ()
    fields = ("shown_id", "country", "valid_from", "percent", "name", "source", "actor", "created_at")
    list_acts = (
        Act("new", "Enter a rate", "It stays: a rate that was wrong is followed by another one.", _set_rate,
            form=RateForm, why="source"),
    )  # fmt: skip


def _carry_out(request: HttpRequest, row: BankTransfer, _: dict[str, Any]) -> Done:
    done = bank.carry_out(transfer_id=row.pk, by=actor(request))
    if done.state == BankTransfer.State.REFUSED:
        return Done("A second person refused it: nothing was posted, and it is closed.", level=messages.WARNING)
    return Done(f"Posted: {money.plain(done.amount_usd)} USD.")


@admin.register(BankTransfer)
class BankTransferAdmin(ActsAdmin[Any]):
    """Bank transfers that finance entered."""

    list_display = ("shown_id", "organization", "document", "amount", "statement_reference", "state", "actor")
    list_filter = ("state",)
    list_select_related = ("organization", "invoice")
    sortable_by = ()
    search_fields = ("statement_reference", "organization__slug")
    search_help_text = "A bank_ id, a line of the bank's statement, or an organization's slug."
    fields = (
        *("shown_id", "organization", "document", "amount", "statement_reference", "reason", "actor", "state"),
        *("created_at", "settled_at", "approval"),
    )
    acts = (
        Act(
            "carry-out", "Carry out", "It is posted if a second person has agreed. If one has refused, it is closed.",
            _carry_out, possible=lambda row: row.state == BankTransfer.State.WAITING, known=lambda row: row.reason,
        ),
    )  # fmt: skip

    @admin.display(description="invoice")
    def document(self, row: BankTransfer) -> SafeString:
        """What it is for."""
        return invoice_link(row.invoice)

    @admin.display(description="amount (USD)")
    def amount(self, row: BankTransfer) -> str:
        """In cents."""
        return f"{row.amount_usd:.2f}"

    @admin.display(description="second person")
    def approval(self, row: BankTransfer) -> str:
        """What was asked and decided about it."""
        asked = questions(kind=bank.APPROVAL, subject_id=row.pk)
        return question_table(asked) if asked else "Nobody was asked."


@admin.register(DunningStep)
class DunningStepAdmin(BooksAdmin[Any]):
    """What was done about invoices that were overdue."""

    list_display = ("organization", "document", "step", "at", "undone_at")
    list_select_related = ("organization", "invoice")
    list_filter = ("step",)
    sortable_by = ()
    search_fields = ("organization__slug",)
    search_help_text = "A dun_ id, or an organization's slug."
    fields = ("shown_id", "organization", "document", "step", "before_shown", "at", "undone_at")

    @admin.display(description="invoice")
    def document(self, row: DunningStep) -> SafeString:
        """What it is about."""
        return invoice_link(row.invoice)

    @admin.display(description="terms of before")
    def before_shown(self, row: DunningStep) -> str:
        """What is given back."""
        return as_facts(row.before) if row.before else NOTHING
