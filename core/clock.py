"""The one clock.

Every module that needs the present asks here, so a test moves time in one place. What must
agree between processes (ids, holds' ends, ``recorded_at``) takes the database's clock instead.
"""

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return datetime.now(UTC)


def from_unix(seconds: int) -> datetime:
    """The instant of whole Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def to_unix(at: datetime) -> int:
    """Whole Unix seconds of an aware instant, rounded down."""
    return int((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() // 1)
