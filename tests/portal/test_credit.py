"""The pages of credit: what they show of a wallet, and buying, with a fake Stripe at the other end."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import UUID

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils.html import escape, strip_tags

from billing import grants, payments, topups
from billing.grants import Conditions
from billing.models import Payment, Recharge, TopUp, Transfer
from billing.payments import Purpose
from billing.wallets import State
from core import ids
from orgs.models import AuditEntry, Organization
from tests import desk
from tests.billing.paying import ASKS_ALWAYS, DECLINED, deliver, fake, save_card
from tests.billing.world import standing
from tests.fakes.stripe import StripeFake
from tests.orgs import world
from tests.portal.world import member, owner

__all__ = ["fake"]

CREDIT = "/portal/acme-labs/credit"
TOKEN = "A-token-of-the-test-1"
BUY = {"amount_usd": "25", "way": "checkout", "token": TOKEN}
TERMS = {"enabled": "on", "threshold_usd": "5", "amount_usd": "20", "monthly_cap_usd": "100"}


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def given(to: Organization, usd: str, reference: str, *, reason: str = "given", **conditions: Any) -> None:
    """Promotional credit."""
    grants.give(
        organization_id=to.pk, kind="promotional", amount_usd=Decimal(usd), reference=reference, actor="tests",
        reason=reason, conditions=Conditions(**conditions),
    )  # fmt: skip


def text(answer: Any) -> str:
    """What a page says, its tags taken off."""
    told = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.content.decode()))
    return unescape(re.sub(r" ([.,])", r"\1", told))


def sessions(fake: StripeFake) -> int:
    """How many payment pages Stripe was asked for."""
    return len([one for one in fake.requests if (one.method, one.path) == ("POST", "/v1/checkout/sessions")])


def asked(client: Client, **told: str) -> str:
    """Buy; the place of the top-up."""
    answer = client.post(CREDIT, {**BUY, **told})
    assert answer.status_code == 302, text(answer)
    assert answer["Location"].startswith(f"{CREDIT}/topups/topup_")
    return answer["Location"].removesuffix("?go=1")


def test_amounts_are_cut_down_and_exact_when_pointed_at(acme: Organization) -> None:
    given(acme, "12.345678901234", "one")
    page = owner(acme).get(CREDIT).content.decode()
    assert page.count('title="12.345678901234 USD">$12.34<') == 5
    assert '<p class="figure" title="0 USD">$0.00</p>' in page


def test_credit_stands_in_the_order_in_which_it_is_spent(acme: Organization) -> None:
    given(acme, "3", "last")
    given(acme, "2", "ends", expires_at=datetime(2099, 3, 31, 22, tzinfo=UTC), models=("gpt-4o",))
    given(acme, "1", "first", priority=-5)
    told = text(owner(acme).get(CREDIT))
    rows = ["Promotional $1.00 $1.00 -5 never any model", "Promotional $2.00 $2.00 0 2099-03-31 22:00:00 UTC gpt-4o",
            "Promotional $3.00 $3.00 0 never any model"]  # fmt: skip
    places = [told.index(row) for row in rows]
    assert places == sorted(places)


def test_texts_of_others_are_shown_and_not_run(acme: Organization) -> None:
    given(acme, "1", "one", reason="<script>alert(1)</script>", models=("<b>bold</b>",))
    page = owner(acme).get(CREDIT).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<script>alert" not in page


def test_the_statement_goes_by_pages_and_whole_as_a_file(acme: Organization) -> None:
    for number in range(1, 53):
        given(acme, "0.000000000001", f"{number}", reason="=1+1" if number == 1 else "given")
    client = owner(acme)
    first = client.get(f"{CREDIT}/statement").content.decode()
    assert first.count('<th scope="row" class="nowrap">20') == 50
    assert 'title="0.000000000052 USD"' in first
    older = re.search(r'rel="next" href="([^"]*)"', first)
    assert older is not None
    second = client.get(older[1]).content.decode()
    assert (second.count('<th scope="row" class="nowrap">20'), 'rel="next"' in second) == (2, False)
    lines = b"".join(client.get(f"{CREDIT}/statement.csv")).decode().splitlines()
    assert len(lines) == 53
    assert lines[0] == "id,kind,amount_usd,balance_after_usd,reason,created_at"
    assert lines[1].split(",")[1:5] == ["grant", "0.000000000001", "0.000000000052", "given"]
    assert lines[52].split(",")[4] == "'=1+1"


def test_pages_ask_as_often_whatever_there_is(acme: Organization, fake: StripeFake) -> None:
    given(acme, "1", "one")
    client = owner(acme)
    place = asked(client)
    places = [CREDIT, f"{CREDIT}/statement", f"{CREDIT}/topups", place]
    few = [len(desk.read(client, each).queries) for each in places]
    for number in range(12):
        given(acme, "1", f"more {number}")
        TopUp.objects.create(organization=acme, amount_usd=10, state="failed", settled_at=datetime.now(UTC))
    assert [len(desk.read(client, each).queries) for each in places] == few
    assert max(few) < 25


def test_a_top_up_is_paid_on_stripes_page_and_comes_back_as_credit(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    place = asked(client, amount_usd="25.50")
    payment = Payment.objects.get()
    onward = client.get(f"{place}?go=1").content.decode()
    assert f'<meta http-equiv="refresh" content="0;url={escape(payment.checkout_url)}">' in onward
    assert f'href="{escape(payment.checkout_url)}"' in onward
    assert payment.success_url == f"https://tollbook.example{CREDIT}/paid"
    waits = client.get(place)
    assert "It is paid on Stripe's page, which is kept for you until" in text(waits)
    assert 'hx-trigger="every 3s"' in waits.content.decode()
    fake.pay(payment.session_id or "")
    deliver(fake)
    assert client.get(f"{CREDIT}/paid")["Location"] == place
    assert "Thank you. $25.50 is in your wallet; its balance is $25.50." in text(client.get(place))
    assert standing(acme).posted == Decimal("25.5")


def test_a_form_that_is_sent_twice_is_one_top_up(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    assert asked(client) == asked(client)
    assert (TopUp.objects.count(), Payment.objects.count(), sessions(fake)) == (1, 1, 1)
    other = client.post(CREDIT, {**BUY, "amount_usd": "26"})
    assert other["Location"] == CREDIT
    assert "This form was sent before" in text(client.get(CREDIT))
    assert [row.amount_usd for row in TopUp.objects.all()] == [25]


def test_each_form_has_a_token_of_its_own(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    tokens = {re.findall(r'name="token" value="([^"]+)"', client.get(CREDIT).content.decode())[0] for _ in range(3)}
    assert len(tokens) == 3
    assert "token" in client.post(CREDIT, {**BUY, "token": "short"}).context["form"].errors
    assert TopUp.objects.count() == 0


@pytest.mark.parametrize("amount", ["9.99", "5000.01", "10.001", "-10", "NaN", "", "1e2000", "ten"])
def test_an_amount_that_cannot_be_bought_is_refused_at_its_field(
    acme: Organization, fake: StripeFake, amount: str
) -> None:
    answer = owner(acme).post(CREDIT, {**BUY, "amount_usd": amount})
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["amount_usd"])
    assert TopUp.objects.count() == 0


def test_a_second_top_up_waits_until_the_first_is_over(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    first = asked(client)
    refused = client.post(CREDIT, {**BUY, "token": "Another-token-of-tests"})
    assert refused.status_code == 422
    assert "Another top-up of this organization is still open." in text(refused)
    assert "waits for you" in text(client.get(CREDIT))
    assert client.post(f"{first}/cancel")["Location"] == first
    assert (TopUp.objects.get().state, Payment.objects.get().state) == ("canceled", "canceled")
    assert client.post(f"{first}/cancel").status_code == 409
    asked(client, token="Another-token-of-tests")
    assert AuditEntry.objects.filter(verb="payment.given_up").count() == 1


def test_what_was_paid_just_before_it_is_given_up_is_credit(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    first = asked(client)
    fake.pay(Payment.objects.get().session_id or "")
    client.post(f"{first}/cancel")
    assert TopUp.objects.get().state == "succeeded"
    assert standing(acme).posted == 25


def test_a_saved_card_pays_at_once(acme: Organization, fake: StripeFake) -> None:
    save_card(fake, acme)
    client = owner(acme)
    card = client.get(CREDIT).context["form"]["way"].initial
    assert card.startswith("card_")
    told = text(client.get(asked(client, way=card)))
    assert "Thank you. $25.00 is in your wallet" in told
    assert "Visa ending in 4242" in told


def test_a_declined_card_is_told_in_the_banks_words(acme: Organization, fake: StripeFake) -> None:
    save_card(fake, acme, DECLINED)
    client = owner(acme)
    place = asked(client, way=client.get(CREDIT).context["form"]["way"].initial)
    assert "Your card was declined. Nothing was charged for it." in text(client.get(place))
    assert standing(acme).posted == 0


def test_a_bank_that_asks_is_gone_to(acme: Organization, fake: StripeFake) -> None:
    save_card(fake, acme, ASKS_ALWAYS)
    client = owner(acme)
    place = asked(client, way=client.get(CREDIT).context["form"]["way"].initial)
    assert escape(Payment.objects.get().next_action_url) in client.get(f"{place}?go=1").content.decode()


def test_without_stripe_the_page_says_whom_to_ask(acme: Organization) -> None:
    client = owner(acme)
    told = text(client.get(CREDIT))
    assert "Payments by card are switched off on this installation." in told
    assert "ask them, and name your organization, acme-labs" in told
    assert client.post(CREDIT, BUY).status_code == 503
    assert client.post(f"{CREDIT}/recharge", TERMS).status_code == 503
    assert (TopUp.objects.count(), Recharge.objects.count()) == (0, 0)


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_does_not_manage_billing_buys_nothing(acme: Organization, fake: StripeFake, role: str) -> None:
    place = asked(owner(acme))
    client = member(acme, role)
    assert client.get(CREDIT).status_code == 200
    assert "Pay with" not in text(client.get(CREDIT))
    for at in (CREDIT, f"{CREDIT}/recharge", f"{place}/cancel"):
        assert client.post(at, {**BUY, **TERMS}).status_code == 403
    for at in (place, f"{CREDIT}/recharge", f"{CREDIT}/paid"):
        assert client.get(at).status_code == 403
    assert client.get(f"{CREDIT}/topups").status_code == (200 if role == "viewer" else 403)
    assert ([row.state for row in TopUp.objects.all()], Recharge.objects.count()) == (["requires_action"], 0)


@pytest.mark.parametrize("role", ["admin", "billing"])
def test_who_manages_billing_buys(acme: Organization, fake: StripeFake, role: str) -> None:
    asked(member(acme, role))
    assert TopUp.objects.get().organization == acme


def test_what_belongs_to_another_organization_is_not_there(acme: Organization, fake: StripeFake) -> None:
    place = asked(owner(acme))
    given(acme, "1", "one")
    line = ids.show("tr", Transfer.objects.get(organization=acme).pk)
    other = owner(world.organization("other"))
    there = place.replace("acme-labs", "other")
    assert other.get(place).status_code == other.get(there).status_code == 404
    assert other.post(f"{place}/cancel").status_code == other.post(f"{there}/cancel").status_code == 404
    assert other.get("/portal/other/credit/statement", {"after": line}).status_code == 400
    assert other.get("/portal/other/credit/topups", {"after": place.rsplit("/", 1)[1]}).status_code == 400
    assert TopUp.objects.get().state == "requires_action"


def test_a_top_up_of_another_ones_card_is_not_meant(acme: Organization, fake: StripeFake) -> None:
    rich = world.organization("rich")
    save_card(fake, rich)
    card = owner(rich).get("/portal/rich/credit").context["form"]["way"].initial
    answer = owner(acme).post(CREDIT, {**BUY, "way": card})
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["way"])
    assert TopUp.objects.count() == 0


def test_automatic_top_up_needs_a_card_and_keeps_its_terms(acme: Organization, fake: StripeFake) -> None:
    client = owner(acme)
    refused = client.post(f"{CREDIT}/recharge", TERMS)
    assert refused.status_code == 422
    assert "There is no saved card to pay with" in text(refused)
    save_card(fake, acme)
    assert client.post(f"{CREDIT}/recharge", TERMS)["Location"] == CREDIT
    terms = topups.recharge_of(acme.pk)
    assert terms is not None
    assert (terms.enabled, terms.threshold_usd, terms.amount_usd, terms.monthly_cap_usd) == (True, 5, 20, 100)
    assert "Below $5.00 it buys $20.00, at most $100.00 in a month." in text(client.get(CREDIT))
    wrong = client.post(f"{CREDIT}/recharge", {**TERMS, "monthly_cap_usd": "19"})
    assert "At most in a calendar month (USD) is at least one top-up." in text(wrong)
    client.post(f"{CREDIT}/recharge", {**TERMS, "enabled": ""})
    again = topups.recharge_of(acme.pk)
    assert again is not None
    assert (again.enabled, again.monthly_cap_usd) == (False, 100)


def test_the_payments_of_many_top_ups_are_read_at_once(acme: Organization, fake: StripeFake) -> None:
    asked(owner(acme))
    (key,) = TopUp.objects.values_list("pk", flat=True)
    assert payments.of_subjects(Purpose.TOPUP, [key, acme.pk]) == {key: Payment.objects.get()}


def said_of(**differs: Any) -> str:
    """What a page of credit says of a wallet, where it is not well."""
    none = Decimal(0)
    fine = State(
        organization_id=UUID(int=1), balance_usd=Decimal(10), held_usd=none, overdraft_usd=none, spent_usd=none,
        credit_limit_usd=none, available_usd=Decimal(10), status="active", mode="strict", enforcement="strict",
        low_usd=Decimal(5),
    )  # fmt: skip
    return " ".join(
        strip_tags(render_to_string("portal/credit_standing.html", {"state": fine._replace(**differs)})).split()
    )


_EMPTY: dict[str, Any] = {"balance_usd": Decimal(0), "available_usd": Decimal(0), "status": "empty"}


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ({}, ""),
        ({"status": "frozen"}, "This wallet is frozen: calls are refused. Ask who runs this installation."),
        (
            {"status": "frozen", "enforcement": "off"},
            "This wallet is frozen: calls are refused. Ask who runs this installation.",
        ),
        (_EMPTY, "Nothing is left: calls are refused until there is credit."),
        (
            {**_EMPTY, "mode": "fallback"},
            "Nothing is left: calls are paid from the wallet of whoever calls with a personal key, and others are"
            " refused until there is credit.",
        ),
        (
            {**_EMPTY, "enforcement": "off"},
            "Nothing is left. Calls go on all the same; what they cost is overdraft, which the next top-up repays"
            " first.",
        ),
        (
            {"held_usd": Decimal(10), "available_usd": Decimal(0)},
            "All that is left is held for calls under way: others are refused until one of them ends.",
        ),
        # Where the balance alone decides, what is held holds nobody up.
        ({"held_usd": Decimal(10), "available_usd": Decimal(0), "enforcement": "soft"}, ""),
        ({"balance_usd": Decimal(4), "available_usd": Decimal(4), "status": "low"}, "Less than $5.00 is left."),
        # Who pays afterwards is always below their line.
        (
            {
                "balance_usd": Decimal(-4),
                "credit_limit_usd": Decimal(50),
                "available_usd": Decimal(46),
                "status": "low",
            },
            "",
        ),
    ],
)
def test_a_wallet_that_is_not_well_says_what_it_means_for_calls(differs: dict[str, Any], said: str) -> None:
    assert said_of(**differs) == said
