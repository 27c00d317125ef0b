"""The product's Celery application with a task that is in the middle of something for a long time."""

import os
import time
from pathlib import Path

from core.celery import app


@app.task(name="tests.core.busy.wait")
def wait() -> None:
    """Note who works on it, then take a minute."""
    from django.conf import settings

    note = Path(settings.DATA_DIR) / "busy"
    note.with_suffix(".new").write_text(str(os.getpid()))
    note.with_suffix(".new").rename(note)
    time.sleep(60)
