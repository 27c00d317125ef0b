"""Holds: money set aside before a request, and each of them ended once, whatever comes."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import Error, connection, transaction

from billing import budgets, grants, holds, tasks, wallets
from billing.budgets import Counted
from billing.explain import explain
from billing.ledger import Terms
from billing.models import Budget, Hold
from billing.serializers import show_explanation
from core import clock, errors, ids
from core.wire import number
from metering.attribution import Attributed
from metering.models import UsageRecord
from metering.verdicts import Status
from ops.models import JobRun
from orgs import organizations
from orgs.audit import system
from orgs.models import Organization
from tests.billing.test_grants import give
from tests.billing.world import (
    Standing,
    assert_all,
    assert_sound,
    conflicts,
    counts,
    organization,
    part_of,
    record,
    rows,
    side_by_side,
    standing,
    statuses,
)
from tests.books import Books
from tests.metering.world import COST, MODEL, attributed, event
from tests.proofs import proves

BY = system("tests")
USD, ZERO, PICO = Decimal(COST), Decimal(0), Decimal(1).scaleb(-12)
State = Hold.State


def place(owner: Organization, usd: str | int | Decimal = USD, *, model: str = MODEL, **more: Any) -> Hold:
    """A hold in a transaction of its own."""
    asked = holds.Asked(
        Counted(
            owner.pk, more.get("project"), more.get("member"), more.get("key"), Decimal(usd), more.get("tokens", 0)
        ),
        model,
        100,
        more.get("seconds", 600),
        more.get("fallback"),
        sees_wallet=more.get("sees", False),
    )
    with transaction.atomic():
        return holds.place(asked).hold


def release(of: Hold) -> Hold:
    """Give a hold up in a transaction of its own."""
    with transaction.atomic():
        return holds.release(organization_id=of.organization_id, hold_id=of.id)


def usage_of(hold: Hold, *, of: UUID | None = None, **fields: Any) -> Attributed:
    """An event that names a hold; it costs ``USD`` unless its fields say otherwise."""
    (item,) = attributed(of or hold.organization_id, event(**fields))
    return item._replace(authorization_id=hold.id)


def held(owner: Organization) -> Decimal:
    """What a wallet has set aside."""
    return Decimal(rows("SELECT held_usd FROM wallet WHERE organization_id = %s", owner.pk)[0][0])


def stands(hold: Hold) -> Hold:
    """A hold as it stands in the books."""
    return Hold.objects.get(pk=hold.pk)


def overdue(hold: Hold, by: str = "1 second") -> None:
    """Let a hold's end have passed."""
    rows("UPDATE hold SET expires_at = clock_timestamp() - %s::interval WHERE id = %s", by, hold.pk)


def change(owner: Organization, **terms: Any) -> None:
    """Change a wallet's terms."""
    wallets.change_terms(organization_id=owner.pk, terms=Terms(**terms), reason="asked", by=BY)


# Placing


def test_a_hold_lowers_what_is_available_and_not_the_balance(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = place(acme, "0.4", tokens=5)
    assert held(acme) == Decimal("0.4")
    state = wallets.state(acme.pk)
    assert (state.balance_usd, state.held_usd, state.available_usd) == (1, Decimal("0.4"), Decimal("0.6"))
    assert standing(acme) == Standing(Decimal(1), ZERO, ZERO, 1)
    found = stands(made)
    assert (found.organization_id, found.payer_id, found.model, found.amount_usd, found.tokens) == (
        acme.pk, acme.pk, MODEL, Decimal("0.4"), 5,
    )  # fmt: skip
    assert (found.state, found.settled_at, found.record_id, found.max_output_tokens) == (State.OPEN, None, None, 100)
    assert found.expires_at - found.created_at == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=1))
    assert_sound()


def test_what_place_returns_is_what_stands_in_the_books(books: Books) -> None:
    acme = organization("acme", usd="1")
    budgets.set_ceiling(
        organization_id=acme.pk, subject="organization", subject_id=acme.pk, window="1d", unit="usd",
        ceiling=Decimal(1), by=BY,
    )  # fmt: skip
    for made in (place(acme, "0.1"), place(acme, "0.2", key=ids.new(), member=ids.new(), project=ids.new())):
        names = [field.attname for field in Hold._meta.get_fields()]  # type: ignore[union-attr]
        assert {name: getattr(made, name) for name in names} == {name: getattr(stands(made), name) for name in names}


def test_the_last_dollar_can_be_held_and_not_a_pico_more(books: Books) -> None:
    acme = organization("acme", usd="1")
    place(acme, "0.25")
    with pytest.raises(errors.OrgWalletEmpty, match="does not cover"):
        place(acme, Decimal("0.75") + PICO)
    place(acme, "0.75")
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, PICO)
    assert held(acme) == 1
    assert Hold.objects.count() == 2


def test_an_empty_wallet_is_refused_in_its_owners_words(books: Books) -> None:
    person = organizations.ensure_user("ada@example.com", by=BY)
    own = Organization.objects.get(personal_of=person)
    with pytest.raises(errors.InsufficientQuota) as caught:
        place(own)
    assert (caught.value.status, caught.value.code) == (402, "insufficient_quota")
    with pytest.raises(errors.OrgWalletEmpty) as told:
        place(organization("acme"))
    assert (told.value.status, told.value.code) == (402, "org_wallet_empty")
    assert Hold.objects.count() == 0


@pytest.mark.parametrize(
    ("sees", "said"),
    [
        (True, "acme does not cover this request, which may cost up to 0.35 USD: 0.3 USD is available."),
        (False, "acme does not cover this request, which may cost up to 0.35 USD."),
    ],
)
def test_a_refusal_says_what_was_needed_and_what_there_is_to_who_may_know(db: None, sees: bool, said: str) -> None:
    acme = organization("acme", usd="1")
    place(acme, "0.7")
    with pytest.raises(errors.OrgWalletEmpty) as refused:
        place(acme, "0.35", sees=sees)
    assert str(refused.value) == f"The wallet of organization {said}"


def test_what_is_owed_is_nothing_that_is_available(db: None) -> None:
    acme = organization("acme", usd="0.0001")
    assert_all(record([usage_of(place(acme, "0.0001"))]), Status.CREATED)
    with pytest.raises(errors.OrgWalletEmpty, match=r"may cost up to 0\.2 USD: 0 USD is available\.$"):
        place(acme, "0.2", sees=True)


def test_credit_can_be_held_down_to_its_limit(books: Books) -> None:
    acme = organization("acme", usd="1")
    change(acme, credit_limit_usd=Decimal(2))
    place(acme, "3")
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, PICO)


def test_a_frozen_wallet_holds_nothing_whatever_its_enforcement(books: Books) -> None:
    acme = organization("acme", usd="1")
    for enforcement in ("strict", "soft", "off"):
        change(acme, enforcement=enforcement)
        wallets.freeze(organization_id=acme.pk, reason="asked", by=BY)
        with pytest.raises(errors.OrgWalletEmpty, match="frozen"):
            place(acme)
        wallets.unfreeze(organization_id=acme.pk, reason="asked", by=BY)
        place(acme)


def test_overdraft_beyond_its_limit_blocks_the_next_hold(books: Books) -> None:
    acme = organization("acme", usd="0.0003")
    change(acme, credit_limit_usd=Decimal("0.0001"))
    assert_all(record([usage_of(place(acme, "0.0003"))]), Status.CREATED)
    # 0.000062 are owed, within the limit, and 0.000038 left to hold.
    place(acme, "0.000038")
    change(acme, credit_limit_usd=Decimal("0.00006"))
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, ZERO)


def test_what_is_free_is_held_at_nothing_where_nothing_is_left(books: Books) -> None:
    acme = organization("acme", usd="1")
    place(acme, 1)
    assert place(acme, ZERO).amount_usd == 0
    # More is promised than there is, which is no reason to refuse what costs nothing.
    rows("UPDATE wallet SET held_usd = 2")
    assert place(acme, ZERO).amount_usd == 0
    change(acme, enforcement="soft")
    assert place(organization("umbrella"), ZERO).amount_usd == 0


def test_soft_lets_pass_what_the_balance_does_not_cover_while_it_is_above_its_floor(books: Books) -> None:
    acme = organization("acme", usd="0.0001")
    change(acme, enforcement="soft")
    made = [place(acme, 1), place(acme, 1)]
    assert held(acme) == 2
    # Usage takes the balance below zero, and then nothing passes.
    assert_all(record([usage_of(made[0])]), Status.CREATED)
    assert held(acme) == 1
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, PICO)
    change(acme, credit_limit_usd=Decimal(1))
    place(acme, 5)


def test_off_holds_nothing_and_refuses_nothing(books: Books) -> None:
    acme = organization("acme")
    change(acme, enforcement="off")
    made = place(acme, 1000)
    assert (made.amount_usd, stands(made).amount_usd, held(acme)) == (0, 0, 0)
    assert_all(record([usage_of(made)]), Status.CREATED)
    assert stands(made).state == State.CAPTURED


# Credit of limited scope and time


def test_credit_for_certain_models_is_held_for_those_only(books: Books) -> None:
    acme = organization("acme")
    give(acme, 1, "scoped", models=("gpt-4o",))
    with pytest.raises(errors.OrgWalletEmpty, match=r": 1 USD is available, not all of it for this request\.$"):
        place(acme, PICO, sees=True)
    place(acme, "0.6", model="gpt-4o")
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, Decimal("0.4") + PICO, model="gpt-4o")
    place(acme, "0.4", model="gpt-4o")


def test_what_is_promised_already_takes_its_part_of_scoped_credit_first(books: Books) -> None:
    acme = organization("acme")
    give(acme, 1, "scoped", models=("gpt-4o",))
    give(acme, 1, "any")
    # Of the two dollars, the one for any model is promised to another; gpt-4o still has its own.
    place(acme, 1)
    place(acme, 1, model="gpt-4o")
    for model in (MODEL, "gpt-4o"):
        with pytest.raises(errors.OrgWalletEmpty):
            place(acme, PICO, model=model)
    assert_sound()


def test_credit_that_ends_before_the_hold_does_covers_nothing_of_it(books: Books) -> None:
    acme = organization("acme")
    give(acme, 1, "ending", expires_at=clock.now() + timedelta(seconds=300))
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, "0.5", seconds=600)
    place(acme, "0.5", seconds=200)
    give(acme, "0.25", "lasting")
    # What is promised counts against what lasts too: nobody knows which is captured first.
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, "0.25", seconds=600)
    place(acme, "0.75", seconds=200)


def test_credit_that_has_ended_is_gone_before_anything_is_held(books: Books) -> None:
    acme = organization("acme")
    give(acme, 1, "ending", expires_at=clock.now() + timedelta(hours=1))
    rows("UPDATE credit_grant SET effective_at = now() - interval '2 hours', expires_at = now() - interval '1 second'")
    rows("UPDATE wallet SET next_change = now() - interval '1 second'")
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, PICO)
    assert grants.settle_due() == 1
    assert standing(acme)[:2] == (ZERO, ZERO)
    assert_sound()


# The personal wallet


@pytest.mark.one_database
def test_in_fallback_mode_the_personal_wallet_holds_and_pays(books: Books) -> None:
    acme, own = organization("acme", usd="0.0001"), organization(f"personal-{ids.new()}", usd="1")
    change(acme, mode="fallback")
    first = place(acme, "0.0001", fallback=own.pk)
    second = place(acme, "0.0002", fallback=own.pk)
    assert (first.payer_id, second.payer_id) == (acme.pk, own.pk)
    assert (held(acme), held(own)) == (Decimal("0.0001"), Decimal("0.0002"))
    # The payer was chosen when the money was set aside, and the record says so.
    items = [usage_of(made)._replace(fallback_id=own.pk) for made in (second, first)]
    assert_all(record(items), Status.CREATED)
    payers = UsageRecord.objects.order_by("id").values_list("payer_id", "organization_id", "cost_usd")
    assert list(payers) == [(own.pk, acme.pk, USD), (acme.pk, acme.pk, USD)]
    assert (held(acme), held(own)) == (0, 0)
    assert standing(own)[:3] == (1 - USD, ZERO, USD)
    assert standing(acme)[:3] == (ZERO, USD - Decimal("0.0001"), USD)
    assert_sound()


@pytest.mark.one_database
def test_fallback_counts_against_the_organizations_ceilings_and_frees_them(books: Books) -> None:
    acme, own = organization("acme"), organization("own", usd="1")
    change(acme, mode="fallback")
    ceiling = budgets.set_ceiling(
        organization_id=acme.pk, subject="organization", subject_id=acme.pk, window="1d", unit="usd",
        ceiling=Decimal("0.5"), by=BY,
    )  # fmt: skip
    made = place(acme, "0.5", fallback=own.pk)
    with pytest.raises(errors.BudgetExceeded):
        place(acme, PICO, fallback=own.pk)
    assert Budget.objects.get(pk=ceiling.pk).held == Decimal("0.5")
    release(made)
    assert (Budget.objects.get(pk=ceiling.pk).held, held(own)) == (0, 0)


@pytest.mark.one_database
def test_where_neither_wallet_covers_it_the_caller_is_told_of_theirs(books: Books) -> None:
    acme, own = organization("acme", usd="1"), organization("own", usd="1")
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, 2, fallback=own.pk)
    change(acme, mode="fallback")
    with pytest.raises(errors.InsufficientQuota) as caught:
        place(acme, 2, fallback=own.pk, sees=True)
    assert caught.value.code == "insufficient_quota"
    assert str(caught.value) == (
        "The wallet of organization acme does not cover this request, which may cost up to 2 USD: 1 USD is available."
        " The caller's own wallet does not cover it either."
    )
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, 2)


# Ending


@pytest.mark.parametrize(("amount", "left"), [("0.001", "0.999638"), (COST, "0.999638"), ("0.0001", "0.999638")])
def test_the_event_is_charged_what_it_cost_whatever_was_held(books: Books, amount: str, left: str) -> None:
    acme = organization("acme", usd="1")
    made, other = place(acme, amount), place(acme, "0.5")
    (verdict,) = record([usage_of(made)])
    assert (verdict.status, verdict.cost_usd) == (Status.CREATED, USD)
    assert standing(acme)[:3] == (Decimal(left), ZERO, USD)
    assert held(acme) == Decimal("0.5")
    found = stands(made)
    assert (found.state, found.record_id, found.amount_usd) == (State.CAPTURED, verdict.record_id, Decimal(amount))
    assert found.settled_at is not None
    assert stands(other).state == State.OPEN
    assert UsageRecord.objects.get().authorization_id == made.id
    assert_sound()


def test_what_a_hold_did_not_cover_comes_from_the_rest_and_then_from_overdraft(books: Books) -> None:
    acme = organization("acme", usd=str(USD))
    assert_all(record([usage_of(place(acme, "0.0001"))]), Status.CREATED)
    assert standing(acme)[:3] == (ZERO, ZERO, USD)
    # Money promised to another is no shelter for it: usage is charged from all there is.
    give(acme, USD, "more")
    other = place(acme, USD)
    assert_all(record([usage_of(other), *attributed(acme, event(), place=1)]), Status.CREATED)
    assert standing(acme)[:3] == (ZERO, USD, 3 * USD)
    assert held(acme) == 0
    assert_sound()


def test_a_second_event_of_a_hold_is_charged_and_ends_nothing(books: Books) -> None:
    acme = organization("acme", usd="1")
    made, other = place(acme, "0.1"), place(acme, "0.2")
    # In one batch, and once more later.
    first, second = record([usage_of(made), usage_of(made)._replace(place=1)])
    assert_all([first, second, *record([usage_of(made)])], Status.CREATED)
    assert stands(made).record_id == first.record_id
    assert (held(acme), standing(acme).spent) == (Decimal("0.2"), 3 * USD)
    assert stands(other).state == State.OPEN
    assert set(UsageRecord.objects.values_list("authorization_id", flat=True)) == {made.id}
    assert_sound()


def test_a_hold_that_is_not_this_organizations_is_left_alone(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    theirs = place(umbrella, "0.1")
    assert_all(record([usage_of(theirs, of=acme.pk)]), Status.CREATED)
    assert (stands(theirs).state, held(umbrella), held(acme)) == (State.OPEN, Decimal("0.1"), 0)
    assert (standing(acme).spent, standing(umbrella).spent) == (USD, 0)
    assert_sound()


def test_an_explanation_says_which_authorization_was_named_and_whether_this_settled_it(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    made, given_up, theirs = place(acme, "0.1"), place(acme, "0.2"), place(umbrella, "0.3")
    release(given_up)
    record([usage_of(made), usage_of(made)._replace(place=1)])
    record([usage_of(given_up)])
    record([usage_of(theirs, of=acme.pk)])
    record(attributed(acme, event()))
    told = [show_explanation(explain(each))["authorization"] for each in UsageRecord.objects.order_by("id")]
    spare = number(Decimal("0.2"))
    captured = {"id": ids.show("auth", made.pk), "status": "captured", "amount_usd": number(Decimal("0.1"))}
    assert told == [
        {**captured, "settled": True},
        {**captured, "settled": False},
        {**captured, "id": ids.show("auth", given_up.pk), "status": "released", "amount_usd": spare, "settled": False},
        {"id": ids.show("auth", theirs.pk), "status": "unknown", "amount_usd": None, "settled": False},
        None,
    ]  # fmt: skip


def test_a_repeated_event_touches_no_second_hold(books: Books) -> None:
    acme = organization("acme", usd="1")
    made, other = place(acme, "0.1"), place(acme, "0.2")
    sent = usage_of(made, event_id="a")
    assert statuses(record([sent])) == ["created"]
    assert statuses(record([sent])) == statuses(record([sent._replace(authorization_id=other.id)])) == ["duplicate"]
    assert stands(other).state == State.OPEN
    assert held(acme) == Decimal("0.2")


def test_a_request_that_failed_for_nothing_gives_its_money_up(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = place(acme, "0.1")
    assert_all(record([usage_of(made, status=503, output_tokens=0)]), Status.CREATED)
    found = stands(made)
    assert (found.state, found.record_id) == (State.RELEASED, None)
    assert (held(acme), standing(acme).spent) == (0, 0)
    # Beside usage of the same hold in one batch, the usage captures it.
    other = place(acme, "0.1")
    assert_all(
        record([usage_of(other, status=503, output_tokens=0), usage_of(other)._replace(place=1)]), Status.CREATED
    )
    assert (stands(other).state, held(acme)) == (State.CAPTURED, 0)
    assert_sound()


def test_usage_that_waits_for_a_price_keeps_its_hold(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = place(acme, "0.1")
    assert statuses(record([usage_of(made, model="nobody-priced-this")])) == ["quarantined"]
    assert (stands(made).state, held(acme)) == (State.OPEN, Decimal("0.1"))


@pytest.mark.parametrize("ended", [State.RELEASED, State.EXPIRED])
def test_an_event_is_charged_after_its_hold_has_ended(books: Books, ended: str) -> None:
    acme = organization("acme", usd="1")
    made, other = place(acme, "0.1"), place(acme, "0.2")
    if ended == State.RELEASED:
        release(made)
    else:
        overdue(made)
        assert holds.expire_due() == 1
    assert_all(record([usage_of(made)]), Status.CREATED)
    found = stands(made)
    assert (found.state, found.record_id) == (ended, None)
    assert (standing(acme).spent, held(acme)) == (USD, Decimal("0.2"))
    assert stands(other).state == State.OPEN
    assert_sound()


def test_a_release_gives_the_money_back_once(books: Books) -> None:
    acme = organization("acme", usd="1")
    made, other = place(acme, "0.1"), place(acme, "0.2")
    first, second = release(made), release(made)
    assert (first.state, second.state, first.settled_at) == (State.RELEASED, State.RELEASED, second.settled_at)
    assert held(acme) == Decimal("0.2")
    record([usage_of(other)])
    assert release(other).state == State.CAPTURED
    assert held(acme) == 0
    with pytest.raises(errors.NotFound):
        release(Hold(id=ids.new(), organization_id=acme.pk))
    with pytest.raises(errors.NotFound):
        release(Hold(id=other.id, organization_id=organization("umbrella").pk))


def test_released_by_many_at_once_it_is_given_back_once(books: Books) -> None:
    acme = organization("acme", usd="1")
    made, _ = place(acme, "0.1"), place(acme, "0.2")
    told = side_by_side(books, *[partial(release, made)] * 8)
    assert {each.state for each in told} == {State.RELEASED}
    assert held(acme) == Decimal("0.2")


def test_only_what_is_over_expires_and_ceilings_are_freed_with_it(books: Books) -> None:
    acme, umbrella = organization("acme", usd="1"), organization("umbrella", usd="1")
    key = part_of(acme)
    ceiling = budgets.set_ceiling(
        organization_id=acme.pk, subject="key", subject_id=key, window="5h", unit="tokens", ceiling=Decimal(100), by=BY
    )
    over = [place(acme, "0.1", key=key, tokens=60), place(acme, "0.2"), place(umbrella, "0.3")]
    going = place(acme, "0.4", key=key, tokens=40)
    for each in over:
        overdue(each)
    assert holds.expire_due() == 3
    assert {stands(each).state for each in over} == {State.EXPIRED}
    assert stands(going).state == State.OPEN
    assert (held(acme), held(umbrella)) == (Decimal("0.4"), 0)
    assert Budget.objects.get(pk=ceiling.pk).held == 40
    assert holds.expire_due() == 0
    assert_sound()


def test_more_than_one_sweep_holds_is_swept_at_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "CHUNK", 3)
    owners = [organization(f"org-{place}", usd="1") for place in range(3)]
    made = [place(owner, "0.01") for owner in owners for _ in range(5)]
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second'")
    assert holds.overdue().number == 15
    assert holds.expire_due() == 15
    assert {stands(each).state for each in made} == {State.EXPIRED}
    # The rounds of one run are bounded.
    for owner in owners:
        overdue(place(owner, "0.01"))
        overdue(place(owner, "0.01"))
    monkeypatch.setattr(holds, "ROUNDS_MAX", 1)
    monkeypatch.setattr(holds, "CHUNK", 1)
    assert holds.expire_due() == 1


def test_a_wallet_that_is_locked_keeps_no_other_waiting(books: Books) -> None:
    busy, free = organization("busy", usd="1"), organization("free", usd="1")
    made = [place(busy, "0.1"), place(free, "0.1")]
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second'")
    with books.connect() as own, own.transaction():
        own.execute("SELECT 1 FROM wallet WHERE organization_id = %s FOR NO KEY UPDATE", [busy.pk])
        rows("SET lock_timeout = '50ms'")
        with pytest.raises(Error):
            holds.expire_due()
    assert [stands(each).state for each in made] == [State.OPEN, State.EXPIRED]
    assert held(free) == 0
    assert holds.expire_due() == 1
    assert held(busy) == 0


def test_the_jobs_sweep_settle_and_trim_and_note_it(books: Books) -> None:
    acme = organization("acme")
    give(acme, 1, "ending", expires_at=clock.now() + timedelta(days=1))
    overdue(place(acme, "0.1"))
    rows("UPDATE credit_grant SET effective_at = now() - interval '2 hours', expires_at = now() - interval '1 second'")
    rows("UPDATE wallet SET next_change = now() - interval '1 second'")
    assert tasks.expire_holds() == "ended 1"
    assert tasks.settle_grants() == "touched 1 wallets"
    assert tasks.trim_ceilings() == "forgot 0"
    assert held(acme) == 0
    assert standing(acme).posted == 0
    noted = JobRun.objects.values_list("name", "ok", "result")
    assert set(noted) == {
        ("expire_holds", True, "ended 1"), ("settle_grants", True, "touched 1 wallets"),
        ("trim_ceilings", True, "forgot 0"),
    }  # fmt: skip
    assert_sound()


# Crashes


@contextmanager
def cut_before(books: Books, word: int) -> Iterator[list[int]]:
    """Our session dies before its ``word``-th statement or COMMIT; how many there were."""
    said = [0]
    with books.connect() as own, pytest.MonkeyPatch.context() as patch:
        for kind, name in ((psycopg.Cursor, "execute"), (psycopg.Connection, "commit")):
            send = getattr(kind, name)

            def counted(self: Any, *args: Any, send: Any = send, **options: Any) -> Any:
                if self is not own and getattr(self, "connection", None) is not own:
                    said[0] += 1
                    if said[0] == word:
                        session = self if isinstance(self, psycopg.Connection) else self.connection
                        pid = session.info.backend_pid
                        own.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                return send(self, *args, **options)

            patch.setattr(kind, name, counted)
        yield said


def test_a_crash_at_any_word_leaves_nothing_of_a_hold(books: Books) -> None:
    acme = organization("acme", usd="1")
    budgets.set_ceiling(
        organization_id=acme.pk, subject="organization", subject_id=acme.pk, window="1d", unit="usd",
        ceiling=Decimal(1), by=BY,
    )  # fmt: skip
    deaths = 0
    for word in range(1, 40):
        # A statement at least must have been said before what is counted, so that there is a session to die.
        rows("SELECT 1")
        try:
            with cut_before(books, word):
                place(acme, "0.1")
        except Error:
            connection.close()
            deaths += 1
            assert (Hold.objects.count(), held(acme), Budget.objects.get().held) == (0, 0, 0)
        else:
            break
    # Clock, row, wallet, ceilings read and raised, row again, COMMIT.
    assert deaths >= 6
    assert (Hold.objects.count(), held(acme), Budget.objects.get().held) == (1, Decimal("0.1"), Decimal("0.1"))


def test_a_crash_at_any_word_of_a_capture_leaves_the_hold_as_it_was(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = place(acme, "0.1")
    deaths = 0
    for word in range(1, 40):
        rows("SELECT 1")
        with cut_before(books, word):
            (verdict,) = record([usage_of(made, event_id="a")])
        connection.close()
        if verdict.status is Status.CREATED:
            break
        assert verdict.status is Status.FAILED
        deaths += 1
        assert (stands(made).state, held(acme), standing(acme).spent) == (State.OPEN, Decimal("0.1"), 0)
        assert counts()["usage_record"] == counts()["usage_claim"] == 0
    # One for each message to the database that a capture takes, and one for its commit.
    assert deaths >= 5
    assert (stands(made).state, held(acme), standing(acme).spent) == (State.CAPTURED, 0, USD)
    assert_sound()


# Proofs


def admitted(owner: Organization, amount: Decimal, times: int) -> list[Hold]:
    """The holds that passed of so many tries, one after the other."""
    passed = []
    for _ in range(times):
        try:
            passed.append(place(owner, amount))
        except errors.OrgWalletEmpty:
            continue
    return passed


@proves("W04", guard="holds_are_guarded")
def test_of_a_thousand_at_once_a_balance_for_a_hundred_admits_a_hundred_and_overdraft_has_its_bound(
    books: Books, capsys: pytest.CaptureFixture[str]
) -> None:
    # Held at what the request costs when its prompt is counted right: 1,000 × 0.27 + 100 × 1.10 millionths.
    amount = Decimal("0.00038")
    acme = organization("acme", usd=str(100 * amount))
    passed = [made for part in side_by_side(books, *[partial(admitted, acme, amount, 20)] * 50) for made in part]
    assert len(passed) == 100
    assert (held(acme), wallets.state(acme.pk).available_usd) == (100 * amount, 0)
    # Each prompt turns out to be up to 10 % longer than counted: that is all the hold does not know.
    chance = random.Random("W04")
    extra = [chance.randrange(0, 101) for _ in passed]
    items = [
        usage_of(made, input_tokens=1000 + more, cached_input_tokens=0, output_tokens=100)._replace(place=number)
        for number, (made, more) in enumerate(zip(passed, extra, strict=True))
    ]
    chance.shuffle(items)
    parts = [items[start::10] for start in range(10)]
    told = side_by_side(books, *(partial(record, part) for part in parts))
    assert_all([verdict for part in told for verdict in part], Status.CREATED)
    # The formula: the sum over requests of max(0, actual − hold), 0.27 millionths for each token too few.
    expected = Decimal("0.00000027") * sum(extra)
    assert standing(acme)[:2] == (ZERO, expected)
    with capsys.disabled():
        share = expected / (100 * amount)
        print(f"\nW04: worst overdraft {expected} USD after 100 of 1000 were admitted, {share:.2%} of the balance")
    # It is blocked from the settling transaction on.
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, ZERO)
    assert held(acme) == 0
    assert_sound()


@proves("W05", guard="holds_end_once")
def test_capture_and_expiry_side_by_side_end_each_hold_once(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = [place(acme, "0.001") for _ in range(400)]
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second'")
    items = [usage_of(each)._replace(place=number) for number, each in enumerate(made)]
    random.Random("W05").shuffle(items)

    def capture() -> int:
        return sum(
            verdict.status is Status.CREATED
            for start in range(0, 400, 8)
            for verdict in record(items[start : start + 8])
        )

    def expire() -> int:
        return sum(holds.expire_due() for _ in range(20))

    created, expired = side_by_side(books, capture, expire)
    states = Counter(Hold.objects.values_list("state", flat=True))
    assert created == 400
    assert (states[State.EXPIRED], states[State.CAPTURED]) == (expired, 400 - expired)
    # Nothing was given back twice, and each event was charged whoever came first.
    assert (held(acme), standing(acme).spent) == (0, 400 * USD)
    assert_sound()


def test_two_sweepers_end_each_hold_once(books: Books) -> None:
    owners = [organization(f"org-{place}", usd="1") for place in range(4)]
    for owner in owners:
        for _ in range(50):
            place(owner, "0.001")
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second'")
    swept = side_by_side(books, *[holds.expire_due] * 4)
    # One may find another at work and leave it to that one; the next round finds nothing.
    assert sum(swept) == 200
    assert [held(owner) for owner in owners] == [0] * 4
    assert Counter(Hold.objects.values_list("state", flat=True)) == {State.EXPIRED: 200}


@proves("W06", guard="late_usage_is_charged")
def test_usage_that_arrives_after_its_hold_has_expired_is_charged_in_full(books: Books) -> None:
    acme = organization("acme", usd=str(3 * USD))
    made = [place(acme, USD, seconds=1) for _ in range(3)]
    # The calls still stream when their hour is over; meanwhile the money is promised to others.
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 hour'")
    assert holds.expire_due() == 3
    others = [place(acme, USD) for _ in range(3)]
    told = record([usage_of(each)._replace(place=number) for number, each in enumerate([*made, *others])])
    assert_all(told, Status.CREATED)
    assert standing(acme)[:3] == (ZERO, 3 * USD, 6 * USD)
    assert (held(acme), UsageRecord.objects.count()) == (0, 6)
    assert_sound()


@proves("W07", guard="holds_end_by_the_databases_clock")
@pytest.mark.parametrize("off", [timedelta(days=-1), timedelta(days=1)])
def test_a_gateways_clock_a_day_off_ends_no_hold_early_or_late(
    books: Books, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    acme = organization("acme", usd="1")
    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + off)
    short, long = place(acme, "0.1", seconds=1), place(acme, "0.1", seconds=3600)
    for made, seconds in ((short, 1), (long, 3600)):
        ((left,),) = rows("SELECT expires_at - clock_timestamp() FROM hold WHERE id = %s", made.pk)
        assert timedelta(seconds=seconds - 60) < left <= timedelta(seconds=seconds)
        assert (stands(made).created_at, stands(made).expires_at) == (made.created_at, made.expires_at)
    overdue(short, "1 microsecond")
    assert holds.expire_due() == 1
    assert [stands(each).state for each in (short, long)] == [State.EXPIRED, State.OPEN]


@proves("W08", guard="overdue_holds_are_swept")
def test_after_the_sweepers_rest_of_an_hour_its_holds_are_seen_and_swept(books: Books) -> None:
    acme = organization("acme", usd="1")
    made = [place(acme, "0.25") for _ in range(4)]
    assert holds.overdue() == (0, timedelta(0))
    for minutes, each in zip((60, 30, 1), made, strict=False):
        overdue(each, f"{minutes} minutes")
    seen = holds.overdue()
    assert seen.number == 3
    assert timedelta(hours=1) <= seen.longest < timedelta(hours=1, minutes=1)
    # Until it is back their money stays set aside: nobody else is let in on the strength of a clock.
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, PICO)
    tasks.expire_holds()
    assert holds.overdue() == (0, timedelta(0))
    assert held(acme) == Decimal("0.25")
    assert [stands(each).state for each in made] == [*[State.EXPIRED] * 3, State.OPEN]
    assert place(acme, "0.75").state == State.OPEN
    assert_sound()


def test_many_wallets_are_held_swept_and_charged_at_once_without_a_deadlock(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    owners = [organization(f"org-{place}", usd="1") for place in range(6)]
    stop = threading.Event()

    def sweep() -> int:
        ended = 0
        while not stop.is_set():
            rows(
                "UPDATE hold SET expires_at = clock_timestamp() - interval '1 second' WHERE id IN"
                " (SELECT id FROM hold WHERE state = 'open' ORDER BY id LIMIT 3 FOR NO KEY UPDATE SKIP LOCKED)"
            )
            ended += holds.expire_due()
        return ended

    def work(seed: int) -> list[str]:
        chance = random.Random(seed)
        told: list[str] = []
        try:
            for _ in range(15):
                chosen = chance.sample(owners, 3)
                made = [place(owner, "0.001") for owner in chosen]
                told += statuses(record([usage_of(each)._replace(place=n) for n, each in enumerate(made[:2])]))
                release(made[2])
        finally:
            stop.set()
        return told

    with conflicts(caplog) as met:
        results: list[Any] = side_by_side(books, sweep, *(partial(work, seed) for seed in range(4)))
    assert met == []
    told = [status for part in results[1:] for status in part]
    assert set(told) == {"created"}
    assert results[0] > 0
    assert sum(standing(owner).spent for owner in owners) == len(told) * USD
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '1 second' WHERE state = 'open'")
    holds.expire_due()
    assert [held(owner) for owner in owners] == [0] * 6
    assert_sound()


def test_a_refusal_leaves_nothing_behind(books: Books) -> None:
    acme = organization("acme")
    with pytest.raises(errors.OrgWalletEmpty):
        place(acme, 1)
    assert set(counts().values()) == {0}
    assert Hold.objects.count() == 0
