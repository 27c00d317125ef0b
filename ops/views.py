"""What views of requests that may be sent again have in common."""

from collections.abc import Callable
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from core import wire
from ops import idempotency
from ops.idempotency import Saved

REPLAYED = "Idempotent-Replayed"


def once(
    request: Request,
    *,
    organization_id: UUID,
    organization_slug: str,
    work: Callable[[], tuple[int, object]],
    required: bool = True,
) -> HttpResponse:
    """Answer a POST under its ``Idempotency-Key``: ``work`` gives status and body, once (``ops.idempotency.once``).

    The organization is the one charged. A view whose effect is harmless twice says ``required=False``.
    Raises what ``read_key`` and ``once`` raise.
    """
    key = idempotency.read_key(request.headers.get(idempotency.HEADER), required=required)
    # Read, and refused if malformed, before a transaction is open.
    body = request.data

    def answer() -> Saved:
        status, told = work()
        return Saved(status, wire.encode(told))

    saved = idempotency.once(
        organization_id=organization_id,
        organization_slug=organization_slug,
        method=request.method or "",
        path=request.path,
        key=key,
        body=body,
        work=answer,
    )
    response = HttpResponse(saved.body, status=saved.status, content_type=saved.content_type)
    if saved.replayed:
        response[REPLAYED] = "true"
    return response
