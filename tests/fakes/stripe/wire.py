"""Bodies of requests: Stripe's bracketed form encoding, checked against ``stripe.params``. Part of the fake Stripe.

The check asks the SDK's own annotations, so a parameter that the pinned version does not know is refused.
"""

import sys
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import typing_extensions
from stripe._request_options import RequestOptions

from tests.fakes.stripe.errors import Invalid

# What a call's TypedDict says about the SDK and not about the wire.
_OPTIONS = frozenset(RequestOptions.__annotations__)
INT_MAX = 2**63 - 1


def decode(text: str) -> dict[str, Any]:
    """Nested dicts and lists out of ``a[b][0][c]=1&d=2``; leaves are strings. Raises ``Invalid``."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        first, *rest = name.replace("]", "").split("[")
        place = found
        keys = [first, *rest]
        for at, key in enumerate(keys[:-1]):
            place = place.setdefault(_next(place, key), {})
            if not isinstance(place, dict):
                raise Invalid(f"Invalid object: {'.'.join(keys[: at + 1])}", param=first)
        last = _next(place, keys[-1])
        if last in place:
            raise Invalid(f"Parameter given twice: {name}", param=first)
        place[last] = value
    return {key: _lists(value) for key, value in found.items()}


def _next(place: dict[str, Any], key: str) -> str:
    """``a[]`` counts on by itself."""
    return key or str(len(place))


def _lists(value: Any) -> Any:
    """Dicts whose keys are 0, 1, 2 … are lists."""
    if not isinstance(value, dict):
        return value
    inner = {key: _lists(item) for key, item in value.items()}
    if inner and list(inner) == [str(n) for n in range(len(inner))]:
        return list(inner.values())
    return inner


def check(params: Mapping[str, Any], allowed: Any) -> dict[str, Any]:
    """The parameters with their types, by the SDK's TypedDict ``allowed``. Raises ``Invalid`` as Stripe would."""
    return _struct(params, allowed, path="")


@cache
def fields(allowed: Any) -> dict[str, Any]:
    """A TypedDict's own fields and their types, forward references resolved."""
    module = vars(sys.modules[allowed.__module__])
    return {name: _resolved(hint, module) for name, hint in allowed.__annotations__.items() if name not in _OPTIONS}


def _resolved(hint: Any, module: dict[str, Any]) -> Any:
    """A type without forward references and without ``NotRequired``."""
    if isinstance(hint, typing.ForwardRef):
        hint = hint.__forward_arg__
    if isinstance(hint, str):
        hint = eval(hint, module)  # the SDK's own annotations
    origin = typing.get_origin(hint)
    if origin in {typing_extensions.NotRequired, typing.NotRequired}:
        return _resolved(typing.get_args(hint)[0], module)
    if origin in {typing.Union, types.UnionType}:
        return typing.Union[tuple(_resolved(option, module) for option in typing.get_args(hint))]  # noqa: UP007
    if origin is list:
        return list[_resolved(typing.get_args(hint)[0], module)]  # type: ignore[misc]
    return hint


def _options(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return [inner for option in typing.get_args(hint) for inner in _options(option)]
    return [hint]


def _struct(value: Mapping[str, Any], allowed: Any, *, path: str) -> dict[str, Any]:
    known = fields(allowed)
    for name in value:
        if name not in known:
            full = f"{path}[{name}]" if path else name
            raise Invalid(f"Received unknown parameter: {full}", param=full, code="parameter_unknown")
    for name in known:
        if name in allowed.__required_keys__ and name not in value:
            full = f"{path}[{name}]" if path else name
            raise Invalid(f"Missing required param: {full}.", param=full, code="parameter_missing")
    return {name: _value(item, known[name], path=f"{path}[{name}]" if path else name) for name, item in value.items()}


def _value(value: Any, hint: Any, *, path: str) -> Any:
    options = _options(hint)
    words = {word for option in options if typing.get_origin(option) is typing.Literal for word in option.__args__}
    if isinstance(value, str):
        return _leaf(value, options, words, path=path)
    for option in options:
        if typing_extensions.is_typeddict(option) or typing.is_typeddict(option):
            if isinstance(value, dict):
                return _struct(value, option, path=path)
        elif typing.get_origin(option) is list and isinstance(value, list):
            inner = typing.get_args(option)[0]
            return [_value(item, inner, path=f"{path}[{at}]") for at, item in enumerate(value)]
        elif typing.get_origin(option) is dict and isinstance(value, dict):
            return _free(value, path=path)
    raise Invalid(f"Invalid {'array' if isinstance(value, list) else 'object'}: {path}", param=path)


def _free(value: dict[str, Any], *, path: str) -> dict[str, Any]:
    """Metadata: at most 50 keys of 40 characters with values of 500."""
    for name, item in value.items():
        if not isinstance(item, str):
            raise Invalid("Metadata values must be strings", param=f"{path}[{name}]")
        if len(name) > 40 or len(item) > 500:
            raise Invalid("Metadata keys have at most 40 characters, values 500", param=f"{path}[{name}]")
    if len(value) > 50:
        raise Invalid("Metadata has at most 50 keys", param=path)
    return value


def _leaf(value: str, options: list[Any], words: set[Any], *, path: str) -> Any:
    if value in words:
        return value
    if bool in options and value in {"true", "false"}:
        return value == "true"
    if int in options and value.removeprefix("-").isdigit() and abs(int(value)) <= INT_MAX:
        return int(value)
    if words - {""}:
        listed = ", ".join(sorted(str(word) for word in words if word != ""))
        raise Invalid(f"Invalid {path}: must be one of {listed}", param=path)
    if str in options or any("Decimal" in str(option) for option in options):
        if value == "":
            raise Invalid(f"You passed an empty string for '{path}'.", param=path, code="parameter_invalid_empty")
        return value
    if int in options:
        raise Invalid(f"Invalid integer: {value}", param=path, code="parameter_invalid_integer")
    if bool in options:
        raise Invalid(f"Invalid boolean: {value}", param=path)
    raise Invalid(f"Invalid value: {path}", param=path)
