"""Keeping secrets out of logs: a filter every handler carries."""

import logging
import re
import sys
from typing import TextIO

# Our keys (``dtk_`` + 49 base62 characters), Stripe's keys and webhook secrets.
SECRETS = re.compile(r"\b(dtk_|dtk-|sk_live_|sk_test_|rk_live_|whsec_)[A-Za-z0-9]{8,}")


def redact(text: str) -> str:
    """``text`` with every secret cut down to its prefix."""
    return SECRETS.sub(r"\1[redacted]", text)


class Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at that moment, and never says what it could not write.

    The standard handler keeps the stream it was made with, and when that is closed prints the whole
    record with its traceback, which no filter has seen.
    """

    @property
    def stream(self) -> TextIO:
        """The standard error of now."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Kept by nobody."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A log line that cannot be written must not leak, nor stop the work it was about."""


class Redact(logging.Filter):
    """Redacts the message, its arguments and any traceback or stack of a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; never drop it."""
        record.msg = redact(record.getMessage())
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        # Also what another handler has formatted before.
        record.exc_text = redact(record.exc_text) if record.exc_text else None
        record.stack_info = redact(record.stack_info) if record.stack_info else None
        return True
