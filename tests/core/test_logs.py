"""No log line holds a secret, whoever writes it and from whichever process."""

import logging
import subprocess
import sys

from core.logs import Redact

SECRET = "dtk_" + "a" * 49
WORKER = f"""
import logging, django
from core.celery import app
django.setup()
# As a worker and beat do when they start.
app.log.setup("INFO", redirect_stdouts=True)
for name in ("ops.jobs", "celery.task", "celery.app.trace"):
    logging.getLogger(name).warning("called with %s", "{SECRET}")
"""


def test_a_worker_writes_no_secret_into_its_log() -> None:
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    written = done.stdout + done.stderr
    assert written.count("called with dtk_[redacted]") == 3
    assert SECRET not in written


def test_a_traceback_that_was_formatted_before_and_a_stack_are_redacted_too() -> None:
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), None)
    record.exc_text, record.stack_info = f"KeyError: {SECRET}", f"call({SECRET!r})"
    assert Redact().filter(record)
    assert SECRET not in logging.Formatter().format(record)
