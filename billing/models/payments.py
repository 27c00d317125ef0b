"""Money that customers pay by card: what was asked for, what came, what went back, and what Stripe said of it."""

from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from core import ids
from core.fields import IdField, UsdField, within
from core.money import USD_MAX
from orgs.models import Organization


class StripeCustomer(models.Model):
    """An organization as Stripe knows it.

    Written by ``billing.processor.customers``. ``made`` counts how often one was asked for: a customer that was
    deleted at Stripe is followed by a new one, under a new key.
    """

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.PROTECT, related_name="+")
    stripe_id = models.TextField(null=True, blank=True, unique=True)
    made = models.IntegerField(default=1)
    synced_at = models.DateTimeField(null=True, blank=True, help_text="When its cards were last asked for")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "stripe_customer"

    def __str__(self) -> str:
        return self.stripe_id or f"no customer yet of {self.organization_id}"


class PaymentCard(models.Model):
    """A card that an organization saved at Stripe; here is only what is needed to show it.

    Written by ``billing.processor.customers``.
    """

    id = IdField("card")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    stripe_id = models.TextField(unique=True)
    brand = models.TextField(default="")
    last_four = models.TextField(default="")
    expires_month = models.SmallIntegerField(default=0)
    expires_year = models.SmallIntegerField(default=0)
    is_default = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "payment_card"
        ordering = ("-id",)
        indexes = (models.Index(fields=("organization", "-id"), name="payment_card_of_organization"),)
        constraints = (
            models.UniqueConstraint(
                fields=("organization",), name="payment_card_one_default", condition=Q(is_default=True)
            ),
            models.CheckConstraint(
                name="payment_card_default_is_there", condition=Q(is_default=False) | Q(removed_at__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return f"{self.brand} {self.last_four}".strip()


class Payment(models.Model):
    """Money asked of a customer through Stripe: meant, asked for, followed to its end.

    Written by ``billing.payments``. The id is Stripe's idempotency key, and ``request`` the parameters that go with
    it: whoever asks again asks for the same. ``amount_usd`` is all the customer pays, ``tax_usd`` the part of it that
    is tax. What is bought stands in ``purpose`` and ``subject_id``; of each at most one payment is open.
    """

    undeletable: ClassVar[bool] = True

    class Purpose(models.TextChoices):
        TOPUP = "topup", "top-up"
        INVOICE = "invoice"

    class Method(models.TextChoices):
        CHECKOUT = "checkout", "Stripe's page"
        CARD = "card", "saved card"

    class State(models.TextChoices):
        PENDING = "pending", "Stripe has not been asked yet"
        CALLED = "called", "asked, no answer yet"
        REQUIRES_ACTION = "requires_action", "waits for the customer"
        PROCESSING = "processing", "under way at Stripe"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    id = IdField("pay")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    purpose = models.TextField(choices=Purpose.choices)
    subject_id = models.UUIDField()
    method = models.TextField(choices=Method.choices)
    amount_usd = UsdField()
    tax_usd = UsdField(default=0)
    off_session = models.BooleanField(default=False, help_text="The customer is not there to confirm anything")
    card = models.ForeignKey(PaymentCard, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    success_url = models.TextField(default="")
    cancel_url = models.TextField(default="")
    state = models.TextField(choices=State.choices, default=State.PENDING)
    request: models.JSONField[Any, Any] = models.JSONField(null=True, help_text="The parameters of the call")
    session_id = models.TextField(null=True, blank=True, unique=True)
    intent_id = models.TextField(null=True, blank=True, unique=True)
    charge_id = models.TextField(null=True, blank=True, unique=True)
    checkout_url = models.TextField(default="")
    next_action_url = models.TextField(default="")
    failure_code = models.TextField(default="")
    failure_message = models.TextField(default="")
    parked = models.TextField(default="", help_text="Why a person must look before anything is credited")
    surplus = models.BooleanField(default=False, help_text="What it was for had been paid already; it goes back")
    received_usd = UsdField(default=0)
    refunded_usd = UsdField(default=0)
    fee_usd = UsdField(null=True, blank=True)
    attempts = models.IntegerField(default=0, help_text="How often the call was made")
    looks = models.IntegerField(default=0, help_text="How often Stripe was asked what became of it")
    called_at = models.DateTimeField(null=True, blank=True, help_text="When the call was made first")
    deadline_at = models.DateTimeField(help_text="After this whatever waits for the customer is ended")
    next_look_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "payment"
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("organization", "-id"), name="payment_of_organization"),
            models.Index(fields=("subject_id",), name="payment_of_subject"),
            models.Index(fields=("next_look_at",), name="payment_due", condition=Q(next_look_at__isnull=False)),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("purpose", "subject_id"),
                name="payment_one_open",
                condition=Q(state__in=("pending", "called", "requires_action", "processing")),
            ),
            models.CheckConstraint(name="payment_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(
                name="payment_tax_is_a_part", condition=Q(tax_usd__gte=0, tax_usd__lt=F("amount_usd"))
            ),
            models.CheckConstraint(
                name="payment_received_all_or_nothing",
                condition=Q(received_usd=0) | Q(received_usd=F("amount_usd"), state="succeeded"),
            ),
            models.CheckConstraint(
                name="payment_refunded_within_received",
                condition=Q(refunded_usd__gte=0, refunded_usd__lte=F("received_usd")),
            ),
            models.CheckConstraint(
                name="payment_settled",
                condition=Q(state__in=("pending", "called", "requires_action", "processing"), settled_at__isnull=True)
                | Q(state__in=("succeeded", "failed", "canceled"), settled_at__isnull=False),
            ),
            models.CheckConstraint(
                name="payment_amounts_in_range",
                condition=within("tax_usd") & within("received_usd") & within("refunded_usd") & within("fee_usd"),
            ),
        )

    def __str__(self) -> str:
        return ids.show("pay", self.pk)


class Refund(models.Model):
    """Money of a payment that goes back: by us, or by somebody at Stripe's own desk.

    Written by ``billing.refunds``. ``tax_usd`` is the part that is tax; the rest leaves the wallet when the refund
    is meant, and comes back if it fails.
    """

    undeletable: ClassVar[bool] = True

    class Origin(models.TextChoices):
        DESK = "desk", "by finance"
        AUTOMATIC = "automatic", "paid twice"
        STRIPE = "stripe", "at Stripe"

    class State(models.TextChoices):
        WAITING = "waiting", "waits for a second person"
        REFUSED = "refused", "refused by a second person"
        PENDING = "pending", "Stripe has not been asked yet"
        CALLED = "called", "asked, no answer yet"
        PROCESSING = "processing", "under way at Stripe"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    id = IdField("refund")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="+")
    origin = models.TextField(choices=Origin.choices)
    amount_usd = UsdField()
    tax_usd = UsdField(default=0)
    reason = models.TextField()
    actor = models.TextField()
    state = models.TextField(choices=State.choices)
    stripe_id = models.TextField(null=True, blank=True, unique=True)
    failure = models.TextField(default="")
    attempts = models.IntegerField(default=0)
    called_at = models.DateTimeField(null=True, blank=True)
    next_look_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "refund"
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("payment",), name="refund_of_payment"),
            models.Index(fields=("next_look_at",), name="refund_due", condition=Q(next_look_at__isnull=False)),
        )
        constraints = (
            models.CheckConstraint(name="refund_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(
                name="refund_tax_is_a_part", condition=Q(tax_usd__gte=0, tax_usd__lte=F("amount_usd"))
            ),
            models.CheckConstraint(name="refund_tax_in_range", condition=within("tax_usd")),
        )

    def __str__(self) -> str:
        return ids.show("refund", self.pk)


class Dispute(models.Model):
    """A payment that the card's owner contests.

    Written by ``billing.disputes``. While it is open what the payment's credit still held lies aside
    (``frozen_usd``). The amounts that Stripe took and gave back are sums of its balance transactions.
    """

    undeletable: ClassVar[bool] = True

    class State(models.TextChoices):
        INQUIRY = "inquiry", "only asked about"
        OPEN = "open"
        WON = "won"
        LOST = "lost"

    id = IdField("dispute")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="+")
    stripe_id = models.TextField(unique=True)
    amount_usd = UsdField()
    tax_usd = UsdField(default=0)
    frozen_usd = UsdField(default=0)
    grant_id = models.UUIDField(null=True, blank=True, help_text="The credit that the payment became")
    withdrawn_usd = UsdField(default=0)
    reinstated_usd = UsdField(default=0)
    fee_usd = UsdField(default=0)
    moves = models.IntegerField(default=0, help_text="How many balance transactions those are sums of")
    reason = models.TextField(default="")
    state = models.TextField(choices=State.choices)
    created_at = models.DateTimeField(default=timezone.now)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "dispute"
        ordering = ("-id",)
        indexes = (models.Index(fields=("organization", "-id"), name="dispute_of_organization"),)
        constraints = (
            models.CheckConstraint(name="dispute_positive", condition=within("amount_usd", low="gt")),
            models.CheckConstraint(
                name="dispute_parts_in_range",
                condition=Q(tax_usd__gte=0, frozen_usd__gte=0, tax_usd__lte=F("amount_usd") - F("frozen_usd")),
            ),
            models.CheckConstraint(
                name="dispute_amounts_in_range",
                condition=within("tax_usd")
                & within("frozen_usd")
                & within("withdrawn_usd")
                & within("reinstated_usd")
                & Q(fee_usd__gt=-USD_MAX, fee_usd__lt=USD_MAX),
            ),
        )

    def __str__(self) -> str:
        return ids.show("dispute", self.pk)


class StripeEvent(models.Model):
    """An event as Stripe sent it, proven and kept before anything is done about it.

    Written by ``billing.processor.inbox``. ``payload`` is the body to the byte, until it is emptied long after it was
    handled. Only what is ``processed`` or ``ignored`` is never handled again.
    """

    undeletable: ClassVar[bool] = True

    class State(models.TextChoices):
        RECEIVED = "received", "waits"
        PROCESSED = "processed"
        IGNORED = "ignored"
        FAILED = "failed", "parked"

    id = IdField("evt")
    stripe_id = models.TextField(unique=True)
    kind = models.TextField()
    object_id = models.TextField(default="")
    api_version = models.TextField(default="")
    payload = models.TextField()
    state = models.TextField(choices=State.choices, default=State.RECEIVED)
    outcome = models.TextField(default="")
    attempts = models.IntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    happened_at = models.DateTimeField(help_text="By Stripe's clock")
    received_at = models.DateTimeField(default=timezone.now)
    handled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "stripe_event"
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("id",), name="stripe_event_waiting", condition=Q(state="received")),
            models.Index(
                fields=("id",),
                name="stripe_event_whole",
                condition=Q(state__in=("processed", "ignored")) & ~Q(payload=""),
            ),
        )
        constraints = (
            models.CheckConstraint(
                name="stripe_event_has_an_outcome",
                condition=Q(state="received", handled_at__isnull=True)
                | (Q(state__in=("processed", "ignored", "failed"), handled_at__isnull=False) & ~Q(outcome="")),
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.stripe_id}"
