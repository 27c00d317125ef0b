"""The tables of the door. Each is written by one module, named in its docstring."""

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from orgs.models import Organization

DIGEST_BYTES = 32


class Channel(models.Model):
    """An upstream that answers model calls: where it is, what it serves, and how long it is waited for.

    Written by ``gateway.channels``. ``serves`` maps the catalog's ids to the upstream's; ``*`` stands for every
    id, unchanged. Its key is in the environment variable that ``key_env`` names, or in ``sealed_key``, encrypted
    (``core.sealing``) and bound to the row; never in both, and nobody is shown it.
    """

    class Kind(models.TextChoices):
        OPENAI = "openai", "speaks OpenAI's protocol"
        ECHO = "echo", "built in: repeats what it is told, without a network, where nobody else serves the model"

    class CapName(models.TextChoices):
        AS_ASKED = "", "the name that the client used, max_tokens where we add it"
        MAX_TOKENS = "max_tokens", "max_tokens"
        MAX_COMPLETION_TOKENS = "max_completion_tokens", "max_completion_tokens, as OpenAI's newer models want it"

    id = IdField("chan")
    name = models.TextField(unique=True)
    kind = models.TextField(choices=Kind.choices, default=Kind.OPENAI)
    base_url = models.TextField(blank=True, default="", help_text="Such as https://api.example.com/v1")
    key_env = models.TextField(blank=True, default="", help_text="The environment variable that holds the key")
    sealed_key = models.BinaryField(null=True, editable=False)
    serves: Any = models.JSONField(default=dict, help_text="The catalog's id: the upstream's id")
    groups = ArrayField(
        models.TextField(), default=list, blank=True, help_text="Price groups that it serves; empty: everybody"
    )
    priority = models.IntegerField(default=0, help_text="The highest is asked first")
    weight = models.IntegerField(default=1, help_text="Share among channels of one priority; 0: last")
    enabled = models.BooleanField(default=True)
    connect_ms = models.IntegerField(default=5_000)
    first_byte_ms = models.IntegerField(default=60_000, help_text="Until the answer begins")
    idle_ms = models.IntegerField(default=60_000, help_text="Between two parts of an answer")
    total_ms = models.IntegerField(default=600_000)
    concurrency_max = models.IntegerField(null=True, blank=True, help_text="Calls at once in each process; empty: any")
    has_responses = models.BooleanField(default=False, help_text="Serves /responses itself")
    has_stream_usage = models.BooleanField(default=True, help_text="Tells the counts of a stream when asked")
    cap_name = models.TextField(
        blank=True,
        choices=CapName.choices,
        default=CapName.AS_ASKED,
        help_text="What it calls the cap on output tokens",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "channel"
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(name="channel_weight_not_negative", condition=Q(weight__gte=0)),
            models.CheckConstraint(
                name="channel_times_positive",
                condition=Q(connect_ms__gt=0, first_byte_ms__gt=0, idle_ms__gt=0, total_ms__gt=0),
            ),
            models.CheckConstraint(
                name="channel_concurrency_positive",
                condition=Q(concurrency_max__isnull=True) | Q(concurrency_max__gt=0),
            ),
            models.CheckConstraint(
                name="channel_key_in_one_place", condition=Q(sealed_key__isnull=True) | Q(key_env="")
            ),
        )

    def __str__(self) -> str:
        return self.name


class Route(models.Model):
    """How a smart product chooses among models of the catalog. Written by ``gateway.channels``."""

    class By(models.TextChoices):
        PRICE = "price", "the cheapest by the catalog"
        LATENCY = "latency", "the quickest to begin, as this process has seen it"
        WEIGHT = "weight", "by the weights of the channels"

    id = IdField("route")
    model = models.TextField(unique=True, help_text="The catalog's id that customers name")
    by = models.TextField(choices=By.choices, default=By.WEIGHT)
    candidates = ArrayField(models.TextField(), help_text="The catalog's ids to choose among")

    class Meta:
        db_table = "route"
        ordering = ("model",)

    def __str__(self) -> str:
        return self.model


class CallTerms(models.Model):
    """What an organization has agreed to for calls whose client hangs up. Written by ``gateway.terms``.

    Without a row: ``drain`` (decisions 18).
    """

    class HangUp(models.TextChoices):
        DRAIN = "drain", "read the answer to its end and bill the provider's counts"
        ESTIMATE = "estimate", "cancel, and bill the prompt and what was produced"

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    on_hang_up = models.TextField(choices=HangUp.choices, default=HangUp.DRAIN)

    class Meta:
        db_table = "call_terms"
        verbose_name_plural = "call terms"


class CallKey(models.Model):
    """The ``Idempotency-Key`` of a model call, written in the transaction of its hold (decisions 10).

    Written by ``gateway.replays``. ``call_id`` is the id of the event that settles the call.
    """

    pk = models.CompositePrimaryKey("organization_id", "key")
    organization_id = models.UUIDField()
    key = models.TextField()
    fingerprint = models.BinaryField(help_text="SHA-256 of the request")
    call_id = models.TextField()
    hold_id = models.UUIDField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "call_key"
        constraints = (
            models.CheckConstraint(name="call_key_sha256", condition=Exact(Length("fingerprint"), DIGEST_BYTES)),
        )
        indexes = (models.Index(fields=("created_at",), name="call_key_by_age"),)


class UnknownOutcome(models.Model):
    """A model call of which nobody knows how it ended: its hold ran out, so its process must have died.

    Written by ``gateway.outcomes``. The provider may have been paid and the customer was not charged; what
    comes of it is for finance to say.
    """

    undeletable: ClassVar[bool] = True

    id = IdField("lost")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    hold_id = models.UUIDField(unique=True)
    api_key_id = models.UUIDField(null=True)
    model = models.TextField()
    amount_usd = UsdField(help_text="What was set aside: the most that it can have cost")
    began_at = models.DateTimeField()
    expired_at = models.DateTimeField()
    noted_at = models.DateTimeField(default=timezone.now)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolution = models.TextField(blank=True, default="")

    class Meta:
        db_table = "unknown_outcome"
        ordering = ("-id",)
        verbose_name = "call of unknown outcome"
        verbose_name_plural = "calls of unknown outcome"
        constraints = (models.CheckConstraint(name="unknown_outcome_in_range", condition=within("amount_usd")),)

    def __str__(self) -> str:
        return ids.show("lost", self.pk)
