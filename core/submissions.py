"""Forms that are sent twice are taken once, by a double click, a second try or the way back.

A page that asks carries a mark of its own, and the first to bring it back takes it. Marks are kept beside the sessions,
in Django's own table, and are cleared away like them; none opens a session, for there is nothing in it.

The only module that writes ``Session`` by itself; all others are written by Django where people sign in.
"""

import re
import secrets
from datetime import timedelta

from django.contrib.sessions.models import Session

from core import clock

FIELD = "once"
KEPT = timedelta(days=1)

_MARK = re.compile(r"[0-9a-f]{32}", re.ASCII)


def mark() -> str:
    """A mark for a page."""
    return secrets.token_hex(16)


def take(told: str) -> bool:
    """Whether a form with this mark was not sent before. One without a mark is taken each time."""
    if not _MARK.fullmatch(told):
        return True
    row = {"session_data": "", "expire_date": clock.now() + KEPT}
    return Session.objects.get_or_create(session_key=f"once{told}", defaults=row)[1]
