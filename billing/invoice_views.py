"""Doors to documents: invoices, statements, receipts and credit notes."""

import json
from collections.abc import Iterator
from uuid import UUID

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import issued, payments, settlement
from billing.documents import csv
from billing.issued import Wanted
from billing.models import Invoice, Payment
from billing.payment_views import IDEMPOTENCY_KEY, Way, card_of, read_way
from billing.payments import Purpose
from billing.processor import client
from billing.processor.facts import OPEN
from billing.serializers import (
    InvoiceDetailSerializer,
    InvoicePageSerializer,
    InvoicePaymentSerializer,
    ToPaySerializer,
    show_invoice,
    show_invoice_detail,
    show_invoice_payment,
)
from core import errors, ids, lists, money, wire
from core.http import JsonRenderer
from core.openapi import failures
from metering.views import PAGING
from ops.views import once
from orgs import permissions
from orgs.authentication import principal_of

INVOICE_ID = OpenApiParameter("invoice_id", str, OpenApiParameter.PATH, description="The id of a document, inv_…")
COLUMNS = (
    "id", "number", "kind", "status", "created_at", "due_at", "period_start", "period_end", "time_zone",
    "subtotal_usd", "tax_usd", "total_usd", "amount_paid_usd", "amount_due_usd",
)  # fmt: skip
_CSV_CHUNK = 500
# The year 9999, the last one that a date can hold.
_LAST_SECOND = 253_402_300_799


def _query(name: str, description: str, schema: dict[str, object]) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.QUERY, description=description)


def _owner(request: Request) -> UUID:
    """The organization whose documents a caller reads."""
    organization_id = principal_of(request).organization_id
    assert organization_id is not None
    return organization_id


def _chosen(request: Request, name: str, choices: tuple[str, ...]) -> str | None:
    """A query parameter's word, none where it is absent or empty. Raises ``OutOfRange``."""
    word = request.query_params.get(name) or None
    if word is not None and word not in choices:
        raise errors.OutOfRange(f"{name} is one of {', '.join(choices)}.", param=name)
    return word


def _wanted(request: Request) -> Wanted:
    """What a query asks for. Raises ``InvalidType`` or ``OutOfRange``."""
    start, end = (
        lists.instant(request.query_params.get(name), param=name, most=_LAST_SECOND)
        for name in ("start_time", "end_time")
    )
    return Wanted(_chosen(request, "kind", issued.KINDS), _chosen(request, "status", issued.STATES), start, end)


class Invoices(APIView):
    """``GET /v1/invoices``."""

    needs = permissions.BILLING_READ
    renderer_classes = [JsonRenderer, lists.CsvRenderer]

    @extend_schema(
        operation_id="list_invoices",
        summary="Invoices, statements, receipts and credit notes, the one issued last first",
        parameters=[
            *PAGING,
            _query("kind", "What it is", {"type": "string", "enum": [*issued.KINDS]}),
            _query("status", "How far it is paid", {"type": "string", "enum": [*issued.STATES]}),
            _query("start_time", "Unix seconds, inclusive, by created_at", {"type": "integer", "minimum": 0}),
            _query("end_time", "Unix seconds, exclusive, by created_at", {"type": "integer", "minimum": 0}),
        ],
        responses={(200, "application/json"): InvoicePageSerializer, (200, "text/csv"): str, **failures(400, 422)},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """A page of documents; CSV of all that match with ``Accept: text/csv``."""
        owner, wanted = _owner(request), _wanted(request)
        limit, after = lists.limit(request), lists.after(request)
        whole = lists.wants_csv(request) and "limit" not in request.query_params
        page = issued.page(owner, wanted=wanted, limit=_CSV_CHUNK if whole else limit, after=after)

        def rows() -> Iterator[Invoice]:
            current = page
            yield from current.invoices
            while whole and current.has_more:
                last = ids.show("inv", current.invoices[-1].pk)
                current = issued.page(owner, wanted=wanted, limit=_CSV_CHUNK, after=last)
                yield from current.invoices

        if lists.wants_csv(request):
            return lists.csv_answer("invoices", COLUMNS, (csv_row(invoice) for invoice in rows()))
        return Response(lists.page([show_invoice(invoice) for invoice in page.invoices], has_more=page.has_more))


def csv_row(invoice: Invoice) -> tuple[object, ...]:
    """The cells of ``COLUMNS``; times in RFC 3339, UTC."""
    times = (invoice.issued_at, invoice.due_at, invoice.starts_at, invoice.ends_at)
    amounts = (invoice.subtotal_usd, invoice.tax_usd, invoice.total_usd, invoice.paid_usd, invoice.open_usd)
    return (
        ids.show("inv", invoice.pk), invoice.number, invoice.kind, invoice.state,
        *(None if at is None else at.isoformat() for at in times), invoice.zone, *map(money.plain, amounts),
    )  # fmt: skip


class InvoiceDetail(APIView):
    """``GET /v1/invoices/{id}``."""

    needs = permissions.BILLING_READ
    renderer_classes = [JsonRenderer, lists.CsvRenderer]

    @extend_schema(
        operation_id="get_invoice",
        summary="A document with its lines; as CSV its lines, tax and total",
        parameters=[INVOICE_ID],
        responses={
            (200, "application/json"): InvoiceDetailSerializer,
            (200, "text/csv"): str,
            **failures(404),
        },
    )
    def get(self, request: Request, invoice_id: str) -> HttpResponseBase:
        """What the document says, and where each line's records are."""
        invoice = issued.find(_owner(request), invoice_id)
        if lists.wants_csv(request):
            return lists.csv_answer(issued.file_name(invoice), csv.COLUMNS, csv.rows(issued.document(invoice)))
        return Response(show_invoice_detail(invoice))


class PdfRenderer(BaseRenderer):
    """Lets a view be asked for ``application/pdf``; the view draws it itself."""

    media_type = "application/pdf"
    format = "pdf"

    def render(self, data: object, accepted_media_type: object = None, renderer_context: object = None) -> bytes:
        """Never reached: errors are rendered as JSON, documents are drawn."""
        raise AssertionError("a document is drawn by its view")


class InvoicePdf(APIView):
    """``GET /v1/invoices/{id}/pdf``."""

    needs = permissions.BILLING_READ
    # JSON is what refusals are.
    renderer_classes = [PdfRenderer, JsonRenderer]

    @extend_schema(
        operation_id="get_invoice_pdf",
        summary="A document as PDF",
        parameters=[INVOICE_ID],
        responses={(200, "application/pdf"): {"type": "string", "format": "binary"}, **failures(404)},
    )
    def get(self, request: Request, invoice_id: str) -> HttpResponse:
        """The document as it is printed; a 406 for who takes anything but a PDF."""
        if request.accepted_renderer.format != PdfRenderer.format:
            raise errors.NotAcceptable
        invoice = issued.find(_owner(request), invoice_id)
        answer = HttpResponse(issued.printed(invoice), content_type="application/pdf")
        answer["Content-Disposition"] = f'attachment; filename="{issued.file_name(invoice)}.pdf"'
        return answer


class InvoicePayments(APIView):
    """``POST /v1/invoices/{id}/pay``."""

    needs = permissions.BILLING_MANAGE

    @extend_schema(
        operation_id="pay_invoice",
        summary="Pay what is open of an invoice: on Stripe's page, or with a saved card",
        parameters=[INVOICE_ID, IDEMPOTENCY_KEY],
        request=ToPaySerializer,
        responses={201: InvoicePaymentSerializer, **failures(400, 404, 409, 413, 415, 422, 503)},
    )
    def post(self, request: Request, invoice_id: str) -> HttpResponse:
        """The payment as it stands once Stripe was asked. While one is under way, who asks again gets that one."""
        owner = _owner(request)
        # Who may not see it is told so before anything else.
        issued.find(owner, invoice_id)
        body = request.data
        assert isinstance(body, dict)  # the parser gives nothing else
        way = read_way(body)
        client.connect()

        def mean() -> tuple[int, object]:
            return 201, {"id": ids.show("pay", mean_payment(issued.find(owner, invoice_id), way).pk)}

        slug = principal_of(request).organization_slug or ""
        answer = once(request, organization_id=owner, organization_slug=slug, work=mean)
        payment_id = ids.read("pay", json.loads(answer.content)["id"])
        # Committed; whoever comes again finds it begun.
        settlement.ask(payment_id)
        payment = Payment.objects.get(pk=payment_id)
        answer.content = wire.encode(show_invoice_payment(payment))
        return answer


def mean_payment(invoice: Invoice, way: Way) -> Payment:
    """The payment of what is open, inside the caller's transaction: the one under way if it asks for the same, or new.

    Money that comes from elsewhere meanwhile makes it too much; what is too much becomes credit.
    """
    if invoice.state != Invoice.State.OPEN:
        raise errors.Conflict("Nothing is open on this document.", param="invoice_id")
    under_way = payments.of_subject(Purpose.INVOICE, invoice.pk)
    if under_way is not None and under_way.state in OPEN and under_way.amount_usd == invoice.open_usd:
        return under_way
    return payments.open_one(
        organization_id=invoice.organization_id, purpose=Purpose.INVOICE, subject_id=invoice.pk,
        amount_usd=invoice.open_usd, tax_usd=invoice.open_tax_usd, method=way.method,
        card=card_of(invoice.organization_id, way), success_url=way.success_url, cancel_url=way.cancel_url,
    )  # fmt: skip
