"""Keys of calls: who has one, and for how long."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import transaction

from core import errors
from gateway import replays
from gateway.models import CallKey
from gateway.replays import Keyed
from tests.billing.world import rows
from tests.books import Books

OWNER, HOLD = UUID(int=1), UUID(int=2)


def keyed(key: str = "once", story: bytes = b"s" * 32) -> Keyed:
    return Keyed(OWNER, key, story, "chatcmpl-1")


def enter(call: Keyed) -> None:
    with transaction.atomic():
        replays.enter(call)
        replays.keep(call, hold_id=HOLD)


def test_a_key_stands_for_one_request(books: Books) -> None:
    enter(keyed())
    enter(keyed("another"))
    with pytest.raises(errors.ReplayUnavailable, match="is not known"):
        enter(keyed())
    with pytest.raises(errors.IdempotencyKeyReused):
        enter(keyed(story=b"t" * 32))
    assert CallKey.objects.count() == 2


def test_while_one_begins_another_is_told_to_come_again(books: Books) -> None:
    with books.connect() as rival, rival.transaction():
        rival.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [replays.ADVISORY_CLASS, f"{OWNER}\nonce"])
        with pytest.raises(errors.IdempotencyKeyInUse):
            enter(keyed())
    enter(keyed())


def test_keys_are_forgotten_after_a_day(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "TRIM_ROWS", 2)
    for number in range(5):
        enter(keyed(f"k{number}"))
    rows("UPDATE call_key SET created_at = created_at - interval '25 hours' WHERE key <> 'k4'")
    assert replays.trim() == 4
    assert [one.key for one in CallKey.objects.all()] == ["k4"]
    assert timedelta(hours=24) == replays.LIFE


def test_a_story_is_the_place_the_payer_and_the_body() -> None:
    first = replays.fingerprint(endpoint="/a", slug="x", digest=b"d")
    assert first == replays.fingerprint(endpoint="/a", slug="x", digest=b"d")
    others = [("/b", "x", b"d"), ("/a", "y", b"d"), ("/a", "x", b"e")]
    assert first not in {replays.fingerprint(endpoint=one, slug=two, digest=three) for one, two, three in others}
