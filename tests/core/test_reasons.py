"""A reason is said once, and everything that is written down meanwhile has it."""

import threading

from core import reasons


def test_details_have_the_reason_that_was_given_as_long_as_it_holds() -> None:
    assert reasons.told({"usd": "1"}) == {"usd": "1"}
    with reasons.given("  a customer called "):
        assert reasons.told({"usd": "1"}) == {"usd": "1", "reason": "a customer called"}
        with reasons.given("another"):
            assert reasons.told(None) == {"reason": "another"}
        assert reasons.told(None) == {"reason": "a customer called"}
    assert reasons.told(None) == {}


def test_a_reason_of_before_stays_and_what_is_said_now_stands_beside_it() -> None:
    details = {"reason": "an outage"}
    with reasons.given("a second person agreed"):
        assert reasons.told(details) == {"reason": "an outage", "why": "a second person agreed"}
    with reasons.given("an outage"):
        assert reasons.told(details) == {"reason": "an outage"}
    assert details == {"reason": "an outage"}


def test_a_reason_is_cut_where_the_books_end_and_no_other_thread_has_it() -> None:
    seen = []
    with reasons.given("x" * 501):
        worker = threading.Thread(target=lambda: seen.append(reasons.told(None)))
        worker.start()
        worker.join()
        assert reasons.told(None) == {"reason": "x" * 500}
    assert seen == [{}]
