"""Why something is done: what a person gave as the reason, for whatever is written down while it is done.

A verb need not hand it on: the desk says it once (``core.admin``), and the audit trail and the questions to a second
person ask for it here.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from django import forms

F = TypeVar("F", bound=forms.BaseForm)

LENGTH_MAX = 500

_given: ContextVar[str] = ContextVar("reason", default="")


@contextmanager
def given(reason: str) -> Iterator[None]:
    """Everything inside is done for that reason."""
    before = _given.set(reason.strip()[:LENGTH_MAX])
    try:
        yield
    finally:
        _given.reset(before)


def told(details: Mapping[str, Any] | None) -> dict[str, Any]:
    """Details with the reason that was given, if one was.

    Where they hold another one, such as that of who asked first, what was said now stands beside it as ``why``.
    """
    shown, reason = dict(details or {}), _given.get()
    if reason and shown.setdefault("reason", reason) != reason:
        shown["why"] = reason
    return shown


class ReasonForm(forms.Form):
    """Why."""

    reason = forms.CharField(
        max_length=LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="It stands in the books and in the audit trail.",
    )


def asking(form: type[F]) -> type[F]:
    """A form that asks for a reason too, last."""
    fields = {"reason": copy.deepcopy(ReasonForm.base_fields["reason"])}
    metaclass: Any = type(form)
    made: type[F] = metaclass(form.__name__, (form,), fields)
    return made
