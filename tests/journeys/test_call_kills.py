"""A process that makes a model call dies before each thing that it says to the database, from its hold to its charge.

After each death the call is sent again under its key. Nobody is asked twice or pays twice, nothing stays set aside,
and a call whose provider may have been paid without a record is told to finance.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from billing import holds
from billing.models import Hold, Wallet
from gateway import outcomes
from gateway.models import CallKey, UnknownOutcome
from tests.billing.world import rows
from tests.books import Books
from tests.fakes.upstream import Act, Upstream
from tests.gateway import callers
from tests.gateway.callers import HELLO, House
from tests.journeys.traffic import verify
from tests.nursery import Ended, Nursery

# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 millionths of a dollar.
COST = Decimal("0.000362")
# What is said from the hold's transaction to the charge's commit, and some of what is asked before it.
WORDS = 24


@pytest.fixture
def fake() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.then(Act())
        yield upstream


def lose() -> int:
    """Let what is still set aside run out; how many calls finance is told of."""
    rows("UPDATE hold SET expires_at = created_at WHERE state = 'open' AND placed_by IS NULL")
    holds.expire_due()
    return outcomes.note_lost()


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.soak)])
def test_a_process_that_dies_anywhere_in_a_call_leaves_no_second_call_and_no_leak(
    books: Books, nursery: Nursery, fake: Upstream, step: int
) -> None:
    callers.channel(fake)
    acme = callers.house()
    secret = acme.keys["organization"].secret

    def call(key: str, **dies: Any) -> Ended:
        return nursery.run("tests.gateway.callers:alone", secret=secret, body=HELLO, key=key, seconds=60, **dies)

    whole = call("whole")
    assert (whole.result, whole.error) == ([200, None], "")
    deaths: list[dict[str, Any]] = [
        {"dies_before_word": word} for word in range(whole.words - WORDS, whole.words + 1, step)
    ]
    seen = set()
    for number, dies in enumerate([*deaths, {"dies_at": "charge.after_commit"}]):
        key = f"dies-{number}"
        asked, charged = len(fake.bodies), len(acme.records)
        assert call(key, **dies).died, dies
        asked, charged = len(fake.bodies) - asked, len(acme.records) - charged
        held = Hold.objects.filter(state="open").count()
        seen.add((asked, held, charged))
        # Whoever sends it again learns what is known, and nobody is asked once more who has been.
        before = len(fake.bodies)
        status, code = call(key).result
        if asked:
            assert (status, code) == (409, "replay_unavailable" if charged else "idempotency_key_in_use"), dies
            assert len(fake.bodies) == before
        else:
            assert (status, held, charged) == (200, 0, 0), dies
        assert lose() == held, dies
        _is_right(acme)
    # Dead before the hold was there, with the provider paid and nothing written, and with all written and nobody told.
    assert seen == {(0, 0, 0), (1, 1, 0), (1, 0, 1)}
    assert UnknownOutcome.objects.count() == Hold.objects.filter(state="expired").count() > 0
    assert CallKey.objects.count() == Hold.objects.count()
    verify()


def _is_right(acme: House) -> None:
    """Every record is paid, nothing else is, and nothing is set aside."""
    wallet = Wallet.objects.get(pk=acme.organization.pk)
    assert (wallet.spent_usd, wallet.held_usd) == (len(acme.records) * COST, 0)
    assert Hold.objects.filter(state="captured").count() == len(acme.records)
