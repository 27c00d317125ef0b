"""Metering's doors to sums of usage by time: shaped as OpenAI's (contract 8.1), exact at any moment."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core import clock, errors, ids, lists, wire
from core.openapi import failures
from metering import buckets, rollups
from metering.rollups import Only, Sum
from metering.serializers import CompletionsPageSerializer, CostsPageSerializer
from orgs import organizations, permissions
from orgs.authentication import principal_of

# How many buckets of a width a page has, and at most.
LIMITS = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}
COSTS_LIMIT = (7, 180)
# Results of all buckets of a page; one that has more ends with an earlier bucket.
RESULTS_MAX = 20_000
VALUES_MAX = 100
_PAGE = "page_"
_PREFIXES = {"project_id": "proj", "user_id": "user", "api_key_id": "key"}
_LAST_SECOND = clock.to_unix(buckets.LAST)
OWN_ZONE = "organization"


class Query(NamedTuple):
    """What a caller asks for; ``groups`` are in the caller's words."""

    start: datetime
    end: datetime | None
    width: str
    zone: ZoneInfo
    groups: Sequence[str]
    only: Only
    limit: int
    page: datetime | None


def _query(name: str, description: str, schema: Any, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.QUERY, description=description, **more)


def _several(name: str, description: str, **items: Any) -> OpenApiParameter:
    schema = {"type": "array", "items": {"type": "string", **items}, "maxItems": VALUES_MAX}
    return _query(name, f"{description}; also as {name}[]", schema)


def _paging(limits: Mapping[str, tuple[int, int]], default: str) -> list[OpenApiParameter]:
    """Parameters of both operations."""
    most = max(limit for _, limit in limits.values())
    told = ", ".join(f"{usual} up to {limit} of {width}" for width, (usual, limit) in limits.items())
    seconds = {"type": "integer", "minimum": 0}
    return [
        _query("start_time", "Unix seconds, inclusive, by created_at", seconds, required=True),
        _query("end_time", "Unix seconds, exclusive; the end of the present bucket if absent", seconds),
        _query("bucket_width", f"{default} if absent", OpenApiTypes.STR, enum=list(limits)),
        _query("limit", f"Buckets: {told}", {"type": "integer", "minimum": 1, "maximum": most}),
        _query("page", "next_page of the answer before, with the same other parameters", OpenApiTypes.STR),
        _query(
            "time_zone", f"Whose midnights part days: an IANA name, or {OWN_ZONE} for its own; UTC if absent",
            OpenApiTypes.STR,
        ),
        _several("project_ids", "Of these projects only"),
        _several("api_key_ids", "Of these keys only"),
    ]  # fmt: skip


class CompletionsUsage(APIView):
    """``GET /v1/organization/usage/completions``."""

    needs = permissions.USAGE_READ_OWN
    groups = ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier")

    @extend_schema(
        operation_id="get_completions_usage",
        parameters=[
            *_paging(LIMITS, "1d"),
            _several("user_ids", "Of these people only"),
            _several("models", "Of these models only"),
            _query("batch", "Batches only, or all but batches", OpenApiTypes.BOOL),
            _several("group_by", "What results are told apart by", enum=list(groups)),
        ],
        responses={200: CompletionsPageSerializer, **failures(400, 422)},
    )
    def get(self, request: Request) -> Response:
        """Tokens and requests by buckets of time; of their own only, for who may not see all."""
        query = read(request, groups=self.groups, limits=LIMITS)
        return Response(_answer(request, query, query.groups, _show_usage))


class Costs(APIView):
    """``GET /v1/organization/costs``."""

    needs = permissions.USAGE_READ_OWN
    groups = ("project_id", "line_item", "api_key_id")

    @extend_schema(
        operation_id="get_costs",
        parameters=[
            *_paging({"1d": COSTS_LIMIT}, "1d"),
            _several("group_by", "What results are told apart by; a line item is a model", enum=list(groups)),
        ],
        responses={200: CostsPageSerializer, **failures(400, 422)},
    )
    def get(self, request: Request) -> Response:
        """What usage cost, by days; of their own only, for who may not see all."""
        query = read(request, groups=self.groups, limits={"1d": COSTS_LIMIT})
        by = ["model" if name == "line_item" else name for name in query.groups]
        return Response(_answer(request, query, by, _show_cost))


def read(request: Request, *, groups: Sequence[str], limits: Mapping[str, tuple[int, int]]) -> Query:
    """What a request asks for. Raises an ``ApiError`` that names the parameter; unknown ones are ignored."""
    start, end = (
        lists.instant(request.query_params.get(name), param=name, most=_LAST_SECOND)
        for name in ("start_time", "end_time")
    )
    if start is None:
        raise errors.MissingParameter("start_time is required: Unix seconds.", param="start_time")
    if end is not None and end <= start:
        raise errors.OutOfRange("end_time must lie after start_time.", param="end_time")
    width = request.query_params.get("bucket_width") or "1d"
    if width not in limits:
        raise errors.OutOfRange(f"bucket_width must be one of {', '.join(limits)}.", param="bucket_width")
    return Query(
        start=start, end=end, width=width, zone=_zone(request), groups=_groups(request, groups), only=_only(request),
        limit=_limit(request, *limits[width]), page=_page(request),
    )  # fmt: skip


def _only(request: Request) -> Only:
    principal = principal_of(request)
    everything = permissions.USAGE_READ_ALL in principal.permissions
    return Only(
        member_id=None if everything else principal.member_id,
        models=_values(request, "models"),
        project_ids=_ids(request, "project_ids", "proj"),
        user_ids=_ids(request, "user_ids", "user"),
        api_key_ids=_ids(request, "api_key_ids", "key"),
        batch=_flag(request, "batch"),
    )


def _zone(request: Request) -> ZoneInfo:
    name = request.query_params.get("time_zone") or "UTC"
    if name == OWN_ZONE:
        name = organizations.find_ids([_organization(request)])[_organization(request)].time_zone
    elif name not in organizations.zones():
        raise errors.OutOfRange(f"time_zone must be an IANA name, or {OWN_ZONE}.", param="time_zone")
    return ZoneInfo(name)


def _organization(request: Request) -> UUID:
    organization_id = principal_of(request).organization_id
    assert organization_id is not None
    return organization_id


def _values(request: Request, name: str) -> list[str] | None:
    """Every value of a parameter that may be sent several times, with or without brackets; None without any."""
    found = [text for key in (name, f"{name}[]") for text in request.query_params.getlist(key) if text]
    if len(found) > VALUES_MAX:
        raise errors.OutOfRange(f"{name} takes at most {VALUES_MAX} values.", param=name)
    if any("\x00" in text for text in found):
        raise errors.OutOfRange(f"{name} is not valid.", param=name)
    return found or None


def _ids(request: Request, name: str, prefix: str) -> list[UUID] | None:
    """A neighbour's match nothing, like made-up ones."""
    texts = _values(request, name)
    try:
        return None if texts is None else [ids.read(prefix, text) for text in texts]
    except ValueError as error:
        raise errors.InvalidType(f"{name} takes ids that begin with {prefix}_.", param=name) from error


def _flag(request: Request, name: str) -> bool | None:
    text = request.query_params.get(name)
    if not text:
        return None
    if text not in {"true", "false"}:
        raise errors.InvalidType(f"{name} must be true or false.", param=name)
    return text == "true"


def _groups(request: Request, known: Sequence[str]) -> list[str]:
    asked = _values(request, "group_by") or []
    if not set(asked) <= set(known):
        raise errors.OutOfRange(f"group_by takes {', '.join(known)}.", param="group_by")
    return list(dict.fromkeys(asked))


def _limit(request: Request, usual: int, most: int) -> int:
    text = request.query_params.get("limit")
    if not text:
        return usual
    number = lists.integer(text, param="limit")
    if not 1 <= number <= most:
        raise errors.OutOfRange(f"limit must lie between 1 and {most} for buckets of this width.", param="limit")
    return number


def _page(request: Request) -> datetime | None:
    text = request.query_params.get("page")
    if not text:
        return None
    seconds = text.removeprefix(_PAGE)
    is_number = seconds.isascii() and seconds.isdecimal() and len(seconds) <= len(str(_LAST_SECOND))
    if not text.startswith(_PAGE) or not is_number or int(seconds) > _LAST_SECOND:
        raise _no_page()
    return clock.from_unix(int(seconds))


def _no_page() -> errors.InvalidCursor:
    return errors.InvalidCursor("page is not the next_page of an answer to this query.", param="page")


def _answer(
    request: Request, query: Query, by: Sequence[str], show: Callable[[Sum, Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """A page of buckets, empty ones too. Raises ``InvalidCursor``, or ``OutOfRange`` for too many groups in one."""
    window = buckets.window(
        start=query.start, end=query.end or buckets.following(clock.now(), query.width, query.zone),
        width=query.width, zone=query.zone, limit=query.limit, page=query.page,
    )  # fmt: skip
    if window is None:
        raise _no_page()
    edges, has_more = window
    found: list[Sum] = []
    if len(edges) > 1:
        found = rollups.sums(
            organization_id=_organization(request), edges=edges, by=by, only=query.only, rows=RESULTS_MAX + 1
        )
    if len(found) > RESULTS_MAX:
        # The bucket that the last one is in may have more of them: it begins the next page.
        last = found[-1].bucket
        if last == 0:
            raise errors.OutOfRange(f"A bucket has more than {RESULTS_MAX} groups: group by less.", param="group_by")
        found, edges, has_more = [one for one in found if one.bucket < last], edges[: last + 1], True
    results = {place: list(group) for place, group in groupby(found, key=attrgetter("bucket"))}
    return {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": clock.to_unix(start),
                "end_time": clock.to_unix(end),
                "results": [show(one, _shown_group(by, one.group)) for one in results.get(place, ())],
            }
            for place, (start, end) in enumerate(pairwise(edges))
        ],
        "has_more": has_more,
        "next_page": f"{_PAGE}{clock.to_unix(edges[-1])}" if has_more else None,
    }


def _shown_group(by: Sequence[str], group: Sequence[Any]) -> dict[str, Any]:
    """What a result is told apart by, on the wire."""
    return {
        name: ids.show(_PREFIXES[name], value) if name in _PREFIXES and value is not None else value
        for name, value in zip(by, group, strict=True)
    }


def _show_usage(one: Sum, group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": one.input_tokens,
        "input_cached_tokens": one.cached_input_tokens,
        "output_tokens": one.output_tokens,
        "num_model_requests": one.requests,
        **{name: group.get(name) for name in CompletionsUsage.groups},
    }


def _show_cost(one: Sum, group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": wire.number(one.cost_usd), "currency": "usd"},
        "line_item": group.get("model"),
        "project_id": group.get("project_id"),
        "api_key_id": group.get("api_key_id"),
        "quantity": None,
        "quantity_unit": None,
    }
