"""Model fields of the house: ids and money."""

from typing import Any

from django.db import models
from django.db.models import Q

from core import ids, money


class IdField(models.UUIDField[Any, Any]):
    """A UUIDv7 primary key that knows the prefix it is shown with."""

    def __init__(self, prefix: str = "", **options: Any) -> None:
        self.prefix = prefix
        options.setdefault("primary_key", True)
        options.setdefault("default", ids.new)
        options.setdefault("editable", False)
        super().__init__(**options)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """Keep the prefix in migrations."""
        name, path, args, options = super().deconstruct()
        return name, path, args, {"prefix": self.prefix, **options}


class UsdField(models.DecimalField[Any, Any]):
    """Exact dollars, ``NUMERIC(24,12)``."""

    def __init__(self, **options: Any) -> None:
        options["max_digits"] = money.DIGITS
        options["decimal_places"] = money.DECIMALS
        super().__init__(**options)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """The precision is the field's own, not an option."""
        name, path, args, options = super().deconstruct()
        del options["max_digits"], options["decimal_places"]
        return name, path, args, options


def within(field: str, *, low: str = "gte") -> Q:
    """The condition that keeps a money column in range: ``low`` 0 and below ``USD_MAX``.

    The upper bound also refuses NaN, which PostgreSQL sorts above every number.
    """
    return Q(**{f"{field}__{low}": 0, f"{field}__lt": money.USD_MAX})
