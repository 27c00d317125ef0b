"""Holds that are placed side by side: the same as one after the other, and never the same dollar twice."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from billing import budgets, holds
from billing.budgets import Counted
from billing.models import Hold
from core.money import ZERO
from orgs.models import Organization
from tests.billing.test_holds import BY, change, held
from tests.billing.world import assert_sound, organization
from tests.books import Books

MODEL = "deepseek-chat"


def asked(owner: Organization, usd: str, *, seconds: int = 600) -> holds.Asked:
    return holds.Asked(Counted(owner.pk, None, None, None, Decimal(usd), 7), MODEL, 100, seconds)


def place(*those: holds.Asked) -> list[Decimal | None]:
    """What is available in each one's wallet afterwards; None where a closer look must decide."""
    with transaction.atomic():
        placed = holds.place_together(those)
    return [None if one is None else one.wallet.available for one in placed]


@pytest.mark.one_database
def test_each_wallet_sets_aside_what_its_own_requests_ask(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="2")
    left = place(asked(acme, "0.1"), asked(umbrella, "0.5", seconds=60), asked(acme, "0.2"))
    assert left == [Decimal("0.7"), Decimal("1.5"), Decimal("0.7")]
    assert (held(acme), held(umbrella)) == (Decimal("0.3"), Decimal("0.5"))
    made = {hold.amount_usd: hold for hold in Hold.objects.all()}
    assert {usd: (made[usd].expires_at - made[usd].created_at).total_seconds() for usd in made} == {
        Decimal("0.1"): 600, Decimal("0.2"): 600, Decimal("0.5"): 60,
    }  # fmt: skip
    assert all((one.payer_id, one.tokens, one.state) == (one.organization_id, 7, "open") for one in made.values())
    assert_sound()


@pytest.mark.one_database
def test_what_one_wallet_does_not_cover_is_left_to_a_closer_look_and_the_others_are_placed(books: Books) -> None:
    poor, rich = organization("poor", usd="0.25"), organization("rich", usd="1")
    assert place(asked(poor, "0.2"), asked(rich, "0.2"), asked(poor, "0.2")) == [None, Decimal("0.8"), None]
    assert (held(poor), held(rich), Hold.objects.count()) == (ZERO, Decimal("0.2"), 1)
    assert_sound()


@pytest.mark.one_database
def test_whatever_is_not_plain_is_left_to_a_closer_look_and_nothing_of_it_stays(books: Books) -> None:
    frozen, soft, limited = (organization(slug, usd="1") for slug in ("frozen", "soft", "limited"))
    change(frozen, frozen=True)
    change(soft, enforcement="soft")
    budgets.set_ceiling(
        organization_id=limited.pk, subject="organization", subject_id=limited.pk, window="1d", unit="usd",
        ceiling=Decimal(1), by=BY,
    )  # fmt: skip
    those = (frozen, soft, limited)
    assert place(*(asked(owner, "0.1") for owner in those)) == [None, None, None]
    assert [held(owner) for owner in those] == [ZERO, ZERO, ZERO]
    assert not Hold.objects.exists()
    assert_sound()


@pytest.mark.one_database
def test_groups_side_by_side_never_hold_the_same_dollar_twice_and_never_deadlock(books: Books) -> None:
    owners = [organization(f"org-{number}", usd="0.10") for number in range(5)]

    def group(number: int) -> Any:
        order = owners[number % 5 :] + owners[: number % 5]
        return place(*(asked(owner, "0.01") for owner in (order if number % 2 else reversed(order))))

    told = books.together([lambda number=number: group(number) for number in range(16)])  # type: ignore[misc]
    # Ten of sixteen fit into each wallet, whichever they are.
    assert sum(one is not None for answers in told for one in answers) == 50
    assert [held(owner) for owner in owners] == [Decimal("0.10")] * 5
    assert Hold.objects.count() == 50
    assert_sound()


def test_a_limit_that_is_lowered_meanwhile_holds_for_whoever_comes_after(books: Books) -> None:
    acme = organization("acme", usd="1")
    assert place(asked(acme, "0.6")) == [Decimal("0.4")]
    change(acme, credit_limit_usd=Decimal("0.3"))
    assert place(asked(acme, "0.7")) == [Decimal("0")]
    assert place(asked(acme, "0.000000000001")) == [None]
