"""What is sent twice is taken once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection

from core import submissions
from tests.books import Books


@pytest.mark.django_db
def test_a_mark_is_taken_once_and_opens_no_session() -> None:
    one, other = submissions.mark(), submissions.mark()
    assert [submissions.take(one), submissions.take(one), submissions.take(other)] == [True, False, True]
    assert dict(SessionStore(f"once{one}").items()) == {}
    # Whoever sends none, or one of their own making, gains nothing by it.
    assert [submissions.take(""), submissions.take(""), submissions.take("x" * 99)] == [True, True, True]


def test_of_two_at_once_one_takes_it(books: Books) -> None:
    mark = submissions.mark()

    def take(_: int) -> bool:
        try:
            return submissions.take(mark)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as workers:
        assert sorted(workers.map(take, range(4))) == [False, False, False, True]
