"""Books to corrupt, made once a run."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.billing import history
from tests.billing.invariants import fortunes
from tests.books import Books
from tests.database import Server


@pytest.fixture(scope="session")
def furnished(database_server: Server, template: str, django_db_blocker: Any) -> Iterator[Server]:
    """Books in which everything has happened, to be copied."""
    with django_db_blocker.unblock(), history.template(database_server, fortunes.happen) as made:
        yield made


@pytest.fixture
def past(furnished: Server, django_db_blocker: Any) -> Iterator[Books]:
    """A copy of them, the test's own."""
    with django_db_blocker.unblock(), history.opened(furnished) as own:
        yield own
