"""The desk's pages of what a wallet is made of: grants, holds, ceilings, sealed days, and money moved by hand.

What finance does about a wallet are the ``ACTS`` of its page, each with a right of its own. The
page itself is in ``billing.wallet_admin``.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django import forms
from django.apps import apps
from django.conf import settings
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import adjustments, books, budgets, grants, holds, wallets
from billing.ledger import Terms
from billing.models import (
    Adjustment,
    Budget,
    BudgetSpend,
    Grant,
    GrantUse,
    Hold,
    LedgerHead,
    Transfer,
    TransferKind,
    Wallet,
)
from core import clock, errors, ids, money
from core.admin import Act, ActsAdmin, BooksAdmin, Done, Section, presence
from core.fields import IdField
from core.markup import NOTHING, as_facts, link, paragraphs, refer, stamp, table
from core.reasons import ReasonForm
from metering import catalog
from metering.admin import (
    KeyedAdmin,
    MonthFilter,
    OrganizationFilter,
    address,
    find_organization,
    list_of,
)
from ops import approvals
from ops.admin import RIGHTS, SUBJECTS, question_table, questions, second_person
from orgs import audit
from orgs.admin import actor
from orgs.models import ApiKey, Member, Organization, Project, User

M = TypeVar("M", bound=Model)

ROWS_SHOWN: Final = 20
OPEN_SHOWN: Final = 100
PARTS_SHOWN: Final = 50
# Dates beyond it are typing errors.
YEAR_MAX: Final = 2200
PRIORITY_MAX: Final = 32_767
# The part of an organization that a ceiling is on, by how its id begins.
PARTS: Final = {"proj": Budget.Subject.PROJECT, "mem": Budget.Subject.MEMBER, "key": Budget.Subject.KEY}
PAGES: Final = {
    Budget.Subject.PROJECT: ("orgs_project", "proj"),
    Budget.Subject.MEMBER: ("orgs_member", "mem"),
    Budget.Subject.KEY: ("orgs_apikey", "key"),
}

SUBJECTS[adjustments.APPROVAL] = ("billing_adjustment", "adj")
RIGHTS[adjustments.APPROVAL] = "billing.add_adjustment"
RIGHTS[wallets.APPROVAL] = "billing.change_wallet"


def may(request: HttpRequest, right: str) -> bool:
    """Whether the person at the desk has a right such as ``billing.view_wallet``."""
    user = request.user
    return isinstance(user, User) and user.has_perm(right)


class PanelsAdmin(BooksAdmin[Any]):
    """Pages with panels of other tables, each for those who may see that table."""

    panels: Sequence[tuple[str, tuple[str, ...], str]] = ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """The page's own fields, then the panels: a heading, its fields and the right it takes."""
        shown = [(heading, {"fields": names}) for heading, names, right in self.panels if may(request, right)]
        return [*super().get_fieldsets(request, obj), *shown]


def keyed_link(page: str, prefix: str, organization_id: UUID, key: UUID | None) -> str:
    """A link to a row whose key begins with the organization, if there is one."""
    return NOTHING if key is None else link(page, address(prefix, organization_id, key), ids.show(prefix, key))


def transfer_link(organization_id: UUID, transfer_id: UUID | None) -> str:
    """A link to a transfer, if there is one."""
    return keyed_link("billing_transfer", "tr", organization_id, transfer_id)


def grant_link(organization_id: UUID, grant_id: UUID | None) -> str:
    """A link to a grant, if there is one."""
    return keyed_link("billing_grant", "grant", organization_id, grant_id)


def record_link(organization_id: UUID, record_id: UUID | None) -> str:
    """A link to a usage record, if there is one."""
    return keyed_link("metering_usagerecord", "usage", organization_id, record_id)


# What causes money to move, by how a reference begins; its page, and how its ids begin.
_CAUSES: Final = {
    "adjustment": "billing_adjustment",
    "bank_transfer": "billing_banktransfer",
    "credit_note": "billing_invoice",
    "dispute": "billing_dispute",
    "payment": "billing_payment",
    "refund": "billing_refund",
    "topup": "billing_topup",
}


def cause_link(reference: str) -> str:
    """A reference as the books hold it; a link to what it names, where that has a page."""
    kind, _, rest = reference.partition(":")
    try:
        key = UUID(rest[:36])
        page, prefix = _CAUSES[kind], ids_of(_CAUSES[kind])
    except (KeyError, ValueError):
        return reference
    return format_html("{}: {}{}", kind.replace("_", " "), link(page, key, ids.show(prefix, key)), rest[36:])


def ids_of(page: str) -> str:
    """How ids of a page's rows begin; ``page`` is app and model as in ``orgs_apikey``."""
    app, _, model = page.partition("_")
    key = apps.get_model(app, model)._meta.pk
    assert isinstance(key, IdField)
    return key.prefix


def records_place(organization: Organization | str, start: datetime, end: datetime, **narrowed: str) -> str:
    """Where the usage records of a stretch of time are listed, narrowed by ``model``, ``key`` or ``project``."""
    slug = organization if isinstance(organization, str) else organization.slug
    asked = {"organization": slug, "start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    return f"{reverse('admin:metering_usagerecord_matching')}?{urlencode({**asked, **narrowed})}"


def transfers_place(organization: Organization, start: datetime, end: datetime, kinds: Sequence[str] = ()) -> str:
    """Where the transfers of a stretch of time are listed, of some kinds or of all."""
    asked = [("organization", organization.slug), *(("kind", kind) for kind in kinds)]
    times = [(name, f"{at:%Y-%m-%dT%H:%M:%SZ}") for name, at in (("start", start), ("end", end))]
    return f"{reverse('admin:billing_transfer_between')}?{urlencode([*asked, *times])}"


def wallet_link(organization: Organization) -> SafeString:
    """A link to a wallet by its organization."""
    return link("billing_wallet", organization.pk, f"wallet of {organization}")


def when(at: datetime | None) -> str:
    """An instant, if there is one."""
    return NOTHING if at is None else stamp(at)


def first(rows: QuerySet[M], most: int) -> tuple[list[M], str]:
    """The first rows, and what to say if there are more."""
    found = list(rows[: most + 1])
    return found[:most], paragraphs(f"The first {most}; there are more.") if len(found) > most else ""


# Grants.


def grant_state(row: Grant) -> str:
    """How a grant stands, in a word."""
    if row.transfer_id is None:
        return "waiting to begin"
    if row.remaining_usd:
        return "open"
    return "over" if row.expires_at is not None and row.expires_at <= clock.now() else "used up"


def grant_table(organization: Organization) -> SafeString:
    """What is left in a wallet by grant, in the order in which it is spent, and what has yet to begin."""
    left, more = first(Grant.objects.filter(organization=organization, remaining_usd__gt=0).order_by("pk"), OPEN_SHOWN)
    left.sort(key=lambda row: (row.transfer_id is None, books.order(_lot(row))))
    rows = [
        (
            grant_link(row.organization_id, row.pk),
            row.get_kind_display(),
            grant_state(row),
            money.plain(row.amount_usd),
            money.plain(row.remaining_usd),
            row.priority,
            stamp(row.effective_at),
            when(row.expires_at),
            ", ".join(row.model_slugs) or "any",
        )
        for row in left
    ]
    heads = (
        *("grant", "kind", "state", "amount (USD)", "remaining (USD)", "priority"),
        *("begins (UTC)", "ends (UTC)", "models"),
    )
    told = table(heads, rows) if rows else paragraphs("Nothing is left of any grant.")
    return format_html('{}{}<a href="{}">All grants</a>', told, more, list_of("billing_grant", organization))


def _lot(row: Grant) -> books.Lot:
    return books.Lot(row.pk, row.kind, row.remaining_usd, row.priority, row.expires_at, frozenset(row.model_slugs))


def use_table(uses: Iterable[GrantUse], *, of_grant: bool) -> SafeString:
    """What transfers took from grants: of one grant the transfers, of one transfer the grants."""
    rows = [
        (
            keyed_link("billing_grantuse", "use", row.organization_id, row.pk),
            transfer_link(row.organization_id, row.transfer_id)
            if of_grant
            else grant_link(row.organization_id, row.grant_id),
            money.plain(row.amount_usd),
            when(ids.instant(row.pk)),
        )
        for row in uses
    ]
    return table(("use", "transfer" if of_grant else "grant", "taken (USD)", "at (UTC)"), rows)


def uses_of(transfer: Transfer) -> SafeString:
    """Which grants a transfer took from or gave back to."""
    uses = GrantUse.objects.filter(organization_id=transfer.organization_id, transfer_id=transfer.pk).order_by("pk")
    found, more = first(uses, ROWS_SHOWN)
    return format_html("{}{}", use_table(found, of_grant=False) if found else paragraphs("None."), more)


class LeftFilter(admin.SimpleListFilter):
    """Grants with money in them."""

    title = "what is left"
    parameter_name = "left"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Something or nothing."""
        return [("some", "Something"), ("none", "Nothing")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those."""
        chosen = {"some": Q(remaining_usd__gt=0), "none": Q(remaining_usd=0)}.get(self.value() or "", Q())
        return queryset.filter(chosen)


class MoneyKeyedAdmin(KeyedAdmin[M]):
    """Rows of an organization that have no name but their id."""

    # Columns that a list may be filtered by beside organization and month.
    narrowed: tuple[str, ...] = ()

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """The filters only."""
        return lookup in self.narrowed or super().lookup_allowed(lookup, value, request)

    def find_in(self, organization: Organization, text: str) -> str | None:
        """Nothing has another name."""
        return None

    @admin.display(description="wallet")
    def wallet(self, row: Any) -> SafeString:
        """Whose it is."""
        return wallet_link(row.organization)

    @admin.display(description="amount (USD)")
    def amount(self, row: Any) -> str:
        """Exact."""
        return money.plain(row.amount_usd)


@admin.register(Grant)
class GrantAdmin(PanelsAdmin, MoneyKeyedAdmin[Grant]):
    """Credit in lots."""

    list_display = ("shown_id", "kind", "state", "amount", "remaining", "priority", "begins", "ends", "for_models")
    list_filter = (OrganizationFilter, MonthFilter, "kind", LeftFilter)
    narrowed = ("kind__exact", "left")
    search_help_text = "A grant_ id, or a slug for an organization's grants; the slug with a reference for one of them."
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "organization", "wallet", "state", "created_at")}),
        ("Money", {"fields": ("kind", "amount", "remaining", "transfer", "source")}),
        ("Conditions", {"fields": ("priority", "begins", "ends", "for_models")}),
        ("Cause", {"fields": ("cause", "actor", "reason")}),
    )
    panels = (("What it paid for", ("uses",), "billing.view_grantuse"),)

    def find_in(self, organization: Organization, text: str) -> str | None:
        """By its cause."""
        found = Grant.objects.filter(organization=organization, reference=text).first()
        return None if found is None else self.url_of(organization.pk, found.pk)

    @admin.display(description="state")
    def state(self, row: Grant) -> str:
        """How it stands."""
        return grant_state(row)

    @admin.display(description="remaining (USD)")
    def remaining(self, row: Grant) -> str:
        """What is left."""
        return money.plain(row.remaining_usd)

    @admin.display(description="begins (UTC)")
    def begins(self, row: Grant) -> str:
        """From when on it pays."""
        return stamp(row.effective_at)

    @admin.display(description="ends (UTC)")
    def ends(self, row: Grant) -> str:
        """Until when it pays."""
        return when(row.expires_at)

    @admin.display(description="models")
    def for_models(self, row: Grant) -> str:
        """What it pays for."""
        return ", ".join(row.model_slugs) or "any"

    @admin.display(description="transfer")
    def transfer(self, row: Grant) -> str:
        """What brought it into the wallet."""
        return transfer_link(row.organization_id, row.transfer_id)

    @admin.display(description="reference")
    def cause(self, row: Grant) -> str:
        """What it was given for."""
        return cause_link(row.reference)

    @admin.display(description="newest first")
    def uses(self, row: Grant) -> SafeString:
        """The last transfers that took from it."""
        uses = GrantUse.objects.filter(organization_id=row.organization_id, grant_id=row.pk).order_by("-pk")
        found, more = first(uses, ROWS_SHOWN)
        return format_html("{}{}", use_table(found, of_grant=True) if found else paragraphs("Nothing."), more)


@admin.register(GrantUse)
class GrantUseAdmin(MoneyKeyedAdmin[GrantUse]):
    """What transfers took from grants."""

    list_display = ("shown_id", "at", "amount", "grant", "transfer")
    search_help_text = "A use_ id, or a slug for what an organization's grants paid for."
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "organization", "wallet", "at")}),
        ("Money", {"fields": ("amount", "grant", "transfer")}),
        ("Records", {"fields": ("first_record", "last_record")}),
    )

    @admin.display(description="at (UTC)")
    def at(self, row: GrantUse) -> str:
        """When it was posted."""
        return stamp(ids.instant(row.pk))

    @admin.display(description="grant")
    def grant(self, row: GrantUse) -> str:
        """What it was taken from, or given back to."""
        return grant_link(row.organization_id, row.grant_id)

    @admin.display(description="transfer")
    def transfer(self, row: GrantUse) -> str:
        """What took it."""
        return transfer_link(row.organization_id, row.transfer_id)

    @admin.display(description="from record")
    def first_record(self, row: GrantUse) -> str:
        """The first that it paid for."""
        return self._record(row, row.first_record_id)

    @admin.display(description="to record")
    def last_record(self, row: GrantUse) -> str:
        """The last that it paid for."""
        return self._record(row, row.last_record_id)

    def _record(self, row: GrantUse, record_id: UUID | None) -> str:
        # A record may belong to another organization than the wallet that paid: its page is searched for.
        if record_id is None:
            return NOTHING
        shown = ids.show("usage", record_id)
        return format_html('<a href="{}?q={}">{}</a>', reverse("admin:metering_usagerecord_changelist"), shown, shown)


# Holds.


def hold_table(organization: Organization) -> SafeString:
    """The open holds on a wallet, oldest first."""
    open_holds = Hold.objects.filter(payer_id=organization.pk, state=Hold.State.OPEN).order_by("pk")
    found, more = first(open_holds, ROWS_SHOWN)
    rows = [
        (
            keyed_link("billing_hold", "auth", row.organization_id, row.pk),
            row.model,
            money.plain(row.amount_usd),
            f"{row.tokens:,}",
            stamp(row.created_at),
            stamp(row.expires_at),
        )
        for row in found
    ]
    heads = ("hold", "model", "amount (USD)", "tokens", "placed (UTC)", "ends (UTC)")
    told = table(heads, rows) if rows else paragraphs("None.")
    return format_html('{}{}<a href="{}">All holds</a>', told, more, list_of("billing_hold", organization))


def _release(request: HttpRequest, row: Hold, told: dict[str, Any]) -> Done:
    with transaction.atomic():
        # Locked as the verb locks it, so what it says it did is what it did.
        locked = Hold.objects.select_for_update(no_key=True).get(organization_id=row.organization_id, pk=row.pk)
        if locked.state != Hold.State.OPEN:
            return Done(f"It had ended before: {locked.get_state_display().lower()}.", level=messages.WARNING)
        holds.release(organization_id=row.organization_id, hold_id=row.pk)
        audit.note(
            actor=actor(request), verb="hold.released", subject=row, organization=row.organization,
            details={"reason": told["reason"], "amount_usd": money.plain(row.amount_usd)},
        )  # fmt: skip
    return Done(f"Released: {money.plain(row.amount_usd)} USD are available again.")


@admin.register(Hold)
class HoldAdmin(ActsAdmin[Any], MoneyKeyedAdmin[Any]):
    """Money set aside for requests that have not finished."""

    list_display = ("shown_id", "state", "model", "amount", "tokens", "placed", "ends", "settled_at")
    list_filter = (OrganizationFilter, MonthFilter, "state")
    narrowed = ("state__exact",)
    search_help_text = "An auth_ id, or a slug for an organization's holds."
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("shown_id", "organization", "payer", "state", "placed", "ends", "settled_at")}),
        ("What for", {"fields": ("model", "max_output_tokens", "tokens", "amount", "record")}),
        ("Whose", {"fields": ("key", "member", "project", "placer", "ceilings")}),
    )
    acts = (
        Act(
            "release",
            "Release",
            "What it holds becomes available again at once. If its request still runs, what that uses is charged "
            "all the same, into the overdraft if need be.",
            _release,
            form=ReasonForm,
            possible=lambda row: row.state == Hold.State.OPEN,
        ),
    )

    @admin.display(description="placed (UTC)")
    def placed(self, row: Hold) -> str:
        """Since when it holds."""
        return stamp(row.created_at)

    @admin.display(description="ends by itself (UTC)")
    def ends(self, row: Hold) -> str:
        """When it expires."""
        return stamp(row.expires_at)

    @admin.display(description="held in")
    def payer(self, row: Hold) -> str:
        """The wallet that pays."""
        own = row.payer_id == row.organization_id
        return wallet_link(row.organization if own else Organization.objects.get(pk=row.payer_id))

    @admin.display(description="captured by")
    def record(self, row: Hold) -> str:
        """The usage it was placed for."""
        return record_link(row.organization_id, row.record_id)

    @admin.display(description="key")
    def key(self, row: Hold) -> str:
        """Whose request it is."""
        return refer("orgs_apikey", "key", row.api_key_id)

    @admin.display(description="member")
    def member(self, row: Hold) -> str:
        """The person."""
        return refer("orgs_member", "mem", row.member_id)

    @admin.display(description="project")
    def project(self, row: Hold) -> str:
        """The project."""
        return refer("orgs_project", "proj", row.project_id)

    @admin.display(description="placed by")
    def placer(self, row: Hold) -> str:
        """The gateway's key."""
        return refer("orgs_apikey", "key", row.placed_by)

    @admin.display(description="counts against")
    def ceilings(self, row: Hold) -> str:
        """The ceilings that reserve it."""
        shown = [(refer("billing_budget", "budget", each),) for each in row.budget_ids]
        return table(("ceiling",), shown) if shown else NOTHING


# Ceilings.


def subject_link(row: Budget) -> str:
    """The page of what a ceiling is on."""
    if row.subject == Budget.Subject.ORGANIZATION:
        return "the whole organization"
    page, prefix = PAGES[Budget.Subject(row.subject)]
    return format_html("{} {}", row.subject, refer(page, prefix, row.subject_id))


def unit_of(row: Budget) -> str:
    """Its unit, as amounts are followed by it."""
    return "USD" if row.unit == Budget.Unit.USD else "tokens"


def ceiling_table(organization: Organization) -> SafeString:
    """The ceilings of an organization as they stand now."""
    found = budgets.standing(organization.pk)
    rows = [
        (
            link("billing_budget", one.budget.pk, one.budget),
            subject_link(one.budget),
            one.budget.get_window_display(),
            unit_of(one.budget),
            money.plain(one.ceiling),
            money.plain(one.spent),
            money.plain(one.held),
            money.plain(one.left),
        )
        for one in found[:OPEN_SHOWN]
    ]
    if not rows:
        return paragraphs("None.")
    more = paragraphs(f"The first {OPEN_SHOWN} of {len(found):,}.") if len(found) > OPEN_SHOWN else ""
    reached = [place for place, one in enumerate(found[:OPEN_SHOWN]) if not one.left]
    heads = ("ceiling", "on", "window", "unit", "at most", "used", "held", "left")
    return format_html("{}{}", table(heads, rows, marked=reached), more)


def part_table(organization: Organization) -> SafeString:
    """The newest parts of an organization that a ceiling can be on, by id."""
    keys = ApiKey.objects.filter(organization=organization, revoked_at__isnull=True).defer("digest").order_by("-pk")
    members = Member.objects.filter(organization=organization, removed_at__isnull=True).select_related("user")
    projects = Project.objects.filter(organization=organization, archived_at__isnull=True).order_by("-pk")
    rows = [
        *((ids.show("proj", row.pk), "project", row.name) for row in projects[:PARTS_SHOWN]),
        *((ids.show("mem", row.pk), "member", row.user.email) for row in members.order_by("-pk")[:PARTS_SHOWN]),
        *((ids.show("key", row.pk), "key", str(row)) for row in keys[:PARTS_SHOWN]),
    ]
    return table(("id", "kind", "name"), rows) if rows else paragraphs("It has no parts.")


class AmountForm(forms.Form):
    """The amount of a ceiling."""

    ceiling = forms.DecimalField(
        label="at most", min_value=Decimal(0), max_digits=24, decimal_places=money.DECIMALS,
        help_text="In its unit. Calls that might pass it are refused; zero refuses every call that costs anything.",
    )  # fmt: skip


class CeilingForm(AmountForm):
    """A ceiling and what it is on."""

    field_order = ("subject_id", "window", "unit", "ceiling")
    subject_id = forms.CharField(
        label="on", required=False,
        help_text="A proj_, mem_ or key_ id of this organization; the whole organization without one.",
    )  # fmt: skip
    window = forms.ChoiceField(choices=Budget.Window.choices)
    unit = forms.ChoiceField(choices=Budget.Unit.choices)

    def clean_subject_id(self) -> tuple[str, UUID] | None:
        """What kind of part, and which."""
        text = self.cleaned_data["subject_id"]
        if not text:
            return None
        for prefix, subject in PARTS.items():
            try:
                return subject, ids.read(prefix, text)
            except ValueError:
                continue
        raise forms.ValidationError("That is no proj_, mem_ or key_ id.")


def _set_ceiling(request: HttpRequest, row: Wallet, told: dict[str, Any]) -> Done:
    subject, subject_id = told["subject_id"] or (Budget.Subject.ORGANIZATION, row.pk)
    made = budgets.set_ceiling(
        organization_id=row.pk, subject=subject, subject_id=subject_id, window=told["window"], unit=told["unit"],
        ceiling=told["ceiling"], by=actor(request),
    )  # fmt: skip
    return Done(f"Set: at most {money.plain(made.ceiling)} {unit_of(made)} in a {made.get_window_display()}.")


def _change_ceiling(request: HttpRequest, row: Budget, told: dict[str, Any]) -> Done:
    made = budgets.set_ceiling(
        organization_id=row.organization_id, subject=row.subject, subject_id=row.subject_id, window=row.window,
        unit=row.unit, ceiling=told["ceiling"], by=actor(request),
    )  # fmt: skip
    place = reverse("admin:billing_budget_change", args=[made.pk])
    return Done(f"At most {money.plain(made.ceiling)} {unit_of(made)} from now on.", place=place)


def _lift(request: HttpRequest, row: Budget, _: dict[str, Any]) -> Done:
    budgets.remove_ceiling(budget_id=row.pk, by=actor(request))
    return Done("Lifted.")


def stands(row: Budget) -> bool:
    """Whether a ceiling has not been lifted."""
    return row.removed_at is None


@admin.register(Budget)
class BudgetAdmin(PanelsAdmin, ActsAdmin[Any]):
    """Ceilings."""

    list_display = ("shown_id", "organization", "on", "window", "unit", "most", "created_at", "removed_at")
    list_filter = (
        *("subject", "window", "unit"),
        ("removed_at", presence("state", absent="In force", present="Lifted")),
    )
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A budget_ id, or an organization's slug, id or person's e-mail address."
    fields = (
        *("shown_id", "organization", "wallet", "on", "window", "unit", "most", "used", "held_now", "left"),
        *("created_at", "removed_at"),
    )
    panels = (("What counted", ("buckets",), "billing.view_budgetspend"),)
    acts = (
        Act(
            "ceiling",
            "Change",
            "Calls from now on go by the new amount. What was used in the window so far counts.",
            _change_ceiling,
            form=AmountForm,
            possible=stands,
        ),
        Act("lift", "Lift", "Nothing is refused by it any more. It can be set again.", _lift, possible=stands),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Budget], search_term: str
    ) -> tuple[QuerySet[Budget], bool]:
        """By id or by organization."""
        return _by_id_or_organization(queryset, "budget", search_term), False

    @admin.display(description="on")
    def on(self, row: Budget) -> str:
        """What it limits."""
        return subject_link(row)

    @admin.display(description="wallet")
    def wallet(self, row: Budget) -> SafeString:
        """Whose it is."""
        return wallet_link(row.organization)

    @admin.display(description="at most")
    def most(self, row: Budget) -> str:
        """The ceiling."""
        return f"{money.plain(row.ceiling)} {unit_of(row)}"

    @admin.display(description="used in its window")
    def used(self, row: Budget) -> str:
        """As of now."""
        found = self._standing(row)
        return NOTHING if found is None else money.plain(found.spent)

    @admin.display(description="held")
    def held_now(self, row: Budget) -> str:
        """By open holds."""
        return money.plain(row.held)

    @admin.display(description="left")
    def left(self, row: Budget) -> str:
        """What may still be asked for."""
        found = self._standing(row)
        return NOTHING if found is None else money.plain(found.left)

    def _standing(self, row: Any) -> budgets.Standing | None:
        """How it stands, read once for a page; nothing for one that was lifted."""
        if not hasattr(row, "standing"):
            found = budgets.standing(row.organization_id) if stands(row) else []
            row.standing = next((one for one in found if one.budget.pk == row.pk), None)
        known: budgets.Standing | None = row.standing
        return known

    @admin.display(description="newest first")
    def buckets(self, row: Budget) -> SafeString:
        """The last five minutes (or months) in which anything counted."""
        spends = BudgetSpend.objects.filter(organization_id=row.organization_id, budget_id=row.pk).order_by("-bucket")
        found, more = first(spends, ROWS_SHOWN)
        rows = [(stamp(one.bucket), money.plain(one.amount)) for one in found]
        return format_html("{}{}", table(("from (UTC)", unit_of(row)), rows) if rows else paragraphs("Nothing."), more)


def _by_id_or_organization(rows: QuerySet[M], prefix: str, text: str) -> QuerySet[M]:
    """Rows by their own id, or those of an organization; every row for no text."""
    if not text.strip():
        return rows
    if named := find_organization(text):
        return rows.filter(organization=named.pk)
    try:
        return rows.filter(pk=ids.read(prefix, text.strip()))
    except ValueError:
        return rows.none()


# Money by hand.


class MoneyForm(ReasonForm):
    """Money to move, and for a grant its conditions."""

    field_order = ("kind", "amount_usd", "reason", "priority", "begins", "expires_at", "models")
    kind = forms.ChoiceField(choices=Adjustment.Kind.choices)
    amount_usd = forms.DecimalField(label="amount (USD)", max_digits=24, decimal_places=money.DECIMALS)
    priority = forms.IntegerField(
        required=False, min_value=-PRIORITY_MAX, max_value=PRIORITY_MAX,
        help_text="Promotional credit only. Lower is spent first; 0 without one.",
    )  # fmt: skip
    begins = forms.DateField(
        label="begins on", required=False, widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Promotional credit only. A day in the organization's time zone; at once without one.",
    )  # fmt: skip
    expires_at = forms.DateField(
        label="last day", required=False, widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Promotional credit only. It can be spent until that day is over in the organization's time zone.",
    )  # fmt: skip
    models = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Promotional credit only. Ids of the catalog, between commas or spaces; any model without one.",
    )  # fmt: skip

    def clean_amount_usd(self) -> Decimal:
        """Something."""
        amount: Decimal = self.cleaned_data["amount_usd"]
        if amount <= 0:
            raise forms.ValidationError("An amount is more than zero; its kind says in which direction it goes.")
        return amount

    def clean_models(self) -> tuple[str, ...]:
        """The catalog's own ids of what is named."""
        listing = catalog.listing()
        slugs: dict[str, None] = {}
        for name in self.cleaned_data["models"].replace(",", " ").split():
            model = listing.find(name)
            if model is None:
                raise forms.ValidationError(f"No model is called {name}.")
            slugs[model.slug] = None
        return tuple(slugs)

    def clean_begins(self) -> date | None:
        """A day of this age."""
        return _day(self.cleaned_data["begins"])

    def clean_expires_at(self) -> date | None:
        """A day of this age."""
        return _day(self.cleaned_data["expires_at"])


def _day(day: date | None) -> date | None:
    if day is not None and not clock.now().year - 1 <= day.year <= YEAR_MAX:
        raise forms.ValidationError(f"That is not a day that can be meant: from last year to {YEAR_MAX}.")
    return day


def conditions_of(told: dict[str, Any], *, time_zone: str) -> grants.Conditions:
    """A grant's conditions as the form has them. Raises ``OutOfRange`` for a beginning in the past."""
    begins, last = told["begins"], told["expires_at"]
    if begins is not None and begins < clock.now().astimezone(ZoneInfo(time_zone)).date():
        raise errors.OutOfRange("That day is over.", param="begins")
    start = None if begins is None else grants.end_of(begins - timedelta(days=1), time_zone=time_zone)
    return grants.Conditions(
        priority=told["priority"] or 0,
        # Today has begun: at once.
        effective_at=None if start is None or start <= clock.now() else start,
        expires_at=None if last is None else grants.end_of(last, time_zone=time_zone),
        models=told["models"],
    )


def _move(request: HttpRequest, row: Wallet, told: dict[str, Any]) -> Done:
    act = adjustments.ask(
        organization_id=row.pk, kind=told["kind"], amount_usd=told["amount_usd"], reason=told["reason"],
        by=actor(request), conditions=conditions_of(told, time_zone=row.organization.time_zone),
    )  # fmt: skip
    shown = link("billing_adjustment", act.pk, act)
    if act.state == Adjustment.State.WAITING:
        why = second_person(adjustments.APPROVAL, act.pk)
        return Done(format_html("Nothing is moved yet ({}). {}", shown, why), level=messages.WARNING)
    return Done(format_html("Posted: {} USD ({}).", money.plain(act.amount_usd), shown))


def _carry_out(request: HttpRequest, row: Adjustment, _: dict[str, Any]) -> Done:
    try:
        act = adjustments.carry_out(adjustment_id=row.pk, by=actor(request))
    except approvals.ApprovalNeeded:
        return Done(second_person(adjustments.APPROVAL, row.pk), level=messages.WARNING)
    if act.state == Adjustment.State.REFUSED:
        return Done("A second person refused it: nothing was moved, and it is closed.", level=messages.WARNING)
    return Done(f"Posted: {money.plain(act.amount_usd)} USD.")


def adjustment_table(organization: Organization) -> SafeString:
    """The last acts of finance on a wallet."""
    found, more = first(Adjustment.objects.filter(organization=organization).order_by("-pk"), ROWS_SHOWN)
    rows = [
        (
            link("billing_adjustment", row.pk, row),
            row.get_kind_display(),
            money.plain(row.amount_usd),
            row.get_state_display(),
            row.actor,
            row.reason,
            stamp(row.created_at),
        )
        for row in found
    ]
    heads = ("act", "kind", "amount (USD)", "state", "by", "reason", "at (UTC)")
    return format_html("{}{}", table(heads, rows) if rows else paragraphs("None."), more)


def _asked(row: Adjustment) -> list[Section]:
    facts = {
        "wallet": wallet_link(row.organization),
        "kind": row.get_kind_display(),
        "amount (USD)": money.plain(row.amount_usd),
        "reason": row.reason,
        "asked by": row.actor,
    }
    return [Section("What is moved", as_facts({**facts, **row.terms}))]


@admin.register(Adjustment)
class AdjustmentAdmin(ActsAdmin[Any]):
    """Money that finance moved, or means to."""

    list_display = ("shown_id", "organization", "amount", "state", "kind", "actor", "reason", "created_at")
    list_filter = ("state", "kind")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An adj_ id, or an organization's slug, id or person's e-mail address."
    fields = (
        *("shown_id", "organization", "wallet", "kind", "amount", "conditions", "reason", "actor", "state"),
        *("created_at", "settled_at", "approval", "transfers"),
    )
    acts = (
        Act(
            "carry-out",
            "Carry out",
            "The money is moved if a second person has agreed. If one has refused, the act is closed.",
            _carry_out,
            facts=_asked,
            possible=lambda row: row.state == Adjustment.State.WAITING,
            known=lambda row: row.reason,
        ),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Adjustment], search_term: str
    ) -> tuple[QuerySet[Adjustment], bool]:
        """By id or by organization."""
        return _by_id_or_organization(queryset, "adj", search_term), False

    @admin.display(description="wallet")
    def wallet(self, row: Adjustment) -> SafeString:
        """Whose money it is."""
        return wallet_link(row.organization)

    @admin.display(description="amount (USD)")
    def amount(self, row: Adjustment) -> str:
        """Exact."""
        return money.plain(row.amount_usd)

    @admin.display(description="conditions")
    def conditions(self, row: Adjustment) -> str:
        """Of a grant."""
        return as_facts(row.terms) if row.terms else NOTHING

    @admin.display(description="second person")
    def approval(self, row: Adjustment) -> str:
        """What was asked and decided about it."""
        asked = questions(kind=adjustments.APPROVAL, subject_id=row.pk)
        return question_table(asked) if asked else "Nobody was asked."

    @admin.display(description="transfers")
    def transfers(self, row: Adjustment) -> str:
        """What it moved."""
        caused = Transfer.objects.filter(
            organization_id=row.organization_id,
            kind__in=TransferKind.values,
            reference=adjustments.reference_of(row.pk),
        )
        shown = [
            (transfer_link(one.organization_id, one.pk), one.get_kind_display(), money.plain(one.amount_usd))
            for one in caused.order_by("pk")[:ROWS_SHOWN]
        ]
        return table(("transfer", "kind", "amount (USD)"), shown) if shown else NOTHING


# A wallet's terms.


class TermsForm(ReasonForm):
    """What people set about a wallet; what is left empty stays."""

    field_order = ("mode", "enforcement", "credit_limit_usd", "low_usd", "reason")
    mode = forms.ChoiceField(label="when it is empty", required=False, choices=(("", "as it is"), *Wallet.Mode.choices))
    enforcement = forms.ChoiceField(
        label="holds", required=False, choices=(("", "as it is"), *Wallet.Enforcement.choices)
    )
    credit_limit_usd = forms.DecimalField(
        label="credit limit (USD)", required=False, min_value=Decimal(0), max_digits=24, decimal_places=money.DECIMALS,
        help_text="How far usage may go below zero before calls are refused. Empty: as it is.",
    )  # fmt: skip
    low_usd = forms.DecimalField(
        label="low below (USD)", required=False, min_value=Decimal(0), max_digits=24, decimal_places=money.DECIMALS,
        help_text="Where it begins to count as low. Empty: as it is.",
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        """Something has to change."""
        told: dict[str, Any] = super().clean() or self.cleaned_data
        names = ("mode", "enforcement", "credit_limit_usd", "low_usd")
        if not self.errors and all(told.get(name) in ("", None) for name in names):
            raise forms.ValidationError("Nothing would change.")
        return told


def _change_terms(request: HttpRequest, row: Wallet, told: dict[str, Any]) -> Done:
    terms = Terms(
        told["mode"] or None, told["enforcement"] or None, credit_limit_usd=told["credit_limit_usd"],
        low_usd=told["low_usd"],
    )  # fmt: skip
    wallets.change_terms(organization_id=row.pk, terms=terms, reason=told["reason"], by=actor(request))
    return Done("Changed. Calls that start from now on go by it.")


def _freeze(request: HttpRequest, row: Wallet, told: dict[str, Any]) -> Done:
    wallets.freeze(organization_id=row.pk, reason=told["reason"], by=actor(request))
    return Done("Frozen: every call is refused until it is unfrozen.")


def _unfreeze(request: HttpRequest, row: Wallet, told: dict[str, Any]) -> Done:
    wallets.unfreeze(organization_id=row.pk, reason=told["reason"], by=actor(request))
    return Done("Unfrozen.")


def terms_of(row: Wallet) -> dict[str, object]:
    """What people have set about a wallet."""
    return {
        "when it is empty": row.get_mode_display(),
        "holds": row.get_enforcement_display(),
        "credit limit (USD)": money.plain(Decimal(row.credit_limit_usd)),
        "low below (USD)": money.plain(Decimal(row.low_usd)),
        "frozen": NOTHING if row.frozen_at is None else f"since {stamp(row.frozen_at)} UTC",
    }


def _terms(row: Wallet) -> list[Section]:
    return [Section("As it is", as_facts({"wallet": wallet_link(row.organization), **terms_of(row)}))]


def _stands_now(row: Wallet) -> list[Section]:
    now = wallets.state(row.pk)
    credit = grants.left(row.pk)
    told = {
        "wallet": wallet_link(row.organization),
        "time zone": row.organization.time_zone,
        "balance (USD)": money.plain(now.balance_usd),
        "owed (USD)": money.plain(now.overdraft_usd),
        "left of credit given (USD)": money.plain(credit.given_usd),
        "left of credit paid for (USD)": money.plain(credit.paid_usd),
        "a second person agrees above (USD)": money.plain(Decimal(settings.MONEY_APPROVAL_USD)),
    }
    return [Section("As it stands", as_facts(told))]


def _ceilings_and_parts(row: Wallet) -> list[Section]:
    return [
        Section("Ceilings in force", ceiling_table(row.organization)),
        Section("What they can be on", part_table(row.organization)),
    ]


def head_table(organization: Organization) -> SafeString:
    """Where a wallet stood when the last days were sealed."""
    found, more = first(LedgerHead.objects.filter(organization=organization).order_by("-day"), ROWS_SHOWN)
    rows = [
        (
            f"{row.day:%Y-%m-%d}",
            row.seq,
            money.plain(row.posted_usd),
            money.plain(row.overdraft_usd),
            money.plain(row.spent_usd),
            stamp(row.sealed_at),
            bytes(row.digest).hex(),
        )
        for row in found
    ]
    heads = ("day (UTC)", "seq", "posted (USD)", "overdraft (USD)", "spent (USD)", "sealed (UTC)", "digest")
    return format_html("{}{}", table(heads, rows) if rows else paragraphs("None."), more)


ACTS: Final = (
    Act(
        "money",
        "Move money",
        "A limit decides whether this happens at once or waits until a second person agrees. What is posted stays "
        "in the books; it can only be balanced by another act.",
        _move,
        form=MoneyForm,
        facts=_stands_now,
        right="billing.add_adjustment",
    ),
    Act(
        "terms",
        "Change terms",
        "Calls that start afterwards go by it. What is left empty stays as it is.",
        _change_terms,
        form=TermsForm,
        facts=_terms,
    ),
    Act(
        "ceiling",
        "Set a ceiling",
        "One that stands for the same part, window and unit is replaced. What was used in its window so far counts, "
        "open holds do not.",
        _set_ceiling,
        form=CeilingForm,
        facts=_ceilings_and_parts,
        right="billing.change_budget",
    ),
    Act(
        "freeze",
        "Freeze",
        "Every call is refused from now on. Usage that happens all the same is still charged.",
        _freeze,
        form=ReasonForm,
        facts=_terms,
        possible=lambda row: row.frozen_at is None,
    ),
    Act(
        "unfreeze",
        "Unfreeze",
        "Calls are let through again.",
        _unfreeze,
        form=ReasonForm,
        facts=_terms,
        possible=lambda row: row.frozen_at is not None,
    ),
)
