"""One organization's flood, and what the others see of it."""

import time

import pytest

from gateway import groups, plane
from tests import doors
from tests.books import Books
from tests.journeys import neighbours
from tests.orgs import world
from tests.proofs import proves

WAITING_MAX = 40
FLOOD = 60
SECONDS = 20


@proves("A17", guard="nobody_fills_the_queue_for_the_others")
def test_whoever_sends_more_than_can_be_written_is_told_to_wait_and_the_others_go_on(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WAITING_MAX", WAITING_MAX)
    with doors.plane_door():
        answered: list[int] = []
        loud, quiet = neighbours.house("loud-inc"), neighbours.house("quiet-inc")

        def flood(number: int) -> tuple[str, int]:
            status = loud.gateway.post(neighbours.EVENTS, neighbours.event(f"loud-{number}")).status_code
            answered.append(status)
            return "loud", status

        def go_on() -> tuple[str, int]:
            # The others are all there, each read and refused or waiting.
            end, door = time.monotonic() + SECONDS, plane._events
            while len(answered) + door.jobs < FLOOD or door._arrived or door._reads:
                assert time.monotonic() < end
                time.sleep(0.005)
            statuses = {
                quiet.gateway.post(neighbours.EVENTS, neighbours.event(f"quiet-{number}")).status_code
                for number in range(20)
            }
            return "quiet", statuses.pop() if len(statuses) == 1 else max(statuses)

        with books.connect() as raw, raw.transaction():
            # Nothing of theirs can be written meanwhile.
            raw.execute("SELECT 1 FROM wallet WHERE organization_id = %s FOR UPDATE", [loud.organization.pk])
            told = books.together([*(lambda number=number: flood(number) for number in range(FLOOD)), go_on])
        assert told[-1] == ("quiet", 201)
        refused = sum(status == 503 for who, status in told if who == "loud")
        assert refused >= FLOOD - WAITING_MAX // 2
        assert {status for _, status in told} <= {201, 503}
        # And there is room again.
        assert flood(FLOOD) == ("loud", 201)


def test_a_wallet_that_is_locked_keeps_nobody_waiting_who_came_by_the_same_gateway(books: Books) -> None:
    with doors.plane_door():
        stuck, quiet = neighbours.house("stuck-inc"), neighbours.house("quiet-inc")
        gateway = neighbours.Caller("gateway", world.service_key("events:write", "authorizations:write").secret)
        answered: list[int] = []

        def wait(number: int) -> None:
            body = neighbours.event(f"stuck-{number}", organization=stuck.slug)
            answered.append(gateway.post(neighbours.EVENTS, body).status_code)

        def go_on() -> None:
            for number in range(10):
                body = neighbours.event(f"quiet-{number}", organization=quiet.slug)
                assert gateway.post(neighbours.EVENTS, body).status_code == 201
                asked = gateway.post(neighbours.AUTHORIZATIONS, neighbours.authorization(quiet))
                assert asked.status_code == 201, asked.content
            # Each of theirs waits for its wallet three times as long as a lock is waited for.
            assert answered == []

        with books.connect() as raw, raw.transaction():
            raw.execute("SELECT 1 FROM wallet WHERE organization_id = %s FOR UPDATE", [stuck.organization.pk])
            books.together([*(lambda number=number: wait(number) for number in range(10)), go_on])
        assert set(answered) <= {201, 503}
