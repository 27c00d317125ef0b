"""The tables of the machinery."""

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone

from core import clock, ids
from core.fields import IdField
from orgs.models import OfOrganization, Organization

DIGEST_BYTES = 32
JOB_STATES = ("due", "running", "done", "failed", "aside")


class JobRun(models.Model):
    """A scheduled job and its newest period: one row a job, whose guarded UPDATE is the lease. Written by ``ops.jobs``.

    ``period`` is when the slot began that it is at (``core.schedule``); it is begun once. Whoever runs
    it has ``token`` until ``lease_until``, by the database's clock. ``took_ms`` is by the worker's
    monotonic clock, so a clock that is set meanwhile makes no negative duration.
    """

    class State(models.TextChoices):
        """How its newest period stands."""

        DUE = "due", "due"
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed, tried again"
        ASIDE = "aside", "put aside"

    name = models.TextField(primary_key=True)
    period = models.DateTimeField()
    state = models.TextField(choices=State.choices)
    attempts = models.SmallIntegerField(default=0)
    token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    next_attempt_at = models.DateTimeField(null=True)
    due_since = models.DateTimeField(null=True, help_text="Since when the sweep finds it due; empty once it is done")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    took_ms = models.BigIntegerField(null=True)
    done_period = models.DateTimeField(null=True, help_text="The newest period that is done")
    ok = models.GeneratedField(
        expression=Case(
            When(state="done", then=Value(True)), When(state__in=("failed", "aside"), then=Value(False))
        ),
        output_field=models.BooleanField(null=True, help_text="Empty while it runs"),
        db_persist=True,
    )  # fmt: skip
    result = models.TextField(default="")

    class Meta:
        db_table = "job_run"
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(name="job_run_state", condition=Q(state__in=JOB_STATES)),
            models.CheckConstraint(
                name="job_run_lease",
                condition=Q(state="running", token__isnull=False, lease_until__isnull=False, started_at__isnull=False)
                | (~Q(state="running") & Q(token__isnull=True, lease_until__isnull=True)),
            ),
            models.CheckConstraint(
                name="job_run_again",
                condition=Q(state="failed", next_attempt_at__isnull=False)
                | (~Q(state="failed") & Q(next_attempt_at__isnull=True)),
            ),
            models.CheckConstraint(name="job_run_attempts", condition=Q(attempts__gte=0)),
            models.CheckConstraint(name="job_run_took", condition=Q(took_ms__isnull=True) | Q(took_ms__gte=0)),
        )

    def __str__(self) -> str:
        return self.name


class JobPeriod(models.Model):
    """A period of a job that is over: done, or put aside for a person. Written by ``ops.jobs``.

    Jobs that run every few seconds keep only what was put aside. Old rows are trimmed.
    """

    id = IdField("jobp")
    name = models.TextField()
    period = models.DateTimeField()
    state = models.TextField(choices=((JobRun.State.DONE, "done"), (JobRun.State.ASIDE, "put aside")))
    attempts = models.SmallIntegerField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    took_ms = models.BigIntegerField(null=True)
    result = models.TextField()

    class Meta:
        db_table = "job_period"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("name", "period"), name="job_period_once"),
            models.CheckConstraint(name="job_period_state", condition=Q(state__in=("done", "aside"))),
            models.CheckConstraint(name="job_period_took", condition=Q(took_ms__isnull=True) | Q(took_ms__gte=0)),
        )

    def __str__(self) -> str:
        return f"{self.name} of {self.period:%Y-%m-%d %H:%M}"


class Approval(models.Model):
    """What one person asked for and another decided. Written by ``ops.approvals``."""

    id = IdField("appr")
    kind = models.TextField()
    subject_id = models.UUIDField()
    details: models.JSONField[Any, Any] = models.JSONField(default=dict)
    asked_by = models.TextField()
    asked_at = models.DateTimeField(default=timezone.now)
    decided_by = models.TextField(default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    granted = models.BooleanField(null=True)

    class Meta:
        db_table = "approval"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("kind", "subject_id"), condition=Q(decided_at__isnull=True), name="approval_open_once"
            ),
            models.CheckConstraint(
                name="approval_second_person", condition=Q(decided_at__isnull=True) | ~Q(asked_by=F("decided_by"))
            ),
        )

    def __str__(self) -> str:
        return ids.show("appr", self.pk)


class OutboxMessage(models.Model):
    """Something that others are to be told, written by the transaction that made it true.

    Written by ``ops.outbox``. ``key`` says which happening of its kind it is; the same one of an
    organization, or of nobody's, is told once. ``data`` is plain JSON, money in it as text.
    ``delivered_at`` is when it was handed on, in one transaction, to all who make something of it:
    the deliveries to endpoints and the mails that follow from it are rows of their own since then.
    """

    id = IdField("evt")
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="+", db_index=False
    )
    kind = models.TextField(help_text="Such as wallet.low")
    key = models.TextField()
    data: models.JSONField[Any, Any] = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    delivered_at = models.DateTimeField(null=True, blank=True)
    attempts = models.IntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True, help_text="Empty: at once")

    class Meta:
        db_table = "outbox"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("organization", "kind", "key"), nulls_distinct=False, name="outbox_once"),
            models.CheckConstraint(name="outbox_attempts_not_negative", condition=Q(attempts__gte=0)),
        )
        indexes = (models.Index(fields=("id",), condition=Q(delivered_at__isnull=True), name="outbox_waiting"),)

    def __str__(self) -> str:
        return ids.show("evt", self.pk)


class IdempotencyKey(models.Model):
    """A request that was carried out under an ``Idempotency-Key``, and what it was answered.

    Written by ``ops.idempotency``. In the database the key is (organization, method, path, key),
    the scope of contract 11; ``id`` tells when, for trimming and for the desk.
    """

    id = IdField("idem")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    method = models.TextField()
    path = models.TextField(help_text="Percent-encoded")
    key = models.TextField()
    fingerprint = models.BinaryField(help_text="SHA-256 of the body and the organization's slug")
    status = models.SmallIntegerField()
    content_type = models.TextField()
    body = models.BinaryField()
    created_at = models.DateTimeField(editable=False)

    class Meta:
        db_table = "idempotency_key"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("organization", "method", "path", "key"), name="idempotency_key_once"),
            models.CheckConstraint(name="idempotency_key_done", condition=Q(status__gte=200, status__lt=400)),
            models.CheckConstraint(name="idempotency_key_sha256", condition=Exact(Length("fingerprint"), DIGEST_BYTES)),
        )
        indexes = (models.Index(fields=("id",), name="idempotency_key_by_age"),)

    def __str__(self) -> str:
        return ids.show("idem", self.pk)


# Endpoints that an organization may have.
ENDPOINTS_MAX = 10


class WebhookEndpoint(models.Model):
    """Where an organization wants to be told what happens. Written by ``ops.endpoints``.

    ``kinds`` are the kinds of message that it wants, none for all. The secrets are sealed
    (``core.sealing``); the old one signs too until ``old_secret_until``. ``slot`` is one of so many that
    an organization has. ``failing_since`` is the first failure since the last success, and until
    ``busy_until`` somebody is sending to it. A deleted one has no secrets left.
    """

    id = IdField("we")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    slot = models.SmallIntegerField()
    url = models.TextField()
    kinds = ArrayField(models.TextField(), default=list)
    secret = models.BinaryField()
    old_secret = models.BinaryField(null=True)
    old_secret_until = models.DateTimeField(null=True)
    enabled = models.BooleanField(default=True)
    disabled_at = models.DateTimeField(null=True)
    disabled_reason = models.TextField(default="")
    failing_since = models.DateTimeField(null=True)
    busy_until = models.DateTimeField(null=True)
    created_by = models.TextField()
    created_at = models.DateTimeField(default=clock.now, editable=False)
    deleted_at = models.DateTimeField(null=True, editable=False)

    objects: ClassVar[OfOrganization["WebhookEndpoint"]] = OfOrganization.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "webhook_endpoint"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "slot"), condition=Q(deleted_at__isnull=True), name="webhook_endpoint_slot_once"
            ),
            models.CheckConstraint(name="webhook_endpoint_slots", condition=Q(slot__gte=0, slot__lt=ENDPOINTS_MAX)),
            models.CheckConstraint(
                name="webhook_endpoint_disabled",
                condition=(
                    Q(enabled=True, disabled_at__isnull=True, disabled_reason="")
                    | Q(enabled=False, disabled_at__isnull=False) & ~Q(disabled_reason="")
                ),
            ),
            models.CheckConstraint(
                name="webhook_endpoint_old_secret",
                condition=(
                    Q(old_secret__isnull=True, old_secret_until__isnull=True)
                    | Q(old_secret__isnull=False, old_secret_until__isnull=False)
                ),
            ),
        )
        indexes = (models.Index(fields=("organization", "-id"), name="endpoint_by_organization"),)

    def __str__(self) -> str:
        return ids.show("we", self.pk)


class WebhookDelivery(models.Model):
    """One message on its way to one endpoint. Written by ``ops.deliveries``.

    Pending until it is taken (``succeeded``), given up (``failed``) or its endpoint is disabled
    (``canceled``). ``attempts`` is counted before each attempt; until ``leased_until`` one is going on.
    """

    class State(models.TextChoices):
        """How it stands."""

        PENDING = "pending"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    id = IdField("wd")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.PROTECT, related_name="+", db_index=False)
    message = models.ForeignKey(OutboxMessage, on_delete=models.PROTECT, related_name="+", db_index=False)
    state = models.TextField(choices=State.choices, default=State.PENDING)
    attempts = models.IntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    last_attempt_at = models.DateTimeField(null=True)
    status = models.SmallIntegerField(null=True, help_text="What was answered last; empty: nothing")
    took_ms = models.IntegerField(null=True)
    failure = models.TextField(default="", help_text="Why nothing was answered")
    excerpt = models.TextField(default="", help_text="First words of a refusal")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    done_at = models.DateTimeField(null=True)

    objects: ClassVar[OfOrganization["WebhookDelivery"]] = OfOrganization.as_manager()  # type: ignore[assignment]

    class Meta:
        db_table = "webhook_delivery"
        verbose_name_plural = "webhook deliveries"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("message", "endpoint"), name="webhook_delivery_once"),
            models.CheckConstraint(name="webhook_delivery_attempts_not_negative", condition=Q(attempts__gte=0)),
            models.CheckConstraint(
                name="webhook_delivery_pending",
                condition=(
                    Q(state="pending", next_attempt_at__isnull=False, done_at__isnull=True)
                    | ~Q(state="pending") & Q(next_attempt_at__isnull=True, done_at__isnull=False)
                ),
            ),
        )
        indexes = (
            models.Index(fields=("endpoint", "-id"), name="delivery_by_endpoint"),
            models.Index(fields=("endpoint", "next_attempt_at"), condition=Q(state="pending"), name="delivery_waiting"),
        )

    def __str__(self) -> str:
        return ids.show("wd", self.pk)


class Mail(models.Model):
    """One mail to one person. Written by ``ops.mails``, in the transaction that made true what it says.

    ``pending``, then ``sending`` from just before the mail server is told until it has answered. A process
    that dies in between leaves it ``doubtful``: it may have gone out, so nobody sends it again but a person.
    ``attachments`` are names of what is made when it is sent: ``[{"kind": …, "key": …}]``.
    """

    class State(models.TextChoices):
        """How it stands."""

        PENDING = "pending"
        SENDING = "sending"
        SENT = "sent"
        DOUBTFUL = "doubtful"
        FAILED = "failed"

    id = IdField("mail")
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="+", db_index=False
    )
    kind = models.TextField(help_text="Such as invoice.finalized")
    key = models.TextField()
    recipient = models.TextField()
    subject = models.TextField()
    text = models.TextField()
    html = models.TextField(default="")
    attachments: models.JSONField[Any, Any] = models.JSONField(default=list)
    state = models.TextField(choices=State.choices, default=State.PENDING)
    attempts = models.IntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    failure = models.TextField(default="")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    sent_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "mail"
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("kind", "key", "recipient"), name="mail_once"),
            models.CheckConstraint(name="mail_attempts_not_negative", condition=Q(attempts__gte=0)),
            models.CheckConstraint(
                name="mail_pending",
                condition=(
                    Q(state="pending", next_attempt_at__isnull=False)
                    | ~Q(state="pending") & Q(next_attempt_at__isnull=True)
                ),
            ),
            models.CheckConstraint(
                name="mail_sent",
                condition=Q(state="sent", sent_at__isnull=False) | ~Q(state="sent") & Q(sent_at__isnull=True),
            ),
        )
        indexes = (
            models.Index(fields=("next_attempt_at",), condition=Q(state="pending"), name="mail_waiting"),
            models.Index(fields=("leased_until",), condition=Q(state="sending"), name="mail_sending"),
        )

    def __str__(self) -> str:
        return ids.show("mail", self.pk)
