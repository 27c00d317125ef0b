"""The desk's page of the checks of the books."""

import pytest

from billing import tasks, verification
from billing.models import CheckRun
from tests import desk
from tests.billing.corruption import corrupt
from tests.billing.test_verification import kept
from tests.billing.world import charge, organization
from tests.books import Books
from tests.metering.world import event


def test_the_desk_shows_what_each_check_last_found_and_what_is_broken_first(books: Books) -> None:
    charge(organization("acme", usd="1"), event())
    corrupt(books, "UPDATE wallet SET spent_usd = 9 RETURNING 1")
    with pytest.raises(verification.Broken):
        tasks.verify()
    client = desk.superuser()
    page = desk.read(client, desk.listing(CheckRun))
    # That the table is there shows the right order; of the words, those of the first line.
    assert [row.name.split()[0] for row in page.rows] == ["V01", *(name for name in kept() if name != "V01")]
    (first,) = [line for line in desk.cells(page.text) if "V01 wallet = transfers" in line]
    place = first.index("V01 wallet = transfers")
    assert first[place + 2] == "1"
    assert first[place + 3].startswith("1 broken: wallet ")
    assert first[place + 4] == "everything"
    (row,) = CheckRun.objects.filter(ok=False)
    assert row.detail in desk.read(client, desk.page(row)).text
    assert len(page.queries) <= 8
