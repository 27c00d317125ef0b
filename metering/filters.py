"""Filters of ``GET /v1/usage``: what its query asks for, read without a database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from core import errors, ids, lists

SOURCES = ("api_key", "product_call", "dev_tools")
# As a key, project or member: the records that have none.
NONE = UUID(int=0)
_LAST_SECOND = 253_402_300_799  # the end of year 9999
_METADATA = "metadata["

Params = Mapping[str, Sequence[str]]


class Filters(NamedTuple):
    """Exact model, source and key; time half-open on ``created_at``; pairs that ``metadata`` must hold.

    ``project_id`` and ``member_id`` are asked for on pages, not by the API. Any of the three ids may be ``NONE``.
    """

    model: str | None = None
    source: str | None = None
    api_key_id: UUID | None = None
    start: datetime | None = None
    end: datetime | None = None
    metadata: Mapping[str, str] | None = None
    project_id: UUID | None = None
    member_id: UUID | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no record can match: text in the database holds no NUL."""
        return any("\x00" in part for pair in (self.metadata or {}).items() for part in pair)


def read(params: Params) -> Filters:
    """The filters in a query. Empty is absent, unknown parameters are ignored, the last of several counts.

    Raises ``InvalidType`` or ``OutOfRange`` naming the parameter.
    """
    start, end = (
        lists.instant(lists.last(params, name), param=name, most=_LAST_SECOND) for name in ("start_time", "end_time")
    )
    model, source, key = (_text(params, name) for name in ("model", "source", "api_key_id"))
    if source is not None and source not in SOURCES:
        raise errors.OutOfRange(f"source must be one of {', '.join(SOURCES)}.", param="source")
    try:
        key_id = None if key is None else ids.read("key", key)
    except ValueError as error:
        raise errors.InvalidType("api_key_id is not the id of a key.", param="api_key_id") from error
    metadata = {
        name[len(_METADATA) : -1]: values[-1]
        for name, values in params.items()
        if name.startswith(_METADATA) and name.endswith("]")
    }
    return Filters(model, source, key_id, start, end, metadata or None)


def _text(params: Params, name: str) -> str | None:
    """A parameter's text without white space around it. Raises ``OutOfRange`` for a NUL in it."""
    text = (lists.last(params, name) or "").strip()
    if "\x00" in text:
        raise errors.OutOfRange(f"{name} is not valid.", param=name)
    return text or None
