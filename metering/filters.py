"""Filters of ``GET /v1/usage``."""

from datetime import datetime
from typing import Any
from uuid import UUID

import django_filters
from django import forms
from django.db.models import QuerySet

from core import clock, errors, ids, lists
from metering import usage
from metering.models import UsageRecord

SOURCES = ("api_key", "product_call", "dev_tools")
_LAST_SECOND = 253_402_300_799  # the end of year 9999


class UnixSeconds(forms.Field):
    """Whole Unix seconds as an instant. Raises ``InvalidType`` or ``OutOfRange``."""

    def __init__(self, *, param: str, **options: Any) -> None:
        self.param = param
        super().__init__(**options)

    def to_python(self, value: Any) -> datetime | None:
        """The instant; absent is None."""
        if value in (None, ""):
            return None
        seconds = lists.integer(value, param=self.param)
        if not 0 <= seconds <= _LAST_SECOND:
            raise errors.OutOfRange(f"{self.param} must be Unix seconds.", param=self.param)
        return clock.from_unix(seconds)


class TimeFilter(django_filters.Filter):
    """A bound in Unix seconds."""

    field_class = UnixSeconds


class UsageFilter(django_filters.FilterSet):
    """Exact model, source and key; time half-open on ``created_at``; ``metadata[name]=value``."""

    model = django_filters.CharFilter(field_name="model")
    source = django_filters.CharFilter(method="by_source")
    api_key_id = django_filters.CharFilter(method="by_key")
    start_time = TimeFilter(method="from_start", param="start_time")
    end_time = TimeFilter(method="before_end", param="end_time")

    class Meta:
        model = UsageRecord
        fields = ()

    def by_source(self, records: QuerySet[UsageRecord], name: str, value: str) -> QuerySet[UsageRecord]:
        """Raises ``OutOfRange`` for a source that does not exist."""
        if value not in SOURCES:
            raise errors.OutOfRange(f"source must be one of {', '.join(SOURCES)}.", param=name)
        return records.filter(source=value)

    def by_key(self, records: QuerySet[UsageRecord], name: str, value: str) -> QuerySet[UsageRecord]:
        """A foreign key matches nothing, like a made-up one. Raises ``InvalidType`` for no key id at all."""
        try:
            key_id: UUID = ids.read("key", value)
        except ValueError as error:
            raise errors.InvalidType(f"{name} is not the id of a key.", param=name) from error
        return records.filter(api_key_id=key_id)

    def from_start(self, records: QuerySet[UsageRecord], name: str, value: datetime) -> QuerySet[UsageRecord]:
        """Inclusive."""
        return usage.created_from(records, value)

    def before_end(self, records: QuerySet[UsageRecord], name: str, value: datetime) -> QuerySet[UsageRecord]:
        """Exclusive."""
        return usage.created_before(records, value)

    def filter_queryset(self, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        """The declared filters, then those on metadata."""
        records: QuerySet[UsageRecord] = super().filter_queryset(queryset)
        wanted = {
            name[len("metadata[") : -1]: value
            for name, value in self.data.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        if any("\x00" in part for pair in wanted.items() for part in pair):
            return records.none()
        return records.filter(metadata__contains=wanted) if wanted else records
