"""Reading settings from the environment, with errors that a person can act on."""

import os
from email.utils import parseaddr
from pathlib import Path


class BadSetting(Exception):
    """A setting is missing or wrong. The message names it and says what it should look like."""


def text(name: str, default: str | None = None) -> str:
    """The value of ``name``. Raises ``BadSetting`` if it is absent and has no default."""
    value = os.environ.get(name, "").strip()
    if value:
        return value
    if default is None:
        raise BadSetting(f"{name} is not set; it has no default here.")
    return default


def integer(name: str, default: int, *, low: int, high: int) -> int:
    """A whole number within bounds. Raises ``BadSetting``."""
    value = text(name, str(default))
    try:
        number = int(value)
    except ValueError as error:
        raise BadSetting(f"{name}={value!r} is not a whole number.") from error
    if not low <= number <= high:
        raise BadSetting(f"{name}={value} is outside {low} to {high}.")
    return number


def flag(name: str, default: bool) -> bool:
    """1/true/yes/on or 0/false/no/off. Raises ``BadSetting``."""
    value = text(name, "1" if default else "0").lower()
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise BadSetting(f"{name}={value!r} is neither on nor off; use 1 or 0.")


def choice(name: str, default: str, options: tuple[str, ...]) -> str:
    """One of ``options``, in any case. Raises ``BadSetting``."""
    value = text(name, default).upper()
    if value not in options:
        raise BadSetting(f"{name}={value!r} is none of {', '.join(options)}.")
    return value


def words(name: str, default: str) -> list[str]:
    """A comma-separated list, blanks dropped."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def sender(name: str, default: str) -> str:
    """Who mails come from: an address, or a name and an address in angle brackets. Raises ``BadSetting``."""
    value = text(name, default)
    person, _, host = parseaddr(value)[1].rpartition("@")
    if not person or not host or not value.isprintable():
        raise BadSetting(f"{name}={value!r} should look like Tollbook <billing@example.com>.")
    return value


def folder(name: str, default: str) -> Path:
    """An absolute path; it need not exist yet."""
    return Path(text(name, default)).expanduser().resolve()
