"""The desk's pages of the machinery.

Scheduled jobs and how their last run went, what waits for a second person, and what is told to others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from core import clock, errors, ids
from core.admin import Act, ActsAdmin, BooksAdmin, Done, QuickList, Section, presence
from core.markup import NOTHING, as_facts, as_text, label, link, link_to, paragraphs, stamp, table, verbatim
from ops import approvals, deliveries, jobs, mails
from ops.models import (
    Approval,
    IdempotencyKey,
    JobPeriod,
    JobRun,
    Mail,
    OutboxMessage,
    WebhookDelivery,
    WebhookEndpoint,
)
from orgs.admin import actor
from orgs.models import User
from orgs.organizations import is_slug

M = TypeVar("M", OutboxMessage, IdempotencyKey, WebhookEndpoint, WebhookDelivery, Mail)

# The page of what a kind of approval is about, and its ids' prefix; the app that asks adds its own.
SUBJECTS: Final[dict[str, tuple[str, str]]] = {}
# What it takes to decide about a kind, beside deciding at all: the right to do the act oneself. A kind that is not here
# is for superusers.
RIGHTS: Final[dict[str, str]] = {}
# What a question of a kind would change, for whoever decides.
FORESEEN: Final[dict[str, Callable[[Approval], Sequence[Section]]]] = {}
# Kinds whose subject is made by the yes, and has no page before.
MADE: Final[set[str]] = set()
LINES_SHOWN: Final = 4
DELIVERIES_SHOWN: Final = 20


def _run_again(request: HttpRequest, row: JobRun, _: dict[str, Any]) -> Done:
    jobs.again(name=row.name, by=actor(request))
    return Done(format_html("{} is due now: a worker begins it within seconds.", row.name))


class JobList(QuickList):
    """Jobs with how late each is, by the database's clock: one query more for the page."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page and the time."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        now = jobs.now() if self.result_list else None
        for row in self.result_list:
            row.read_at = now


def _lag(row: Any) -> timedelta:
    return jobs.lag(row, now=getattr(row, "read_at", None) or jobs.now())


@admin.register(JobRun)
class JobRunAdmin(ActsAdmin[JobRun]):
    """Each scheduled job: which period it is at, how that stands, and how late it is."""

    list_display = ("name", "state", "late", "age", "period", "attempts", "took", "result")
    list_filter = ("ok", "state")
    ordering = ("name",)
    search_fields = ("name",)
    fields = (
        "name", "state", "late", "period", "attempts", "next_attempt_at", "started_at", "finished_at", "took",
        "lease_until", "done_period", "result", "periods",
    )  # fmt: skip
    acts = (
        Act(
            "again",
            "Run again",
            "It failed as often as it may and was put aside. Run it again when the reason is gone.",
            _run_again,
            possible=lambda row: row.state == JobRun.State.ASIDE,
        ),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[QuickList]:
        """With the time."""
        return JobList

    @admin.display(description="age")
    def age(self, row: JobRun) -> str:
        """Since it began."""
        return "-" if row.started_at is None else timesince(row.started_at, clock.now())

    @admin.display(description="late")
    def late(self, row: JobRun) -> str:
        """How long a period is due that is not done."""
        found = _lag(row)
        return f"{found.total_seconds():.0f} s" if found else "-"

    @admin.display(description="took")
    def took(self, row: JobRun | JobPeriod) -> str:
        """Seconds from start to end."""
        return took(row)

    @admin.display(description="periods")
    def periods(self, row: JobRun) -> str:
        """The list of its periods that are over."""
        return link_to(f"{reverse('admin:ops_jobperiod_changelist')}?name={quote(row.name)}", "those that are over")


def took(row: JobRun | JobPeriod) -> str:
    """Seconds from start to end, by a clock that nobody sets."""
    return "-" if row.took_ms is None else f"{Decimal(row.took_ms).scaleb(-3):.1f} s"


@admin.register(JobPeriod)
class JobPeriodAdmin(BooksAdmin[JobPeriod]):
    """Periods of jobs that are done, or were put aside."""

    list_display = ("name", "period", "state", "attempts", "started_at", "took", "result")
    list_filter = ("state", "name")
    search_fields = ("name",)
    fields = ("shown_id", "name", "period", "state", "attempts", "started_at", "finished_at", "took", "result")

    @admin.display(description="took")
    def took(self, row: JobPeriod) -> str:
        """Seconds from start to end."""
        return took(row)


def persons(named: Iterable[str]) -> dict[str, str]:
    """E-mail addresses of those whom approvals name as ``user:user_01K…``. One query."""
    keys: dict[UUID, str] = {}
    for who in named:
        shown = who.partition(":")[2]
        try:
            keys[ids.read("user", shown)] = who
        except ValueError:
            continue
    found = User.objects.filter(pk__in=list(keys)).values_list("pk", "email") if keys else ()
    return {keys[key]: email for key, email in found}


def name_of(who: str, known: dict[str, str]) -> str:
    """A person by e-mail address; a key by its id; the product's own jobs as such."""
    kind, _, shown = who.partition(":")
    return known.get(who) or shown or kind


def decision(row: Approval, known: dict[str, str]) -> str:
    """How a question stands, in words."""
    if row.decided_at is None:
        return "open"
    return f"{'granted' if row.granted else 'refused'} by {name_of(row.decided_by, known)}"


def subject_link(row: Approval) -> str:
    """The page of what a question is about; its bare id where no page is known."""
    if row.kind not in SUBJECTS:
        return str(row.subject_id)
    page, prefix = SUBJECTS[row.kind]
    if row.kind in MADE and not row.granted:
        return ids.show(prefix, row.subject_id)
    return link(page, row.subject_id, ids.show(prefix, row.subject_id))


def questions(*, kind: str, subject_id: UUID) -> list[Approval]:
    """What was asked about something, the newest first."""
    return list(Approval.objects.filter(kind=kind, subject_id=subject_id).order_by("-pk"))


def question_table(rows: Iterable[Approval]) -> str:
    """Questions and how they stand."""
    rows = list(rows)
    known = persons(who for row in rows for who in (row.asked_by, row.decided_by))
    shown = [
        (
            link("ops_approval", row.pk, row),
            name_of(row.asked_by, known),
            stamp(row.asked_at),
            decision(row, known),
            None if row.decided_at is None else stamp(row.decided_at),
        )
        for row in rows
    ]
    return table(("approval", "asked by", "asked (UTC)", "decision", "decided (UTC)"), shown) if rows else NOTHING


def second_person(kind: str, subject_id: UUID) -> SafeString:
    """What to say after ``ApprovalNeeded``: who can do what about it, and where."""
    asked = questions(kind=kind, subject_id=subject_id)
    if any(row.granted is False for row in asked):
        return format_html(
            "A second person refused this, so it stays as it is: {}. Discard it and make another.",
            link("ops_approval", next(row.pk for row in asked if row.granted is False), "what was refused"),
        )
    return format_html(
        "This waits until a second person agrees: somebody else grants {} under {}.",
        link("ops_approval", asked[0].pk, asked[0]) if asked else "it",
        link_to(reverse("admin:ops_approval_changelist"), "Approvals"),
    )


def _decide(request: HttpRequest, row: Approval, _: dict[str, Any], *, grant: bool) -> Done:
    person, right = cast(User, request.user), RIGHTS.get(row.kind)
    if not (person.is_superuser if right is None else person.has_perm(right)):
        raise errors.PermissionDenied("Your role does not decide about this.")
    row = approvals.decide(approval_id=row.pk, by=actor(request), grant=grant)
    if grant and row.kind in approvals.ON_GRANT:
        return Done(format_html("Granted, and done: {}.", subject_link(row)))
    if grant:
        return Done(format_html("Granted. What was asked for can be done now: {}.", subject_link(row)))
    return Done(format_html("Refused: {} stays as it is.", subject_link(row)))


def _question(row: Approval) -> list[Section]:
    known = persons([row.asked_by])
    about = {"kind": row.kind, "about": subject_link(row), "asked by": name_of(row.asked_by, known)}
    asked = Section("What is asked", as_facts({**about, "asked (UTC)": stamp(row.asked_at), **row.details}))
    if row.kind not in FORESEEN:
        return [asked]
    try:
        return [asked, *FORESEEN[row.kind](row)]
    except errors.ApiError as error:
        return [asked, Section("What it would change", paragraphs(str(error)))]


def brief(details: Mapping[str, Any]) -> SafeString:
    """The first lines of what is asked, for a list."""
    told: list[str] = []
    for name, value in details.items():
        if isinstance(value, dict):
            # Only the page of the question has room for a document.
            said = f"{value['before']} → {value['after']}" if set(value) == {"before", "after"} else "see its page"
            told.append(f"{label(name)}: {said}")
        else:
            told += map(str, value) if isinstance(value, list) else [f"{label(name)}: {value}"]
    more = [f"and {len(told) - LINES_SHOWN} more"] if len(told) > LINES_SHOWN else []
    return format_html_join("", "{}<br>", ((line,) for line in told[:LINES_SHOWN] + more))


class ApprovalList(QuickList):
    """Questions with the names of people: one query more for the page."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page and who they are."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        known = persons(who for row in self.result_list for who in (row.asked_by, row.decided_by))
        for row in self.result_list:
            row.known = known


def _known(row: Any) -> dict[str, str]:
    """The people whom a question names; a list has asked for all of them together."""
    if not hasattr(row, "known"):
        row.known = persons((row.asked_by, row.decided_by))
    known: dict[str, str] = row.known
    return known


@admin.register(Approval)
class ApprovalAdmin(ActsAdmin[Approval]):
    """What was asked for and decided. Whoever asked cannot decide."""

    list_display = ("shown_id", "state", "kind", "in_brief", "asker", "asked_at", "subject", "decided_at")
    list_filter = (("decided_at", presence("state", absent="Open", present="Decided")), "granted", "kind")
    # Open ones first: PostgreSQL sorts what is not decided before what is.
    ordering: ClassVar[Any] = ("-decided_at", "-pk")
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An appr_ id, or the id of what it is about."
    fields = ("shown_id", "state", "kind", "subject", "asker", "asked_at", "decided_at", "question")
    acts = (
        Act(
            "grant",
            "Grant",
            "You agree as the second person. Whoever asked can then go on; what changes prices is done at once. This "
            "cannot be taken back.",
            partial(_decide, grant=True),
            facts=_question,
            possible=lambda row: row.decided_at is None,
        ),
        Act(
            "refuse",
            "Refuse",
            "What was asked for will not be done. This cannot be taken back; who still wants it starts again.",
            partial(_decide, grant=False),
            facts=_question,
            possible=lambda row: row.decided_at is None,
        ),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[QuickList]:
        """With names."""
        return ApprovalList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Approval], search_term: str
    ) -> tuple[QuerySet[Approval], bool]:
        """By its own id or its subject's."""
        text = search_term.strip()
        if not text:
            return queryset, False
        prefixes = ("appr", *(prefix for _, prefix in SUBJECTS.values()))
        readers: list[Callable[[str], UUID]] = [*(partial(ids.read, prefix) for prefix in prefixes), UUID]
        for read in readers:
            try:
                key = read(text)
            except ValueError:
                continue
            return queryset.filter(Q(pk=key) | Q(subject_id=key)), False
        return queryset.none(), False

    @admin.display(description="about")
    def subject(self, row: Approval) -> str:
        """What it is about."""
        return subject_link(row)

    @admin.display(description="asked by")
    def asker(self, row: Approval) -> str:
        """Who asked."""
        return name_of(row.asked_by, _known(row))

    @admin.display(description="state")
    def state(self, row: Approval) -> str:
        """Open, or what was decided by whom."""
        return decision(row, _known(row))

    @admin.display(description="question")
    def in_brief(self, row: Approval) -> str:
        """What is asked, in a few lines."""
        return brief(row.details) or NOTHING

    @admin.display(description="question")
    def question(self, row: Approval) -> str:
        """What exactly is asked."""
        return as_facts(row.details) if row.details else NOTHING


def of_organization(rows: QuerySet[M], prefix: str, text: str) -> QuerySet[M]:
    """Rows by their own id, or all of the organization with that slug; every row for no text."""
    text = text.strip()
    if not text:
        return rows
    try:
        return rows.filter(pk=ids.read(prefix, text))
    except ValueError:
        return rows.filter(organization__slug=text) if is_slug(text) else rows.none()


@admin.register(OutboxMessage)
class OutboxMessageAdmin(BooksAdmin[OutboxMessage]):
    """What others are to be told, and whether deliveries and mails were made of it."""

    list_display = ("shown_id", "kind", "organization", "key", "created_at", "handed_on_at", "attempts")
    list_filter = (("delivered_at", presence("state", absent="Waiting", present="Handed on")),)
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An evt_ id, or an organization's slug."
    fields = (*list_display, "next_attempt_at", "message")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[OutboxMessage], search_term: str
    ) -> tuple[QuerySet[OutboxMessage], bool]:
        """By id or organization."""
        return of_organization(queryset, "evt", search_term), False

    @admin.display(description="handed on at")
    def handed_on_at(self, row: OutboxMessage) -> datetime | None:
        """When deliveries and mails were made of it."""
        return row.delivered_at

    @admin.display(description="data")
    def message(self, row: OutboxMessage) -> str:
        """What they are told."""
        return as_text(row.data)


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(BooksAdmin[IdempotencyKey]):
    """Requests of the last day that may be sent again, and the answers they get."""

    list_display = ("shown_id", "organization", "method", "path", "key", "status", "created_at")
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "An idem_ id, or an organization's slug."
    fields = (*list_display, "content_type", "answer")

    def get_queryset(self, request: HttpRequest) -> QuerySet[IdempotencyKey]:
        """Without the answers, which only a row's page shows."""
        return super().get_queryset(request).defer("body", "fingerprint")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyKey], search_term: str
    ) -> tuple[QuerySet[IdempotencyKey], bool]:
        """By id or organization."""
        return of_organization(queryset, "idem", search_term), False

    @admin.display(description="answer")
    def answer(self, row: IdempotencyKey) -> str:
        """What was answered, as text."""
        return verbatim(bytes(row.body).decode(errors="replace"))


def _send_again(request: HttpRequest, row: Mail, _: dict[str, Any]) -> Done:
    mails.again(mail_id=row.pk, by=actor(request))
    return Done(f"On its way again: {row}.")


def _redeliver(request: HttpRequest, row: WebhookDelivery, _: dict[str, Any]) -> Done:
    deliveries.redeliver(delivery=row, by=actor(request))
    return Done(f"On its way again: {row}.")


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(BooksAdmin[WebhookEndpoint]):
    """Where customers are told what happens. Their secrets are shown to nobody."""

    list_display = ("shown_id", "organization", "url", "state", "failing_since", "created_at")
    list_filter = ("enabled", ("deleted_at", presence("kept", absent="In use", present="Deleted")))
    list_select_related = ("organization",)
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A we_ id, or an organization's slug."
    fields = (
        "shown_id", "organization", "url", "events", "state", "disabled_at", "failing_since", "busy_until",
        "old_secret_until", "created_by", "created_at", "deleted_at", "latest",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookEndpoint]:
        """Without the secrets."""
        return super().get_queryset(request).defer("secret", "old_secret")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint], search_term: str
    ) -> tuple[QuerySet[WebhookEndpoint], bool]:
        """By id or organization."""
        return of_organization(queryset, "we", search_term), False

    @admin.display(description="state")
    def state(self, row: WebhookEndpoint) -> str:
        """In words."""
        if row.deleted_at is not None:
            return "deleted"
        return "enabled" if row.enabled else f"disabled: {row.disabled_reason}"

    @admin.display(description="events")
    def events(self, row: WebhookEndpoint) -> str:
        """What it wants."""
        return ", ".join(row.kinds) or "all"

    @admin.display(description="latest deliveries")
    def latest(self, row: WebhookEndpoint) -> str:
        """The newest few."""
        rows = WebhookDelivery.objects.filter(endpoint=row).select_related("message").order_by("-id")[:DELIVERIES_SHOWN]
        shown = [
            (link("ops_webhookdelivery", each.pk, each), each.message.kind, each.state, each.attempts, each.status)
            for each in rows
        ]
        return table(("delivery", "event", "state", "attempts", "answer"), shown) if shown else NOTHING


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ActsAdmin[WebhookDelivery]):
    """Messages on their way to customers' endpoints."""

    list_display = (
        "shown_id", "organization", "event", "state", "attempts", "status", "failure", "last_attempt_at",
        "next_attempt_at",
    )  # fmt: skip
    list_filter = ("state",)
    list_select_related = ("organization", "message")
    sortable_by = ()
    search_fields = ("pk",)
    search_help_text = "A wd_ id, or an organization's slug."
    fields = (
        "shown_id", "organization", "goes_to", "event", "tells", "state", "attempts", "status", "took_ms", "failure",
        "excerpt", "created_at", "last_attempt_at", "next_attempt_at", "leased_until", "done_at",
    )  # fmt: skip
    acts = (
        Act(
            "redeliver",
            "Send again",
            "The customer's endpoint is sent this message again, under the same id, with all attempts before it.",
            _redeliver,
        ),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[WebhookDelivery], search_term: str
    ) -> tuple[QuerySet[WebhookDelivery], bool]:
        """By id or organization."""
        return of_organization(queryset, "wd", search_term), False

    @admin.display(description="event")
    def event(self, row: WebhookDelivery) -> str:
        """Its kind."""
        return row.message.kind

    @admin.display(description="message")
    def tells(self, row: WebhookDelivery) -> str:
        """The message, on its own page."""
        return link("ops_outboxmessage", row.message_id, ids.show("evt", row.message_id))

    @admin.display(description="endpoint")
    def goes_to(self, row: WebhookDelivery) -> str:
        """The endpoint, on its own page."""
        return link("ops_webhookendpoint", row.endpoint_id, row.endpoint.url)


@admin.register(Mail)
class MailAdmin(ActsAdmin[Mail]):
    """Mails, and which of them wait, failed or are in doubt."""

    list_display = ("shown_id", "kind", "recipient", "subject", "state", "attempts", "failure", "created_at", "sent_at")
    list_filter = ("state",)
    sortable_by = ()
    search_fields = ("recipient",)
    search_help_text = "A mail_ id, an organization's slug, or an e-mail address."
    fields = (
        "shown_id", "organization", "kind", "key", "recipient", "subject", "state", "attempts", "failure", "created_at",
        "next_attempt_at", "leased_until", "sent_at", "files", "words",
    )  # fmt: skip
    acts = (
        Act(
            "again",
            "Send again",
            "A mail in doubt may have arrived: the person may get it twice, under one id.",
            _send_again,
            possible=lambda row: row.state not in {Mail.State.PENDING, Mail.State.SENDING},
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Mail]:
        """Without the page that it also goes out as."""
        return super().get_queryset(request).defer("html")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Mail], search_term: str
    ) -> tuple[QuerySet[Mail], bool]:
        """By id, organization or recipient."""
        if "@" in search_term:
            return queryset.filter(recipient=search_term.strip().lower()), False
        return of_organization(queryset, "mail", search_term), False

    @admin.display(description="attachments")
    def files(self, row: Mail) -> str:
        """Their names."""
        return ", ".join(f"{each['kind']} {each['key']}" for each in row.attachments) or NOTHING

    @admin.display(description="text")
    def words(self, row: Mail) -> str:
        """What it says."""
        return verbatim(row.text)
