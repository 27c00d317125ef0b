"""The tables of metering. Each is written by one module, named in its docstring."""

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids, money
from core.fields import IdField, UsdField
from orgs.models import Organization


class CatalogModel(models.Model):
    """A model that customers can name: a vendor's, or a product of the platform's own routes.

    Written by ``metering.catalog``. ``slug`` is the id on the wire.
    """

    class Kind(models.TextChoices):
        VENDOR = "vendor_model"
        SMART = "smart_route"
        SYSTEM = "system_route"

    id = IdField("model")
    slug = models.TextField(unique=True)
    name = models.TextField()
    vendor = models.TextField(help_text="Who made it")
    brand = models.TextField()
    provider = models.TextField(help_text="Who serves it; the label of the catalog")
    owned_by = models.TextField(help_text="The vendor as a slug")
    kind = models.TextField(choices=Kind.choices, default=Kind.VENDOR)
    categories = ArrayField(models.TextField(), default=list, blank=True)
    capabilities = ArrayField(models.TextField(), default=list, blank=True)
    aliases = ArrayField(models.TextField(), default=list, blank=True, help_text="Other ids that mean this model")
    context_window = models.BigIntegerField(null=True, blank=True, help_text="Tokens")
    max_output_tokens = models.BigIntegerField(null=True, blank=True)
    max_stop_sequences = models.SmallIntegerField(default=4)
    encoding = models.TextField(default="o200k_base", help_text="tiktoken's table for estimates")
    released_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "model"
        ordering = ("slug",)
        verbose_name = "model"
        constraints = (
            models.CheckConstraint(name="model_slug_not_reserved", condition=~Q(slug="catalog") & ~Q(slug="")),
        )

    def __str__(self) -> str:
        return self.slug


class Price(models.Model):
    """A published price version of a model: in force from an instant until the next, for ever.

    Written by ``metering.catalog``. Rows are appended; a trigger lets ``effective_to`` be set once
    and refuses every other change, so a record's stored version re-derives its cost for ever.
    """

    append_only: ClassVar[bool] = True

    id = IdField("price")
    model = models.ForeignKey(CatalogModel, on_delete=models.PROTECT, related_name="+")
    effective_from = models.DateTimeField()
    effective_to = models.DateTimeField(null=True, blank=True)
    revision = models.SmallIntegerField(default=1, help_text="Above 1 it corrects the one with the same start")
    active_from = models.DateTimeField(
        null=True, blank=True, help_text="A correction is used for what is rated from this instant on"
    )
    rates: models.JSONField[Any, Any] = models.JSONField(help_text="The rate card (docs/adr/0005)")
    source = models.TextField(help_text="Where the price was published")
    created_at = models.DateTimeField(default=timezone.now)
    digest = models.BinaryField(help_text="SHA-256 of all the above as it was published")

    class Meta:
        db_table = "price"
        ordering = ("model", "-effective_from")
        constraints = (
            models.UniqueConstraint(fields=("model", "effective_from", "revision"), name="price_once_per_start"),
            models.CheckConstraint(
                name="price_ends_after_start",
                condition=Q(effective_to__isnull=True) | Q(effective_to__gt=F("effective_from")),
            ),
        )

    def __str__(self) -> str:
        return ids.show("price", self.pk)


class PriceDraft(models.Model):
    """Prices that somebody means to publish: from an importer or by hand. Written by ``metering.pricebook``."""

    class State(models.TextChoices):
        OPEN = "open"
        SCHEDULED = "scheduled"
        PUBLISHED = "published"
        DISCARDED = "discarded"

    id = IdField("draft")
    state = models.TextField(choices=State.choices, default=State.OPEN)
    source = models.TextField(help_text="File and format it was made from")
    report = models.TextField(default="", help_text="What the importer could not or did not take")
    created_by = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    publish_at = models.DateTimeField(null=True, blank=True)
    settled_by = models.TextField(default="")
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "price_draft"
        ordering = ("-id",)

    def __str__(self) -> str:
        return ids.show("draft", self.pk)


class PriceDraftLine(models.Model):
    """One price of a draft. Written by ``metering.pricebook``."""

    draft = models.ForeignKey(PriceDraft, on_delete=models.CASCADE, related_name="+")
    model = models.ForeignKey(CatalogModel, on_delete=models.PROTECT, related_name="+")
    effective_from = models.DateTimeField()
    effective_to = models.DateTimeField(null=True, blank=True)
    corrects = models.ForeignKey(
        Price,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The published version that was wrong; the line takes its start",
    )
    rates: models.JSONField[Any, Any] = models.JSONField()
    source = models.TextField()

    class Meta:
        db_table = "price_draft_line"
        ordering = ("draft", "model", "effective_from")
        constraints = (
            models.UniqueConstraint(fields=("draft", "model", "effective_from"), name="price_draft_line_once"),
        )


class PriceRule(models.Model):
    """What someone pays instead of the catalog's price: a factor on it, or rates of its own. For ever.

    Written by ``metering.rules``. A record keeps the id of the rule that applied to it. A row with ``ends`` is no rule:
    it says that another one holds until ``effective_from`` only.
    """

    append_only: ClassVar[bool] = True

    id = IdField("rule")
    organization = models.ForeignKey(Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    price_group = models.TextField(null=True, blank=True, help_text="A group of organizations")
    provider = models.TextField(null=True, blank=True, help_text="The catalog's label")
    model = models.ForeignKey(CatalogModel, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    factor = models.DecimalField(max_digits=10, decimal_places=6, null=True, blank=True, help_text="1.2 is 20 % more")
    rates: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    effective_from = models.DateTimeField()
    effective_to = models.DateTimeField(null=True, blank=True)
    ends = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    reason = models.TextField()
    created_by = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "price_rule"
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                name="price_rule_ends_after_start",
                condition=Q(effective_to__isnull=True) | Q(effective_to__gt=F("effective_from")),
            ),
            models.CheckConstraint(
                name="price_rule_factor_or_rates",
                condition=Q(ends__isnull=True, factor__isnull=True, rates__isnull=False, model__isnull=False)
                | Q(ends__isnull=True, factor__gte=0, factor__lte=1000, rates__isnull=True)
                | Q(ends__isnull=False, factor__isnull=True, rates__isnull=True),
            ),
            models.CheckConstraint(
                name="price_rule_one_whom", condition=Q(organization__isnull=True) | Q(price_group__isnull=True)
            ),
            models.CheckConstraint(
                name="price_rule_one_what", condition=Q(provider__isnull=True) | Q(model__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return ids.show("rule", self.pk)


class Usage(models.Model):
    """What usage records and request-log rows share: who, which request, how it went."""

    append_only: ClassVar[bool] = True

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    event_id = models.TextField()
    occurred_at = models.DateTimeField()
    recorded_at = models.DateTimeField()
    api_key_id = models.UUIDField(null=True)
    member_id = models.UUIDField(null=True)
    project_id = models.UUIDField(null=True)
    reported_by = models.UUIDField(null=True, help_text="The service key that posted the event")
    end_user = models.TextField(null=True)
    source = models.TextField()
    model = models.TextField(help_text="The id asked for and billed")
    routed_model = models.TextField(null=True)
    provider = models.TextField(null=True)
    channel = models.TextField(null=True)
    attempts = models.SmallIntegerField(null=True)
    endpoint = models.TextField(null=True)
    stream = models.BooleanField(null=True)
    status = models.SmallIntegerField(null=True)
    finish_reason = models.TextField(null=True)
    outcome = models.TextField()
    ttft_ms = models.IntegerField(null=True)
    latency_ms = models.IntegerField(null=True)
    request_id = models.TextField(null=True)
    provider_cost_usd = UsdField(null=True)
    metadata: models.JSONField[Any, Any] = models.JSONField(null=True)

    class Meta:
        abstract = True


class UsageRecord(Usage):
    """One billed request, for ever: append-only, partitioned by month on its time-ordered id.

    Written by ``metering.usage``. In the database the key is ``(organization_id, id)``; that is
    also the only index and the listing's keyset. ``payer_id`` names whose wallet paid,
    ``transfer_id`` the charge that this record is part of (null when it cost nothing).
    """

    id = IdField("usage")
    payer_id = models.UUIDField()
    transfer_id = models.UUIDField(null=True)
    input_tokens = models.IntegerField()
    cached_input_tokens = models.IntegerField()
    cache_write_tokens = models.IntegerField()
    cache_write_1h_tokens = models.IntegerField()
    output_tokens = models.IntegerField()
    reasoning_tokens = models.IntegerField()
    image_input_tokens = models.IntegerField()
    audio_input_tokens = models.IntegerField()
    cached_image_tokens = models.IntegerField()
    cached_audio_tokens = models.IntegerField()
    image_output_tokens = models.IntegerField()
    audio_output_tokens = models.IntegerField()
    units: models.JSONField[Any, Any] = models.JSONField(null=True)
    service_tier = models.TextField(null=True)
    batch = models.BooleanField()
    usage_source = models.TextField(help_text="provider, estimated or mixed")
    cost_usd = UsdField()
    price_id = models.UUIDField()
    rule_id = models.UUIDField(null=True, help_text="The markup or contract rule applied to the price")
    authorization_id = models.UUIDField(null=True)
    corrects_id = models.UUIDField(null=True, help_text="The record that this one corrects")

    class Meta:
        db_table = "usage_record"
        ordering = ("-id",)

    def __str__(self) -> str:
        return ids.show("usage", self.pk)

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class RequestLog(Usage):
    """One failed request at no cost: 4xx, or 5xx without output. Append-only, by month.

    Written by ``metering.usage``; ``GET /v1/usage`` does not list it.
    """

    id = IdField("log")
    input_tokens = models.IntegerField()
    output_tokens = models.IntegerField()

    class Meta:
        db_table = "request_log"
        ordering = ("-id",)
        verbose_name = "failed request"

    def __str__(self) -> str:
        return ids.show("log", self.pk)


class UsageClaim(models.Model):
    """The right to an event id, taken in the transaction that charges it.

    Written by ``metering.usage``. Hash-partitioned by organization and never by time: a resent
    event meets its claim whatever midnight lies between. It keeps what the first answer said, so
    it answers after the record's month was detached.
    """

    trimmed: ClassVar[bool] = True

    class State(models.TextChoices):
        RECORDED = "recorded"
        QUARANTINED = "quarantined"
        LOGGED = "logged"

    pk = models.CompositePrimaryKey("organization_id", "event_id")
    organization_id = models.UUIDField()
    event_id = models.TextField()
    state = models.TextField(choices=State.choices)
    record_id = models.UUIDField(help_text="Of the record, the quarantine row or the log row")
    cost_usd = UsdField()
    fingerprint = models.BinaryField()
    occurred_at = models.DateTimeField()

    class Meta:
        db_table = "usage_claim"


class Quarantine(models.Model):
    """A valid event that could not be charged: unpriced, or nobody known to charge. Nothing is lost.

    Written by ``metering.quarantine``. ``scope`` is the organization's id, or what the event
    named where that is unknown; with the event id it makes the row unique.
    """

    class Reason(models.TextChoices):
        UNPRICED = "unpriced"
        UNKNOWN_MODEL = "unknown_model"
        UNKNOWN_ORGANIZATION = "unknown_organization"
        UNKNOWN_KEY = "unknown_key"
        NOT_A_MEMBER = "not_a_member"

    id = IdField("quar")
    organization = models.ForeignKey(Organization, null=True, on_delete=models.PROTECT, related_name="+")
    scope = models.TextField()
    event_id = models.TextField()
    reason = models.TextField(choices=Reason.choices)
    detail = models.TextField()
    model = models.TextField()
    occurred_at = models.DateTimeField()
    recorded_at = models.DateTimeField()
    reported_by = models.UUIDField(null=True)
    fingerprint = models.BinaryField()
    event: models.JSONField[Any, Any] = models.JSONField(help_text="The event's billing fields, no text")
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "quarantine"
        ordering = ("-id",)
        verbose_name = "quarantined event"
        constraints = (models.UniqueConstraint(fields=("scope", "event_id"), name="quarantine_once"),)
        indexes = (models.Index(fields=("model", "id"), condition=Q(resolved_at__isnull=True), name="quarantine_open"),)

    def __str__(self) -> str:
        return ids.show("quar", self.pk)


class UsageRollup(models.Model):
    """What one combination of key, member, project, model, source, tier and batch used in one quarter of an hour.

    Written by ``metering.rollups``, a quarter as a whole: ``place`` numbers its rows. ``records``
    counts rows of usage, corrections too; ``requests`` is net of voids, like the other sums.
    ``other_payer_id`` is whose wallet paid, where that is not the organization's own.
    """

    pk = models.CompositePrimaryKey("organization_id", "starts_at", "place")
    organization_id = models.UUIDField()
    starts_at = models.DateTimeField(help_text="The quarter's first instant, by created_at")
    place = models.IntegerField()
    api_key_id = models.UUIDField(null=True)
    member_id = models.UUIDField(null=True)
    project_id = models.UUIDField(null=True)
    model = models.TextField()
    source = models.TextField()
    service_tier = models.TextField(null=True)
    batch = models.BooleanField()
    other_payer_id = models.UUIDField(null=True)
    records = models.BigIntegerField()
    requests = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    # Wider than an amount: no sum of amounts, whatever a gateway reports, may keep others from being folded.
    cost_usd = models.DecimalField(max_digits=38, decimal_places=12)
    provider_cost_usd = models.DecimalField(max_digits=38, decimal_places=12)

    class Meta:
        db_table = "usage_rollup"
        indexes = (
            models.Index(
                fields=("other_payer_id", "starts_at"),
                name="usage_rollup_by_other_payer",
                condition=Q(other_payer_id__isnull=False),
            ),
            BrinIndex(fields=("starts_at",), name="usage_rollup_by_time", autosummarize=True, pages_per_range=32),
        )


class RollupMark(models.Model):
    """One row: before which instant every quarter of every organization is folded. Written by ``metering.rollups``."""

    undeletable: ClassVar[bool] = True

    id = models.SmallIntegerField(primary_key=True, default=1)
    folded_until = models.DateTimeField()

    class Meta:
        db_table = "rollup_mark"


class ArchivedMonth(models.Model):
    """A month that was taken out of ``usage_record`` or ``request_log``, and the file that holds it.

    Written by ``metering.archives`` in the transaction that detaches it, after the file was read back and found
    equal to the table. ``first_id`` and ``end_id``: its rows have ids from the one on, below the other.
    """

    undeletable: ClassVar[bool] = True

    id = IdField("archive")
    book = models.TextField(help_text="The table that the month was a part of")
    month = models.DateField(help_text="Its first day (UTC)")
    first_id = models.UUIDField()
    end_id = models.UUIDField()
    file = models.TextField(help_text="The file's name in ARCHIVE_DIR")
    sha256 = models.TextField(help_text="Of the file, hexadecimal")
    rows = models.BigIntegerField()
    detached_at = models.DateTimeField()
    dropped_at = models.DateTimeField(null=True, blank=True, help_text="From then on only the file has the rows")

    class Meta:
        db_table = "archived_month"
        ordering = ("-month", "book")
        constraints = (
            models.UniqueConstraint(fields=("book", "month"), name="archived_month_once"),
            models.CheckConstraint(name="archived_month_rows_not_negative", condition=Q(rows__gte=0)),
            models.CheckConstraint(name="archived_month_ends_after_start", condition=Q(end_id__gt=F("first_id"))),
        )

    def __str__(self) -> str:
        return f"{self.book} {self.month:%Y-%m}"


class ArchivedSum(models.Model):
    """What an organization's rows of an archived month came to, by who paid. For ever.

    Written by ``metering.archives``. Rows of the request log cost nothing and name their organization as payer.
    """

    append_only: ClassVar[bool] = True

    archived = models.ForeignKey(ArchivedMonth, on_delete=models.PROTECT, related_name="+", db_index=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    payer_id = models.UUIDField()
    rows = models.BigIntegerField()
    cost_usd = UsdField(help_text="Below zero where corrections took back more than was used")

    class Meta:
        db_table = "archived_sum"
        ordering = ("archived", "organization", "payer_id")
        constraints = (
            models.UniqueConstraint(fields=("archived", "organization", "payer_id"), name="archived_sum_once"),
            models.CheckConstraint(name="archived_sum_has_rows", condition=Q(rows__gt=0)),
            models.CheckConstraint(
                name="archived_sum_in_range", condition=Q(cost_usd__gt=-money.USD_MAX, cost_usd__lt=money.USD_MAX)
            ),
        )


class ClaimHorizon(models.Model):
    """Before which instant claims are forgotten, and so events refused: one row. Written by ``metering.horizon``.

    ``places``: by part of ``usage_claim``, the page from which the next trimming goes on.
    """

    undeletable: ClassVar[bool] = True

    forgotten_before = models.DateTimeField()
    announced_at = models.DateTimeField()
    places = ArrayField(models.BigIntegerField())

    class Meta:
        db_table = "claim_horizon"
        constraints = (models.CheckConstraint(name="claim_horizon_is_one", condition=Q(pk=1)),)


class Attempt(models.Model):
    """One try of a call at an upstream, where there was more than one or none succeeded. A cost, never a charge.

    Written by ``metering.attempts``. ``event_id`` is the call's event, and so its record's or its log row's.
    """

    append_only: ClassVar[bool] = True

    pk = models.CompositePrimaryKey("organization_id", "event_id", "number")
    organization_id = models.UUIDField()
    event_id = models.TextField()
    number = models.SmallIntegerField(help_text="From 1")
    channel = models.TextField()
    model = models.TextField(help_text="As the upstream calls it")
    outcome = models.TextField(help_text="answered, or what went wrong")
    status = models.SmallIntegerField(null=True)
    latency_ms = models.IntegerField()
    provider_cost_usd = UsdField(null=True)
    at = models.DateTimeField(help_text="When it ended")

    class Meta:
        db_table = "attempt"
        constraints = (
            models.CheckConstraint(
                name="attempt_cost_in_range",
                condition=Q(provider_cost_usd__isnull=True)
                | Q(provider_cost_usd__gte=0, provider_cost_usd__lt=money.USD_MAX),
            ),
        )
