"""Killed with five hundred streams open: every hold ends, finance is told, the books are clean."""

import os
from pathlib import Path

import pytest

from billing import holds
from billing.models import Hold, Wallet
from gateway import outcomes
from gateway.models import UnknownOutcome
from tests.billing.world import rows
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.gateway import callers
from tests.journeys.test_chat import listening
from tests.journeys.traffic import verify
from tests.server import running

STREAMS = int(os.environ.get("SOAK_STREAMS") or 500)

pytestmark = pytest.mark.soak


def test_killed_with_five_hundred_streams_open_every_hold_ends(books: Books, tmp_path: Path) -> None:
    with Upstream(keep=False) as fake:
        fake.then(Act(words=["Two "] * 3, fault="stall", at=1))
        callers.channel(fake)
        acme = callers.house()
        before = len(acme.records)
        with running(folder=tmp_path, url=books.url) as web:
            opened = listening(web, acme.keys["organization"].secret, STREAMS)
            assert Hold.objects.filter(state="open", placed_by=None).count() == STREAMS
            web.kill9()
            for answer in opened:
                answer.close()
            rows("UPDATE hold SET expires_at = created_at WHERE state = 'open' AND placed_by IS NULL")
            assert holds.expire_due() == STREAMS
            noted = 0
            while more := outcomes.note_lost():
                noted += more
            assert noted == UnknownOutcome.objects.count() == STREAMS
            assert Wallet.objects.get(pk=acme.organization.pk).held_usd == 0
            assert len(acme.records) == before
            web.restart()
        verify()
