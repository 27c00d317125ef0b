"""The desk's pages of what wallets are made of, and what finance does about a wallet."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from billing import adjustments, budgets, grants, holds, wallets
from billing.budgets import Counted
from billing.ledger import Terms
from billing.models import Adjustment, Budget, Grant, GrantUse, Hold, LedgerHead, Transfer, Wallet
from core import clock, ids
from metering.models import UsageRecord
from ops.models import Approval
from orgs.models import AuditEntry, Organization, User
from tests import desk
from tests.billing.world import part_of
from tests.orgs import world

NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
MODELS: list[Any] = [Grant, GrantUse, Hold, Budget, Adjustment]
ACTS = ("money", "terms", "ceiling", "freeze")
NOT_POSITIVE = "An amount is more than zero; its kind says in which direction it goes."


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


@pytest.fixture
def acme(db: None) -> Organization:
    return desk.organization("acme-labs")


def wallet(of: Organization) -> Wallet:
    return Wallet.objects.get(pk=of.pk)


def place(of: Organization, usd: str = "1") -> Hold:
    whose = Counted(of.pk, None, None, None, Decimal(usd), 500)
    with transaction.atomic():
        return holds.place(holds.Asked(whose, desk.MODEL, 100, 600)).hold


def ceiling(of: Organization, most: str = "2.5", **more: Any) -> Budget:
    told = {"subject": "organization", "subject_id": of.pk, "window": "month", "unit": "usd", **more}
    return budgets.set_ceiling(organization_id=of.pk, ceiling=Decimal(most), by=world.BY, **told)


def ask(of: Organization, usd: str, *, reason: str = "as agreed") -> Adjustment:
    return adjustments.ask(organization_id=of.pk, kind="grant", amount_usd=Decimal(usd), reason=reason, by=desk.actor())


def seal(of: Organization) -> None:
    """The head of a day, as sealing writes it."""
    LedgerHead.objects.create(
        organization=of, day=date(2026, 1, 31), seq=7, digest=b"\xab" * 32, posted_usd=Decimal("3.25"),
        overdraft_usd=Decimal(0), spent_usd=Decimal("6.75"), sealed_at=datetime(2026, 2, 1, 0, 5, tzinfo=UTC),
    )  # fmt: skip


def everything(of: Organization) -> None:
    """At least one row of each kind."""
    desk.use(of, 2)
    place(of)
    ceiling(of)
    ask(of, "3")
    seal(of)


def money(**told: str) -> dict[str, str]:
    """The form that moves money, filled in."""
    empty = dict.fromkeys(("priority", "begins", "expires_at", "models"), "")
    return {"kind": "grant", "amount_usd": "12.5", "reason": "as agreed", **empty, **told}


def terms(**told: str) -> dict[str, str]:
    """The form of terms; what is not told stays."""
    return {"mode": "", "enforcement": "", "credit_limit_usd": "", "low_usd": "", "reason": "as agreed", **told}


def test_every_list_page_and_search_answers_and_counts_nothing(root: Client, acme: Organization) -> None:
    everything(acme)
    found, read = [], []
    for model in MODELS:
        row = model.objects.first()
        for text in (str(row), "acme-labs", "acme-labs welcome:acme-labs", "x@example.com", "\x00", "9" * 99):
            found.append(desk.read(root, desk.listing(model), q=text))
        keyed = desk.KEYED.fullmatch(model._meta.db_table)
        listed = desk.read(root, desk.listing(model), **{"organization" if keyed else "q": "acme-labs"})
        assert str(row) in listed.text
        read += [listed, desk.read(root, desk.page(row))]
    assert (len(found), len(read)) == (30, 10)
    assert desk.counting([*found, *read]) == []
    assert [query for each in read for query in desk.unkeyed(each.queries)] == []


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_added_changed_or_deleted(root: Client, acme: Organization, model: Any) -> None:
    everything(acme)
    row = model.objects.first()
    before = list(model.objects.order_by("pk").values())
    for kind in ("get", "post"):
        assert getattr(root, kind)(desk.listing(model) + "add/").status_code == 403
        assert getattr(root, kind)(desk.page(row, "delete"), {"post": "yes"}).status_code == 403
    assert root.post(desk.page(row), {"amount_usd": "1000000", "state": "posted"}).status_code == 403
    root.post(desk.listing(model), {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"})
    assert list(model.objects.order_by("pk").values()) == before


@pytest.mark.parametrize(
    ("model", "narrowed", "found"),
    [
        (Grant, {"kind__exact": "adjustment"}, 1),
        (Grant, {"kind__exact": "purchased"}, 0),
        (Grant, {"left": "some"}, 2),
        (Grant, {"left": "none"}, 0),
        (Hold, {"state__exact": "open"}, 1),
        (Hold, {"state__exact": "expired"}, 0),
    ],
)
def test_lists_are_narrowed_by_kind_and_state(
    root: Client, acme: Organization, model: Any, narrowed: dict[str, str], found: int
) -> None:
    adjustments.ask(organization_id=acme.pk, kind="credit", amount_usd=Decimal(1), reason="x", by=desk.actor())
    place(acme)
    assert len(desk.read(root, desk.listing(model), organization="acme-labs", **narrowed).rows) == found


def test_ceilings_and_acts_are_narrowed_by_organization_and_state(root: Client, acme: Organization) -> None:
    other = desk.organization("other")
    lifted = ceiling(acme, unit="tokens")
    stands = [ceiling(acme), ceiling(other)]
    budgets.remove_ceiling(budget_id=lifted.pk, by=world.BY)
    small, large = ask(acme, "1"), ask(other, "501")

    def rows(model: Any, **query: str) -> set[UUID]:
        return {row.pk for row in desk.read(root, desk.listing(model), **query).rows}

    assert rows(Budget, q="acme-labs") == {lifted.pk, stands[0].pk}
    assert rows(Budget, removed_at__isempty="1") == {each.pk for each in stands}
    assert rows(Budget, unit__exact="tokens") == {lifted.pk}
    assert rows(Adjustment, q="other") == {large.pk}
    assert rows(Adjustment, state__exact="posted") == {small.pk}


def test_a_wallets_page_shows_what_it_is_made_of(root: Client, acme: Organization) -> None:
    everything(acme)
    now = clock.now()
    with transaction.atomic():
        grants.give(
            organization_id=acme.pk, kind="purchased", amount_usd=Decimal("7.5"), reference="r", actor="a", reason="r",
            conditions=grants.Conditions(
                -1, now + timedelta(days=1), datetime(2030, 1, 1, tzinfo=UTC), ("deepseek-chat",)
            ),
        )  # fmt: skip
    wallets.change_terms(
        organization_id=acme.pk,
        terms=Terms("fallback", "soft", Decimal("4.5"), Decimal("1.25")),
        reason="agreed",
        by=world.BY,
    )
    wallets.freeze(organization_id=acme.pk, reason="asked for", by=world.BY)
    shown = desk.read(root, desk.page(wallet(acme)))
    lines = desk.cells(shown.text)
    assert ["when it is empty", "empty means the caller's personal wallet pays"] in [
        [cell.replace("&#x27;", "'") for cell in line] for line in lines
    ]
    assert ["holds", "the balance must be above its floor"] in lines
    assert ["credit limit (USD)", "4.5"] in lines
    assert ["low below (USD)", "1.25"] in lines
    assert any(line[0] == "frozen" and line[1].startswith("since ") for line in lines if len(line) == 2)
    credit = {tuple(line[1:6]) for line in lines if len(line) == 9}
    # Two requests of 0.0003614 came out of the welcome.
    assert credit >= {
        ("Promotional", "open", "10", "9.9992772", "0"),
        ("Promotional", "open", "3", "3", "0"),
        ("Purchased", "waiting to begin", "7.5", "7.5", "-1"),
    }
    (late,) = [line for line in lines if len(line) == 9 and line[1] == "Purchased"]
    assert late[7:] == ["2030-01-01 00:00:00", "deepseek-chat"]
    hold, budget = Hold.objects.get(), Budget.objects.get()
    assert any(line[:4] == [str(hold), "deepseek-chat", "1", "500"] for line in lines)
    assert [
        str(budget), "the whole organization", "calendar month", "USD", "2.5", "0.0007228", "0", "2.4992772",
    ] in lines  # fmt: skip
    assert ["2026-01-31", "7", "3.25", "0", "6.75", "2026-02-01 00:05:00", "ab" * 32] in lines
    assert desk.buttons(shown) == ["Move money", "Change terms", "Set a ceiling", "Unfreeze"]


def test_panels_are_for_those_who_may_see_their_tables(acme: Organization) -> None:
    desk.superuser()
    everything(acme)
    shown = desk.read(desk.clerk("view_wallet"), desk.page(wallet(acme))).text
    for row in (*Grant.objects.all(), *Hold.objects.all(), *Budget.objects.all(), *Adjustment.objects.all()):
        assert str(row) not in shown
    assert "ab" * 32 not in shown


def test_pages_take_the_same_queries_for_many_rows(root: Client, acme: Organization) -> None:
    big = desk.organization("big", usd="100")
    for of, count in ((acme, 1), (big, 25)):
        for number in range(count):
            place(of, "0.01")
            ask(of, "0.01")
            desk.report(of, [desk.event(f"evt_{number}")])
            ceiling(of, subject="key", subject_id=part_of(of))
    few, many = (desk.read(root, desk.page(wallet(of))) for of in (acme, big))
    assert len(many.queries) == len(few.queries), many.queries
    for model in MODELS[:3]:
        few, many = (desk.read(root, desk.listing(model), organization=of.slug) for of in (acme, big))
        assert (len(many.rows) >= 25, len(many.queries)) == (True, len(few.queries)), many.queries
    for model in MODELS[3:]:
        few, many = (desk.read(root, desk.listing(model), q=of.slug) for of in (acme, big))
        assert (len(many.rows), len(many.queries)) == (25, len(few.queries)), many.queries


def test_money_leads_from_a_transfer_to_its_uses_and_from_a_use_to_its_grant(root: Client, acme: Organization) -> None:
    desk.use(acme, 2)
    (use,) = GrantUse.objects.all()
    charge = Transfer.objects.get(kind="charge")
    grant = Grant.objects.get()
    assert f'<a href="{desk.page(use)}">{use}</a>' in desk.read(root, desk.page(charge)).text
    assert f'<a href="{desk.page(grant)}">{grant}</a>' in desk.read(root, desk.page(charge)).text
    of_use = desk.read(root, desk.page(use)).text
    assert f'<a href="{desk.page(grant)}">{grant}</a>' in of_use
    assert f'<a href="{desk.page(charge)}">{charge}</a>' in of_use
    assert use.first_record_id is not None
    first = UsageRecord.objects.get(pk=use.first_record_id)
    assert desk.read(root, desk.listing(UsageRecord), q=str(first)).address == desk.page(first)
    of_grant = desk.read(root, desk.page(grant)).text
    assert f'<a href="{desk.page(use)}">{use}</a>' in of_grant
    assert "0.0007228" in of_grant
    found = desk.read(root, desk.listing(Grant), q="acme-labs welcome:acme-labs")
    assert found.address == desk.page(grant)


def test_money_is_moved_by_hand_and_says_what_became_of_it(root: Client, acme: Organization) -> None:
    done = desk.send(root, desk.page(wallet(acme), "money"), **money(kind="credit"))
    act = Adjustment.objects.get()
    assert desk.said(done) == [f"success: Posted: 12.5 USD ({act})."]
    assert (done.address, act.actor, act.reason) == (desk.page(wallet(acme)), "root@example.com", "as agreed")
    assert wallet(acme).posted_usd == Decimal("22.5")
    shown = desk.read(root, desk.page(act))
    assert str(Transfer.objects.get(kind="adjustment")) in shown.text
    assert "Nobody was asked." in shown.text
    assert desk.buttons(shown) == []


def test_a_form_that_is_sent_twice_moves_money_once(root: Client, acme: Organization) -> None:
    place = desk.page(wallet(acme), "money")
    told = money(kind="credit", once=_mark(desk.read(root, place)))
    # What is corrected in the page is not sent twice: it comes back with a mark of its own.
    wrong = desk.send(root, place, **{**told, "amount_usd": "-1"})
    assert desk.errors(wrong) == [NOT_POSITIVE]
    told["once"] = _mark(wrong)
    assert desk.said(desk.send(root, place, **told))[0].startswith("success: Posted: 12.5 USD")
    again = desk.send(root, place, **told)
    assert desk.said(again) == ["warning: This was sent before. It is done once; see what came of it."]
    assert (again.address, wallet(acme).posted_usd) == (desk.page(wallet(acme)), Decimal("22.5"))
    # Who means it does it again, on a page that is asked for again.
    desk.send(root, place, **{**told, "once": _mark(desk.read(root, place))})
    assert wallet(acme).posted_usd == 35


def _mark(shown: desk.Page) -> str:
    (found,) = re.findall(r'name="once" value="([0-9a-f]{32})"', shown.text)
    return str(found)


def test_a_large_act_waits_says_where_and_is_carried_out_after_a_second_person(
    root: Client, acme: Organization
) -> None:
    done = desk.send(root, desk.page(wallet(acme), "money"), **money(amount_usd="500.01"))
    act, asked = Adjustment.objects.get(), Approval.objects.get()
    told = (
        f"warning: Nothing is moved yet ({act}). This waits until a second person agrees: somebody else grants {asked}"
    )
    assert desk.said(done) == [f"{told} under Approvals."]
    assert wallet(acme).posted_usd == 10
    assert desk.buttons(desk.read(root, desk.page(act))) == ["Carry out"]

    early = desk.send(root, desk.page(act, "carry-out"))
    assert desk.said(early)[0].startswith("warning: This waits until a second person agrees")
    assert Approval.objects.count() == 1
    own = desk.send(root, desk.page(asked, "grant"))
    assert desk.said(own) == ["error: A second person has to decide this."]

    second = desk.clerk("view_approval", "change_approval", "view_adjustment", "change_adjustment", "add_adjustment")
    question = desk.read(second, desk.page(asked))
    assert f'<a href="{desk.page(act)}">{act}</a>' in question.text
    desk.send(second, desk.page(asked, "grant"))
    assert ">as agreed</textarea>" in desk.read(second, desk.page(act, "carry-out")).text.replace("\n", "")
    done = desk.send(second, desk.page(act, "carry-out"), reason="granted")
    assert desk.said(done) == ["success: Posted: 500.01 USD."]
    posted = AuditEntry.objects.get(verb="adjustment.posted").details
    assert (posted["reason"], posted["why"]) == ("as agreed", "granted")
    assert desk.buttons(done) == []
    assert wallet(acme).posted_usd == Decimal("510.01")
    desk.send(second, desk.page(act, "carry-out"))
    assert wallet(acme).posted_usd == Decimal("510.01")


def test_what_a_second_person_refused_is_closed_and_moves_nothing(root: Client, acme: Organization) -> None:
    act = ask(acme, "501")
    second = desk.clerk("view_approval", "change_approval", "add_adjustment")
    desk.send(second, desk.page(Approval.objects.get(), "refuse"))
    done = desk.send(root, desk.page(act, "carry-out"))
    assert desk.said(done) == ["warning: A second person refused it: nothing was moved, and it is closed."]
    assert Adjustment.objects.get().state == "refused"
    assert wallet(acme).posted_usd == 10


def test_a_grants_last_day_ends_with_midnight_where_the_organization_is(root: Client, acme: Organization) -> None:
    Organization.objects.filter(pk=acme.pk).update(time_zone="America/New_York")
    year = clock.now().year + 2
    told = money(priority="-3", begins=f"{year}-03-01", expires_at=f"{year}-06-30", models="deepseek-chat, gpt-4o")
    desk.send(root, desk.page(wallet(acme), "money"), **told)
    made = Grant.objects.get(reference__startswith="adjustment:")
    # Five hours behind in winter, four in summer.
    assert made.effective_at == datetime(year, 3, 1, 5, tzinfo=UTC)
    assert made.expires_at == datetime(year, 7, 1, 4, tzinfo=UTC)
    assert (made.priority, made.model_slugs, made.kind) == (-3, ["deepseek-chat", "gpt-4o"], "promotional")
    assert made.transfer_id is None


def test_a_grant_that_begins_today_begins_at_once(root: Client, acme: Organization) -> None:
    today = clock.now().date().isoformat()
    desk.send(root, desk.page(wallet(acme), "money"), **money(begins=today))
    assert Grant.objects.get(reference__startswith="adjustment:").transfer_id is not None


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"reason": " "}, "This field is required."),
        ({"amount_usd": "NaN"}, "Enter a number."),
        ({"amount_usd": "0"}, NOT_POSITIVE),
        ({"amount_usd": "-1"}, NOT_POSITIVE),
        ({"kind": "gift"}, "Select a valid choice. gift is not one of the available choices."),
        ({"kind": "refund"}, "Only 0 USD of purchased credit are left to refund."),
        ({"kind": "write_off"}, "Only 0 USD are owed."),
        ({"kind": "debit", "priority": "1"}, "Only promotional credit has a priority, a beginning, an end or models."),
        ({"models": "nobody/nothing"}, "No model is called nobody/nothing."),
        ({"begins": "0001-01-01"}, "That is not a day that can be meant: from last year to 2200."),
        ({"expires_at": "9999-12-31"}, "That is not a day that can be meant: from last year to 2200."),
        ({"begins": "yesterday"}, "Enter a valid date."),
    ],
)
def test_what_is_wrong_with_a_move_is_said_at_its_field(
    root: Client, acme: Organization, told: dict[str, str], wrong: str
) -> None:
    shown = desk.send(root, desk.page(wallet(acme), "money"), **money(**told))
    assert (desk.errors(shown), shown.address) == ([wrong], desk.page(wallet(acme), "money"))
    assert (Adjustment.objects.count(), wallet(acme).posted_usd) == (0, 10)


def test_days_that_are_over_are_refused(root: Client, acme: Organization) -> None:
    over = (clock.now() - timedelta(days=2)).date().isoformat()
    first = desk.send(root, desk.page(wallet(acme), "money"), **money(begins=over))
    last = desk.send(root, desk.page(wallet(acme), "money"), **money(expires_at=over))
    assert (desk.errors(first), desk.errors(last)) == (["That day is over."], ["A grant ends after it begins."])
    assert Adjustment.objects.count() == 0


def test_an_organization_without_money_gets_its_first_by_hand(root: Client) -> None:
    fresh = world.organization("fresh")
    place = reverse("admin:billing_wallet_change", args=[fresh.pk])
    assert f'href="{place}"' in desk.read(root, desk.page(fresh)).text
    shown = desk.read(root, place)
    assert desk.buttons(shown) == ["Move money", "Change terms", "Set a ceiling", "Freeze"]
    assert not Wallet.objects.exists()
    desk.send(root, f"{place.removesuffix('change/')}money/", **money())
    assert wallet(fresh).posted_usd == Decimal("12.5")
    nobody = reverse("admin:billing_wallet_change", args=[ids.new()])
    assert root.post(nobody.replace("change/", "money/"), money()).status_code == 404
    assert root.get("/admin/billing/wallet/x%00y/freeze/").status_code == 404


@pytest.mark.one_database
def test_terms_change_only_where_something_is_said(root: Client, acme: Organization) -> None:
    place = desk.page(wallet(acme), "terms")
    assert desk.errors(desk.send(root, place, **terms())) == ["Nothing would change."]
    done = desk.send(root, place, **terms(mode="fallback", credit_limit_usd="0.5", reason="they asked"))
    assert desk.said(done) == ["success: Changed. Calls that start from now on go by it."]
    now = wallet(acme)
    assert (now.mode, now.enforcement, now.credit_limit_usd, now.low_usd) == ("fallback", "strict", Decimal("0.5"), 5)
    note = AuditEntry.objects.get(verb="wallet.changed")
    assert (note.actor_label, note.details["reason"]) == ("root@example.com", "they asked")
    assert desk.errors(desk.send(root, place, **terms(low_usd="-1"))) == [
        "Ensure this value is greater than or equal to 0."
    ]
    desk.send(root, place, **terms(low_usd="0", enforcement="off"))
    assert (wallet(acme).low_usd, wallet(acme).enforcement, wallet(acme).mode) == (0, "off", "fallback")


def test_a_wallet_is_frozen_and_unfrozen_each_with_a_reason(root: Client, acme: Organization) -> None:
    refused = desk.send(root, desk.page(wallet(acme), "freeze"), reason=" ")
    assert desk.errors(refused) == ["This field is required."]
    assert wallet(acme).frozen_at is None
    done = desk.send(root, desk.page(wallet(acme), "freeze"), reason="fraud is looked into")
    assert desk.said(done) == ["success: Frozen: every call is refused until it is unfrozen."]
    assert (wallet(acme).frozen_at is None, "Freeze" in desk.buttons(done)) == (False, False)
    done = desk.send(root, desk.page(wallet(acme), "unfreeze"), reason="it was none")
    assert (wallet(acme).frozen_at, "Freeze" in desk.buttons(done)) == (None, True)
    notes = AuditEntry.objects.filter(verb__in=("wallet.frozen", "wallet.unfrozen")).order_by("pk")
    assert [note.details["reason"] for note in notes] == ["fraud is looked into", "it was none"]


def test_a_ceiling_is_set_on_the_whole_or_a_part_changed_and_lifted(root: Client, acme: Organization) -> None:
    key = part_of(acme)
    place = desk.page(wallet(acme), "ceiling")
    assert ids.show("key", key) in desk.read(root, place).text
    whole = desk.send(root, place, subject_id="", window="month", unit="usd", ceiling="2.5")
    assert desk.said(whole) == ["success: Set: at most 2.5 USD in a calendar month."]
    desk.send(root, place, subject_id=ids.show("key", key), window="5h", unit="tokens", ceiling="1000")
    on_all, on_key = Budget.objects.order_by("pk")
    assert (on_all.subject, on_all.subject_id) == ("organization", acme.pk)
    assert (on_key.subject, on_key.subject_id, on_key.ceiling) == ("key", key, 1000)

    done = desk.send(root, desk.page(on_key, "ceiling"), ceiling="1500")
    assert (desk.said(done), done.address) == (["success: At most 1500 tokens from now on."], desk.page(on_key))
    assert Budget.objects.get(pk=on_key.pk).ceiling == 1500
    lifted = desk.send(root, desk.page(on_key, "lift"), reason="they asked")
    told = AuditEntry.objects.get(verb="budget.removed").details
    assert (told["before"], told["unit"], told["reason"]) == ("1500", "tokens", "they asked")
    assert (desk.said(lifted), desk.buttons(lifted)) == (["success: Lifted."], [])
    assert Budget.objects.get(pk=on_key.pk).removed_at is not None


@pytest.mark.parametrize("subject", ["key", "member", "project"])
def test_a_ceiling_on_anothers_part_is_refused_at_its_field(root: Client, acme: Organization, subject: str) -> None:
    prefix = {"key": "key", "member": "mem", "project": "proj"}[subject]
    foreign = ids.show(prefix, part_of(desk.organization("other"), subject))
    shown = desk.send(
        root, desk.page(wallet(acme), "ceiling"), subject_id=foreign, window="1d", unit="usd", ceiling="1"
    )
    assert desk.errors(shown) == [f"The organization has no such {subject}."]
    shown = desk.send(
        root, desk.page(wallet(acme), "ceiling"), subject_id="org_1", window="1d", unit="usd", ceiling="1"
    )
    assert desk.errors(shown) == ["That is no proj_, mem_ or key_ id."]
    assert not Budget.objects.exists()


def test_a_hold_is_released_once_and_by_whom_is_written_down(root: Client, acme: Organization) -> None:
    made = place(acme, "4")
    assert desk.buttons(desk.read(root, desk.page(made))) == ["Release"]
    done = desk.send(root, desk.page(made, "release"), reason="their gateway is gone")
    assert desk.said(done) == ["success: Released: 4 USD are available again."]
    assert (Hold.objects.get().state, wallet(acme).held_usd, desk.buttons(done)) == ("released", 0, [])
    again = desk.send(root, desk.page(made, "release"), reason="twice")
    assert desk.said(again) == ["warning: It had ended before: released."]
    note = AuditEntry.objects.get(verb="hold.released")
    assert (note.actor_label, note.subject_id) == ("root@example.com", str(made))
    assert note.details == {"reason": "their gateway is gone", "amount_usd": "4"}


def _act_places(acme: Organization) -> list[tuple[str, dict[str, str]]]:
    told = {"money": money(), "terms": terms(mode="fallback"), "freeze": {"reason": "x"}, "unfreeze": {"reason": "x"}}
    on_part = {"subject_id": "", "window": "1d", "unit": "usd", "ceiling": "1"}
    return [
        *((desk.page(wallet(acme), name), filled) for name, filled in told.items()),
        (desk.page(wallet(acme), "ceiling"), on_part),
        (desk.page(Hold.objects.get(), "release"), {"reason": "x"}),
        (desk.page(Budget.objects.get(), "ceiling"), {"ceiling": "1"}),
        (desk.page(Budget.objects.get(), "lift"), {}),
        (desk.page(Adjustment.objects.get(), "carry-out"), {}),
    ]


def _stored() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (*MODELS, Wallet, Transfer, Approval)]


def test_who_may_only_see_has_no_buttons_and_is_refused(root: Client, acme: Organization) -> None:
    place(acme)
    ceiling(acme)
    ask(acme, "501")
    viewer = desk.clerk(
        "view_wallet", "view_hold", "view_budget", "view_adjustment", "view_grant", "change_organization"
    )
    before = _stored()
    for row in (wallet(acme), Hold.objects.get(), Budget.objects.get(), Adjustment.objects.get()):
        assert desk.buttons(desk.read(viewer, desk.page(row))) == []
    for address, filled in _act_places(acme):
        assert viewer.get(address).status_code == 403, address
        assert viewer.post(address, filled).status_code == 403, address
        assert Client().post(address, filled)["Location"].startswith("/admin/login/")
    assert _stored() == before


def test_a_post_from_another_site_does_nothing(root: Client, acme: Organization) -> None:
    place(acme)
    ceiling(acme)
    ask(acme, "501")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(email="root@example.com"))
    before = _stored()
    assert {strict.post(address, filled).status_code for address, filled in _act_places(acme)} == {403}
    assert _stored() == before


@pytest.mark.parametrize(
    ("right", "label"),
    [("add_adjustment", "Move money"), ("change_budget", "Set a ceiling"), ("change_wallet", "Change terms")],
)
def test_each_act_takes_its_own_right(acme: Organization, right: str, label: str) -> None:
    clerk = desk.clerk("view_wallet", right)
    shown = desk.buttons(desk.read(clerk, desk.page(wallet(acme))))
    assert shown == ([label, "Freeze"] if right == "change_wallet" else [label])
    names = {"add_adjustment": {"money"}, "change_budget": {"ceiling"}, "change_wallet": {"terms", "freeze"}}
    open_to = {name for name in ACTS if clerk.get(desk.page(wallet(acme), name)).status_code == 200}
    assert open_to == names[right]


def test_names_and_reasons_are_shown_as_text(root: Client, acme: Organization) -> None:
    Organization.objects.filter(pk=acme.pk).update(name=NASTY)
    acme.refresh_from_db()
    person = world.member(acme, "eve@example.com")
    world.organization_key(acme, name=NASTY)
    act = ask(acme, "501", reason=NASTY)
    small = ask(acme, "1", reason=NASTY)
    whose = Counted(acme.pk, None, person.pk, None, Decimal(1), 5)
    with transaction.atomic():
        hold = holds.place(holds.Asked(whose, NASTY, 100, 600)).hold
    with connection.cursor() as cursor:
        cursor.execute("UPDATE credit_grant SET model_slugs = ARRAY[%s] WHERE reason = %s", [NASTY, NASTY])
    grant = Grant.objects.get(reference=adjustments.reference_of(small.pk))
    shown: list[desk.Page] = [
        desk.read(root, desk.page(row))
        for row in (act, small, hold, grant, ceiling(acme, subject="member", subject_id=person.pk), wallet(acme))
    ]
    shown += [desk.read(root, desk.page(wallet(acme), name)) for name in ACTS]
    shown += [desk.read(root, desk.page(act, "carry-out")), desk.read(root, desk.listing(Adjustment))]
    shown += [desk.read(root, desk.listing(model), organization="acme-labs") for model in (Grant, Hold)]
    shown.append(desk.send(root, desk.page(wallet(acme), "money"), **money(reason=NASTY, models=NASTY)))
    for each in shown:
        assert "<img src=x" not in each.text
        assert "<script>alert" not in each.text
    seen: Callable[[desk.Page], bool] = lambda each: "&lt;script&gt;alert(1)" in each.text  # noqa: E731
    assert [seen(shown[0]), seen(shown[2]), seen(shown[3]), seen(shown[5]), seen(shown[-1])] == [True] * 5


def test_a_lifted_ceiling_shows_no_standing_and_one_in_force_does(root: Client, acme: Organization) -> None:
    made = ceiling(acme)
    desk.use(acme, 2)

    def facts() -> list[str]:
        text = desk.read(root, desk.page(made)).text
        found = [
            re.search(rf'field-{name} .*?<div class="readonly[^"]*">(.*?)</div>', text, re.DOTALL)
            for name in ("used", "held_now", "left")
        ]
        return [match[1] if match else "" for match in found]

    assert facts() == ["0.0007228", "0", "2.4992772"]
    budgets.remove_ceiling(budget_id=made.pk, by=world.BY)
    assert facts() == ["-", "0", "-"]
