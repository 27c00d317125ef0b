"""Keeping secrets out of logs: a filter every handler carries."""

import logging
import re

# Our keys (``dtk_`` + 49 base62 characters), Stripe's keys and webhook secrets.
SECRETS = re.compile(r"\b(dtk_|dtk-|sk_live_|sk_test_|rk_live_|whsec_)[A-Za-z0-9]{8,}")


def redact(text: str) -> str:
    """``text`` with every secret cut down to its prefix."""
    return SECRETS.sub(r"\1[redacted]", text)


class Redact(logging.Filter):
    """Redacts the message, its arguments and any traceback of a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; never drop it."""
        record.msg = redact(record.getMessage())
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True
