"""How billing's nouns look on the wire. Each ``show_`` function gives what its serializer declares."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from billing import holds, issued
from billing.documents.document import Party
from billing.explain import CHARGED_BEFORE, CORRECTED_BEFORE, UNDONE, Authorization, Explanation, Part, arithmetic
from billing.grants import Credit
from billing.models import Account, Hold, Invoice, InvoiceLine, InvoiceSettlement, Payment, Transfer
from billing.quotes import Asked, Quote
from billing.wallets import State
from core import clock, ids, money, wire
from metering import rating
from metering.serializers import UsdNumber


class WalletSerializer(serializers.Serializer[Any]):
    """``GET /v1/wallet``."""

    object = serializers.ChoiceField(["wallet"])
    organization = serializers.CharField(allow_null=True, help_text="Null for the personal wallet")
    currency = serializers.ChoiceField(["usd"])
    balance_usd = UsdNumber()
    granted_usd = UsdNumber()
    topped_up_usd = UsdNumber()
    held_usd = UsdNumber()
    overdraft_usd = UsdNumber()
    credit_limit_usd = UsdNumber()
    available_usd = UsdNumber()
    status = serializers.ChoiceField(["active", "low", "empty", "frozen"])
    mode = serializers.ChoiceField(["strict", "fallback"], help_text="Whether the caller's personal wallet may pay")
    enforcement = serializers.ChoiceField(["strict", "soft", "off"], help_text="What a hold must meet")


class TransactionSerializer(serializers.Serializer[Any]):
    """A line of the statement; ``amount_usd`` is negative where money left the wallet."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["wallet_transaction"])
    kind = serializers.CharField()
    amount_usd = UsdNumber()
    balance_after_usd = UsdNumber()
    reason = serializers.CharField()
    created_at = serializers.IntegerField()


class TransactionPageSerializer(serializers.Serializer[Any]):
    """A page of the statement."""

    object = serializers.ChoiceField(["list"])
    data = TransactionSerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()


class PartySerializer(serializers.Serializer[Any]):
    """A seller or a buyer, as known when the document was issued."""

    name = serializers.CharField()
    address = serializers.CharField()
    country = serializers.CharField(help_text="ISO 3166; empty where unknown")
    vat_id = serializers.CharField()
    email = serializers.CharField()


class InvoiceSerializer(serializers.Serializer[Any]):
    """A document in a list: invoice, statement, receipt or credit note. All but exact amounts are in cents."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["invoice"])
    kind = serializers.ChoiceField(["invoice", "statement", "receipt", "credit_note"])
    number = serializers.CharField(allow_null=True, help_text="Null for a statement")
    status = serializers.ChoiceField(["issued", "open", "paid", "void", "uncollectible"])
    currency = serializers.ChoiceField(["usd"])
    created_at = serializers.IntegerField(help_text="When it was issued")
    due_at = serializers.IntegerField(allow_null=True, help_text="The end of the last day on which it may be paid")
    settled_at = serializers.IntegerField(allow_null=True)
    period_start = serializers.IntegerField(allow_null=True)
    period_end = serializers.IntegerField(allow_null=True, help_text="Exclusive")
    time_zone = serializers.CharField(help_text="In which its days are counted")
    exact_usd = UsdNumber(help_text="The sum of the lines before rounding")
    carried_usd = UsdNumber(help_text="Carried to the next document: exact_usd less subtotal_usd")
    subtotal_usd = UsdNumber()
    tax_usd = UsdNumber()
    total_usd = UsdNumber()
    amount_paid_usd = UsdNumber()
    amount_due_usd = UsdNumber()
    opening_balance_usd = UsdNumber(allow_null=True, help_text="Of a statement")
    closing_balance_usd = UsdNumber(allow_null=True, help_text="Of a statement")
    corrects = serializers.CharField(allow_null=True, help_text="Of a credit note: the invoice")
    pdf_path = serializers.CharField()


class InvoiceLineSerializer(serializers.Serializer[Any]):
    """A line of a document; below zero it takes off."""

    id = serializers.CharField()
    kind = serializers.ChoiceField([kind.value for kind in InvoiceLine.Kind])
    text = serializers.CharField()
    detail = serializers.CharField()
    model = serializers.CharField(allow_null=True)
    service_tier = serializers.CharField(allow_null=True)
    batch = serializers.BooleanField(allow_null=True)
    api_key_id = serializers.CharField(allow_null=True)
    project_id = serializers.CharField(allow_null=True)
    requests = serializers.IntegerField(allow_null=True)
    input_tokens = serializers.IntegerField(allow_null=True)
    cached_input_tokens = serializers.IntegerField(allow_null=True)
    output_tokens = serializers.IntegerField(allow_null=True)
    exact_usd = UsdNumber()
    amount_usd = UsdNumber(help_text="In cents, so that the lines add up to the subtotal")
    usage_query = serializers.CharField(
        allow_null=True, help_text="Query of GET /v1/usage that lists the records; null where the line is of no usage"
    )


class InvoiceTaxSerializer(serializers.Serializer[Any]):
    """The tax on the subtotal."""

    name = serializers.CharField()
    percent = UsdNumber()
    amount_usd = UsdNumber()
    treatment = serializers.CharField(help_text="Such as domestic, eu_reverse_charge, eu_destination or outside")


class InvoiceSettlementSerializer(serializers.Serializer[Any]):
    """What made the open amount smaller."""

    id = serializers.CharField()
    kind = serializers.ChoiceField([kind.value for kind in InvoiceSettlement.Kind])
    text = serializers.CharField()
    amount_usd = UsdNumber()
    tax_usd = UsdNumber(help_text="The part of it that was tax")
    created_at = serializers.IntegerField()


class InvoiceDetailSerializer(InvoiceSerializer):
    """A document with all that it says."""

    seller = PartySerializer()
    buyer = PartySerializer()
    reason = serializers.CharField(help_text="Of a credit note")
    tax = InvoiceTaxSerializer(allow_null=True)
    lines = InvoiceLineSerializer(many=True)
    settlements = InvoiceSettlementSerializer(many=True)
    credit_notes = serializers.ListField(child=serializers.CharField(), help_text="Ids of those that correct it")


class ToPaySerializer(serializers.Serializer[Any]):
    """How an invoice is to be paid."""

    # For the document only: ``billing.payment_views`` reads the body.

    method = serializers.ChoiceField(
        [method.value for method in Payment.Method], required=False, allow_null=True, help_text="card: the saved one"
    )
    payment_method_id = serializers.CharField(
        required=False, allow_null=True, help_text="A saved card other than the default one, card_…"
    )
    success_url = serializers.CharField(required=False, allow_null=True, max_length=2000, help_text="https")
    cancel_url = serializers.CharField(required=False, allow_null=True, max_length=2000, help_text="https")


class InvoicePaymentFailureSerializer(serializers.Serializer[Any]):
    """Why it did not go through."""

    code = serializers.CharField()
    message = serializers.CharField()


class InvoicePaymentSerializer(serializers.Serializer[Any]):
    """A payment of an invoice. ``requires_action``: the customer has to go to one of the two addresses."""

    id = serializers.CharField()
    object = serializers.ChoiceField(["invoice_payment"])
    invoice_id = serializers.CharField()
    status = serializers.ChoiceField(["pending", "requires_action", "processing", "succeeded", "failed", "canceled"])
    amount_usd = UsdNumber()
    tax_usd = UsdNumber(help_text="The part of it that is tax")
    currency = serializers.ChoiceField(["usd"])
    method = serializers.ChoiceField([method.value for method in Payment.Method])
    checkout_url = serializers.CharField(allow_null=True, help_text="Stripe's page on which it is paid")
    next_action_url = serializers.CharField(allow_null=True, help_text="Where the bank asks to confirm (3-D Secure)")
    failure = InvoicePaymentFailureSerializer(allow_null=True)
    created_at = serializers.IntegerField()
    settled_at = serializers.IntegerField(allow_null=True)


class InvoicePageSerializer(serializers.Serializer[Any]):
    """A page of documents."""

    object = serializers.ChoiceField(["list"])
    data = InvoiceSerializer(many=True)  # type: ignore[assignment]
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
    has_more = serializers.BooleanField()


class BalanceInfoSerializer(serializers.Serializer[Any]):
    """One currency of ``GET /user/balance``, as text with two decimals."""

    currency = serializers.ChoiceField(["USD"])
    total_balance = serializers.CharField()
    granted_balance = serializers.CharField()
    topped_up_balance = serializers.CharField()


class BalanceSerializer(serializers.Serializer[Any]):
    """A balance as DeepSeek's clients read it."""

    is_available = serializers.BooleanField()
    balance_infos = BalanceInfoSerializer(many=True)


class CreditsInnerSerializer(serializers.Serializer[Any]):
    """All credit ever received, and all usage ever charged."""

    total_credits = UsdNumber()
    total_usage = UsdNumber()


class CreditsSerializer(serializers.Serializer[Any]):
    """``GET /v1/credits``."""

    data = CreditsInnerSerializer()  # type: ignore[assignment]


class KeyInnerSerializer(serializers.Serializer[Any]):
    """The calling key."""

    label = serializers.CharField()  # type: ignore[assignment]
    limit = UsdNumber(allow_null=True)
    limit_remaining = UsdNumber(allow_null=True)
    usage = UsdNumber(help_text="This month, UTC")
    usage_daily = UsdNumber()
    usage_weekly = UsdNumber(help_text="Since Monday")
    usage_monthly = UsdNumber()
    is_free_tier = serializers.BooleanField()
    expires_at = serializers.IntegerField(allow_null=True)


class CallingKeySerializer(serializers.Serializer[Any]):
    """``GET /v1/key``."""

    data = KeyInnerSerializer()  # type: ignore[assignment]


class PartSerializer(serializers.Serializer[Any]):
    """One product of a cost's sum."""

    pool = serializers.CharField(
        help_text="Tokens of a pool, a unit or request; of a correction also "
        f"{CHARGED_BEFORE}, {CORRECTED_BEFORE} or {UNDONE}"
    )
    quantity = serializers.IntegerField(help_text="Negative where a void takes counts back")
    rate_usd = UsdNumber()
    per = serializers.IntegerField(help_text="The rate is for so many: 1000000 tokens, or 1 use")
    cost_usd = UsdNumber()


class ExplainedPriceSerializer(serializers.Serializer[Any]):
    """The price version that was used, frozen on the record."""

    id = serializers.CharField()
    effective_from = serializers.IntegerField()


class ExplainedRuleSerializer(serializers.Serializer[Any]):
    """The markup, discount or contract that was applied to the price."""

    id = serializers.CharField()
    factor = UsdNumber(allow_null=True, help_text="Null where the contract has rates of its own")
    effective_from = serializers.IntegerField()
    effective_to = serializers.IntegerField(allow_null=True)


class ExplainedTermsSerializer(serializers.Serializer[Any]):
    """The entry of the rate card that held."""

    service_tier = serializers.CharField(allow_null=True)
    batch = serializers.BooleanField()
    above_input_tokens = serializers.IntegerField()
    windows = serializers.ListField(child=serializers.CharField())


class ExplainedTransferSerializer(serializers.Serializer[Any]):
    """The movement of money that this record is part of."""

    id = serializers.CharField()
    kind = serializers.CharField()
    amount_usd = UsdNumber()
    created_at = serializers.IntegerField()


class ExplainedCorrectionSerializer(serializers.Serializer[Any]):
    """What was posted about the record afterwards."""

    usage_record_id = serializers.CharField()
    kind = serializers.CharField()
    cost_usd = UsdNumber()
    reason = serializers.CharField()
    created_at = serializers.IntegerField()


class ExplainedAuthorizationSerializer(serializers.Serializer[Any]):
    """The authorization that the event named."""

    id = serializers.CharField()
    status = serializers.ChoiceField(
        ["approved", "captured", "released", "expired", "unknown"],
        help_text="unknown: not an authorization of this organization",
    )
    amount_usd = UsdNumber(allow_null=True, help_text="What was set aside")
    settled = serializers.BooleanField(help_text="Whether this record ended the hold; if not, it was charged anyway")


class ExplanationSerializer(serializers.Serializer[Any]):
    """``GET /v1/usage/{id}/explain``."""

    object = serializers.ChoiceField(["usage_explanation"])
    id = serializers.CharField()
    model = serializers.CharField()
    occurred_at = serializers.IntegerField()
    usage_source = serializers.CharField()
    cost_usd = UsdNumber()
    net_cost_usd = UsdNumber(help_text="With all corrections")
    matches = serializers.BooleanField(help_text="Whether the frozen price gives this cost, derived again just now")
    arithmetic = serializers.CharField()
    parts = PartSerializer(many=True)
    terms = ExplainedTermsSerializer(allow_null=True)
    price = ExplainedPriceSerializer()
    rule = ExplainedRuleSerializer(allow_null=True)
    transfer = ExplainedTransferSerializer(
        allow_null=True, help_text="Null if nothing was moved, or for who may not read that wallet"
    )
    attempts = serializers.IntegerField(allow_null=True)
    authorization = ExplainedAuthorizationSerializer(allow_null=True)
    corrects = serializers.CharField(allow_null=True)
    corrections = ExplainedCorrectionSerializer(many=True)


def _count(**more: Any) -> serializers.IntegerField:
    """A count of a request; ``null`` is the same as absent."""
    return serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=rating.COUNT_MAX, **more
    )  # fmt: skip


class ToEstimateSerializer(serializers.Serializer[Any]):
    """What ``POST /v1/estimate`` takes: counts as in an event, or text to count where a count is absent."""

    model = serializers.CharField(max_length=128)
    input_tokens = _count(help_text="Required unless messages or input_text is sent")
    cached_input_tokens = _count()
    cache_write_tokens = _count()
    cache_write_1h_tokens = _count()
    image_input_tokens = _count()
    audio_input_tokens = _count()
    cached_image_tokens = _count()
    cached_audio_tokens = _count()
    output_tokens = _count()
    max_output_tokens = _count(help_text="Taken for output_tokens where neither that nor output_text is sent")
    reasoning_tokens = _count()
    image_output_tokens = _count()
    audio_output_tokens = _count()
    units = serializers.DictField(
        child=serializers.IntegerField(min_value=0, max_value=rating.COUNT_MAX), required=False, allow_null=True
    )
    service_tier = serializers.CharField(required=False, allow_null=True, max_length=128)
    batch = serializers.BooleanField(required=False, allow_null=True)
    messages = serializers.ListField(
        child=serializers.DictField(), required=False, allow_null=True, help_text="Counted and not kept"
    )
    tools = serializers.ListField(
        child=serializers.DictField(), required=False, allow_null=True, help_text="Counted with messages or input_text"
    )
    input_text = serializers.CharField(required=False, allow_null=True, help_text="In place of messages")
    output_text = serializers.CharField(required=False, allow_null=True, help_text="Counted and not kept")


class EstimateSerializer(serializers.Serializer[Any]):
    """``POST /v1/estimate``."""

    object = serializers.ChoiceField(["estimate"])
    model = serializers.CharField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    usage_source = serializers.ChoiceField(["reported", "estimated"])
    cost_usd = UsdNumber()
    arithmetic = serializers.CharField()
    parts = PartSerializer(many=True)
    price_id = serializers.CharField()
    rule_id = serializers.CharField(allow_null=True)


def show_estimate(asked: Asked, found: Quote) -> dict[str, Any]:
    """What a request would cost."""
    return {
        "object": "estimate",
        "model": found.model,
        "input_tokens": asked.counts.input_tokens,
        "output_tokens": asked.counts.output_tokens,
        "usage_source": "estimated" if asked.estimated else "reported",
        "cost_usd": wire.number(found.cost_usd),
        "arithmetic": arithmetic(found.parts),
        "parts": [show_part(part) for part in found.parts],
        "price_id": ids.show("price", found.price_id),
        "rule_id": None if found.rule_id is None else ids.show("rule", found.rule_id),
    }


def show_part(part: Part) -> dict[str, Any]:
    """One product of a cost's sum."""
    return {
        "pool": part.pool,
        "quantity": part.quantity,
        "rate_usd": wire.number(part.rate_usd),
        "per": part.per,
        "cost_usd": wire.number(part.cost_usd),
    }


def show_window(window: rating.Window) -> str:
    """A window in words: ``01:00-04:00 UTC on Mon, Tue``."""
    days = ", ".join(_DAYS[day] for day in window.days)
    return f"{window.start:%H:%M}-{window.end:%H:%M} {window.zone} on {days}"


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def show_terms(terms: rating.Terms) -> dict[str, Any]:
    """The conditions of a rate card's entry."""
    return {
        "service_tier": terms.service_tier,
        "batch": terms.batch,
        "above_input_tokens": terms.above_input_tokens,
        "windows": [show_window(window) for window in terms.windows],
    }


def _show_authorization(named: Authorization) -> dict[str, Any]:
    """The authorization that an event named, and whether the event settled it."""
    hold = named.hold
    return {
        "id": ids.show("auth", named.id),
        "status": "unknown" if hold is None else holds.STATUS[Hold.State(hold.state)],
        "amount_usd": None if hold is None else wire.number(hold.amount_usd),
        "settled": named.settled,
    }


def show_explanation(found: Explanation) -> dict[str, Any]:
    """How a record's cost came about; whom it was routed to, what that cost us and our notes stay inside."""
    record, price, rule, transfer = found.record, found.price, found.rule, found.transfer
    return {
        "object": "usage_explanation",
        "id": ids.show("usage", record.id),
        "model": record.model,
        "occurred_at": clock.to_unix(record.occurred_at),
        "usage_source": record.usage_source,
        "cost_usd": wire.number(record.cost_usd),
        "net_cost_usd": wire.number(found.net_usd),
        "matches": found.matches,
        "arithmetic": arithmetic(found.parts),
        "parts": [show_part(part) for part in found.parts],
        "terms": None if found.terms is None else show_terms(found.terms),
        "price": {
            "id": ids.show("price", price.id),
            "effective_from": clock.to_unix(price.effective_from),
        },
        "rule": None
        if rule is None
        else {
            "id": ids.show("rule", rule.id),
            "factor": None if rule.factor is None else wire.number(rule.factor),
            "effective_from": clock.to_unix(rule.effective_from),
            "effective_to": None if rule.effective_to is None else clock.to_unix(rule.effective_to),
        },
        "transfer": None
        if transfer is None
        else {
            "id": ids.show("tr", transfer.id),
            "kind": transfer.kind,
            "amount_usd": wire.number(transfer.amount_usd),
            "created_at": clock.to_unix(transfer.created_at),
        },
        "attempts": record.attempts,
        "authorization": None if found.authorization is None else _show_authorization(found.authorization),
        "corrects": None if record.corrects_id is None else ids.show("usage", record.corrects_id),
        "corrections": [
            {
                "usage_record_id": ids.show("usage", one.id),
                "kind": one.kind,
                "cost_usd": wire.number(one.cost_usd),
                "reason": one.reason,
                "created_at": clock.to_unix(one.created_at),
            }
            for one in found.corrections
        ],
    }


def show_wallet(state: State, credit: Credit, slug: str | None) -> dict[str, Any]:
    """A wallet, with what is left of the credit given and of that paid for."""
    return {
        "object": "wallet",
        "organization": slug,
        "currency": "usd",
        "balance_usd": wire.number(state.balance_usd),
        "granted_usd": wire.number(credit.given_usd),
        "topped_up_usd": wire.number(credit.paid_usd),
        "held_usd": wire.number(state.held_usd),
        "overdraft_usd": wire.number(state.overdraft_usd),
        "credit_limit_usd": wire.number(state.credit_limit_usd),
        "available_usd": wire.number(state.available_usd),
        "status": state.status,
        "mode": state.mode,
        "enforcement": state.enforcement,
    }


def signed(transfer: Transfer) -> Decimal:
    """The amount as the wallet sees it."""
    amount = Decimal(transfer.amount_usd)
    return -amount if transfer.debit == Account.WALLET else amount


def show_transaction(transfer: Transfer) -> dict[str, Any]:
    """A line of the statement."""
    return {
        "id": ids.show("tr", transfer.id),
        "object": "wallet_transaction",
        "kind": transfer.kind,
        "amount_usd": wire.number(signed(transfer)),
        "balance_after_usd": wire.number(transfer.balance_after_usd),
        "reason": transfer.reason,
        "created_at": clock.to_unix(transfer.created_at),
    }


def show_invoice(invoice: Invoice) -> dict[str, Any]:
    """A document in a list."""

    def seconds(at: datetime | None) -> int | None:
        return None if at is None else clock.to_unix(at)

    def dollars(amount: Decimal | None) -> Any:
        return None if amount is None else wire.number(amount)

    shown = ids.show("inv", invoice.pk)
    return {
        "id": shown,
        "object": "invoice",
        "kind": invoice.kind,
        "number": invoice.number,
        "status": invoice.state,
        "currency": "usd",
        "created_at": seconds(invoice.issued_at),
        "due_at": seconds(invoice.due_at),
        "settled_at": seconds(invoice.settled_at),
        "period_start": seconds(invoice.starts_at),
        "period_end": seconds(invoice.ends_at),
        "time_zone": invoice.zone,
        "exact_usd": dollars(invoice.exact_usd),
        "carried_usd": dollars(invoice.exact_usd - invoice.subtotal_usd),
        "subtotal_usd": dollars(invoice.subtotal_usd),
        "tax_usd": dollars(invoice.tax_usd),
        "total_usd": dollars(invoice.total_usd),
        "amount_paid_usd": dollars(invoice.paid_usd),
        "amount_due_usd": dollars(invoice.open_usd),
        "opening_balance_usd": dollars(invoice.opening_usd),
        "closing_balance_usd": dollars(invoice.closing_usd),
        "corrects": None if invoice.corrects_id is None else ids.show("inv", invoice.corrects_id),
        "pdf_path": f"/v1/invoices/{shown}/pdf",
    }


def show_invoice_detail(invoice: Invoice) -> dict[str, Any]:
    """A document with all that it says."""
    printed, rows = issued.document(invoice), issued.lines(invoice)
    return {
        **show_invoice(invoice),
        "seller": _show_party(printed.seller),
        "buyer": _show_party(printed.buyer),
        "reason": invoice.reason,
        "tax": None
        if not invoice.tax_treatment
        else {
            "name": invoice.tax_name,
            "percent": wire.number(invoice.tax_percent),
            "amount_usd": wire.number(invoice.tax_usd),
            "treatment": invoice.tax_treatment,
        },
        "lines": [
            _show_line(invoice, row, line.text, line.detail) for row, line in zip(rows, printed.lines, strict=True)
        ],
        "settlements": [
            {
                "id": ids.show("set", row.pk),
                "kind": row.kind,
                "text": issued.told(row),
                "amount_usd": wire.number(row.amount_usd),
                "tax_usd": wire.number(row.tax_usd),
                "created_at": clock.to_unix(row.at),
            }
            for row in issued.settlements(invoice)
        ],
        "credit_notes": [ids.show("inv", note.pk) for note in issued.credit_notes(invoice)],
    }


def show_invoice_payment(payment: Payment) -> dict[str, Any]:
    """A payment of an invoice, and where the customer has to go."""
    waits = payment.state == Payment.State.REQUIRES_ACTION
    over = payment.state in {Payment.State.FAILED, Payment.State.CANCELED}
    message = payment.failure_message or "The payment did not go through."
    return {
        "id": ids.show("pay", payment.pk),
        "object": "invoice_payment",
        "invoice_id": ids.show("inv", payment.subject_id),
        "status": "pending" if payment.state == Payment.State.CALLED else str(payment.state),
        "amount_usd": wire.number(payment.amount_usd),
        "tax_usd": wire.number(payment.tax_usd),
        "currency": "usd",
        "method": str(payment.method),
        "checkout_url": (payment.checkout_url or None) if waits else None,
        "next_action_url": (payment.next_action_url or None) if waits else None,
        "failure": {"code": payment.failure_code or "failed", "message": message} if over else None,
        "created_at": clock.to_unix(payment.created_at),
        "settled_at": None if payment.settled_at is None else clock.to_unix(payment.settled_at),
    }


def _show_party(party: Party) -> dict[str, str]:
    return {name: getattr(party, name) for name in ("name", "address", "country", "vat_id", "email")}


def _show_line(invoice: Invoice, row: InvoiceLine, text: str, detail: str) -> dict[str, Any]:
    """A line, and where its records are."""
    return {
        "id": ids.show("line", row.pk),
        "kind": row.kind,
        "text": text,
        "detail": detail,
        "model": row.model,
        "service_tier": row.service_tier,
        "batch": row.batch,
        "api_key_id": None if row.api_key_id is None else ids.show("key", row.api_key_id),
        "project_id": None if row.project_id is None else ids.show("proj", row.project_id),
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "output_tokens": row.output_tokens,
        "exact_usd": wire.number(row.exact_usd),
        "amount_usd": wire.number(row.amount_usd),
        "usage_query": issued.usage_query(invoice, row),
    }


def show_balance(state: State, credit: Credit, *, is_available: bool) -> dict[str, Any]:
    """A wallet as DeepSeek's clients read it: rounded for display; what is owed counts against what was topped up."""
    return {
        "is_available": is_available,
        "balance_infos": [
            {
                "currency": "USD",
                "total_balance": money.display(state.balance_usd),
                "granted_balance": money.display(credit.given_usd),
                "topped_up_balance": money.display(state.balance_usd - credit.given_usd),
            }
        ],
    }


def show_credits(state: State) -> dict[str, Any]:
    """A wallet as OpenRouter's clients read it."""
    return {
        "data": {
            "total_credits": wire.number(state.balance_usd + state.spent_usd),
            "total_usage": wire.number(state.spent_usd),
        }
    }
