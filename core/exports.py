"""Lists of the desk as CSV: every column of the rows that are listed, searched and filtered as on the page.

``import_export`` says which columns a row has and reads them; how a cell is spelled, and that no spreadsheet runs it,
is said here and in ``core.lists``. Secrets have no column. What is exported is bounded: it is made in memory.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.db import models
from django.http import HttpRequest, HttpResponse

from core import ids, lists, money
from core.fields import IdField

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

    _Base = ModelAdmin[Any]
else:
    from import_export.admin import ExportMixin as _Base

from import_export.formats.base_formats import CSV
from import_export.resources import ModelResource, modelresource_factory

ROWS_MAX: Final = 50_000
TRUNCATED: Final = f"Only the first {ROWS_MAX} rows are here; search or filter for the others."
# Columns whose names begin or end so hold what proves or opens something.
_SECRET: Final = ("password", "secret", "sealed", "digest", "token", "session", "seed")


class Rows(ModelResource):  # type: ignore[misc] # the library has no types
    """Rows with their ids as customers see them, times in RFC 3339 and UTC, amounts in plain digits."""

    def export_field(self, field: Any, instance: Any, **options: Any) -> str:
        """A cell."""
        column = instance._meta.get_field(field.attribute)
        return spelled(column, getattr(instance, column.attname))


def shown(column: models.Field[Any, Any]) -> bool:
    """Whether a column may leave the house in a file."""
    told = column.name.split("_")
    return not isinstance(column, models.BinaryField) and not {told[0], told[-1]} & set(_SECRET)


def spelled(column: models.Field[Any, Any], value: object) -> str:
    """A value as text; ``value`` is what the column itself holds, not the row it refers to."""
    refers = column.target_field if isinstance(column, models.ForeignKey) else column
    if value is None:
        return ""
    if isinstance(refers, IdField):
        return ids.show(refers.prefix, value)  # type: ignore[arg-type]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):
        return money.plain(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


class SafeCsv(CSV):  # type: ignore[misc] # the library has no types
    """CSV of which a spreadsheet runs nothing (A12)."""

    def export_data(self, dataset: Any, **options: Any) -> str:
        """The file, with a last line that says so if it does not go to the end."""
        rows: Iterable[Any] = dataset
        return lists.csv_text(dataset.headers, rows, more=TRUNCATED if len(dataset) >= ROWS_MAX else "")


class ExportedAdmin(_Base):
    """Lists with an export of what they list."""

    import_export_change_list_template = None
    resource_classes: ClassVar[list[type[ModelResource]]] = []
    # The library's page to choose columns on has scripts in it, which the pages' policy forbids.
    skip_export_form = True

    def get_export_resource_classes(self, request: HttpRequest) -> list[type[ModelResource]]:
        """All columns that may be shown."""
        columns = [column.name for column in self.model._meta.concrete_fields if shown(column)]
        made = modelresource_factory(self.model, resource_class=Rows, meta_options={"fields": columns})
        return [made]

    def get_export_formats(self) -> list[type[CSV]]:
        """CSV."""
        return [SafeCsv]

    def get_export_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """The first ``ROWS_MAX`` rows of the list."""
        rows: models.QuerySet[Any] = super().get_export_queryset(request)  # type: ignore[misc]
        return rows.select_related(None)[:ROWS_MAX]

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Whoever may see the list."""
        return self.has_view_permission(request)

    def export_action(self, request: HttpRequest) -> HttpResponse:
        """The file."""
        answer: HttpResponse = super().export_action(request)  # type: ignore[misc]
        answer["Cache-Control"] = "no-store, private"
        return answer
