from decimal import Decimal

import pytest

from billing import budgets, wallets
from billing.budgets import Standing
from billing.models import Budget
from core import ids
from orgs import projects
from orgs.models import ApiKey, AuditEntry, Member, Organization
from portal.budgets import percent
from tests.billing.world import record
from tests.metering.world import COST, attributed, event
from tests.orgs import world
from tests.portal.world import assert_refused, count_queries, member, owner

PLACE = "/portal/acme-labs/budgets"


def ceiling(of: Organization, most: str, **told: object) -> Budget:
    chosen = {"subject": "organization", "subject_id": of.pk, "window": "month", "unit": "usd", **told}
    return budgets.set_ceiling(organization_id=of.pk, ceiling=Decimal(most), by=world.BY, **chosen)


def one(of: Budget, act: str = "") -> str:
    return f"{PLACE}/{ids.show('budget', of.pk)}{act}"


def told(subject: str, **more: str) -> dict[str, str]:
    return {"subject_id": subject, "window": "month", "unit": "usd", "ceiling": "2.5", "warn_percent": "80", **more}


def test_a_budget_is_set_on_each_kind_of_thing(db: None) -> None:
    acme = world.organization()
    project = projects.create(organization=acme, name="Search", by=world.BY)
    key = world.organization_key(acme, name="nightly").key
    mine = Member.objects.get(organization=acme)
    client = owner(acme)
    shown = [
        "organization:", f"project:{ids.show('proj', project.pk)}", f"member:{ids.show('mem', mine.pk)}",
        f"key:{ids.show('key', key.pk)}",
    ]  # fmt: skip
    for subject in shown:
        assert client.post(f"{PLACE}/new", told(subject)).status_code == 302
    assert list(Budget.objects.order_by("id").values_list("subject", "subject_id", "ceiling")) == [
        ("organization", acme.pk, Decimal("2.5")), ("project", project.pk, Decimal("2.5")),
        ("member", mine.pk, Decimal("2.5")), ("key", key.pk, Decimal("2.5")),
    ]  # fmt: skip
    page = client.get(PLACE).content.decode()
    for name in ("all of acme-labs", "Search", "owner@acme-labs.example", "nightly", "$0.00 of $2.50"):
        assert name in page


def test_what_is_used_is_shown_and_a_budget_is_changed_and_ended(db: None) -> None:
    acme = world.organization()
    made = ceiling(acme, "1")
    tokens = ceiling(acme, "2400", unit="tokens", window="7d")
    record(attributed(acme, event()))
    client = owner(acme)
    page = client.get(PLACE).content.decode()
    assert f"{Decimal(COST)} USD used" in page
    assert "1,200 of 2,400 tokens" in page
    assert 'value="50"' in page
    assert "full: calls are refused" not in page
    assert [
        "At most (USD)" in client.get(one(made)).content.decode(),
        "At most (tokens)" in client.get(one(tokens)).content.decode(),
    ] == [True, True]
    assert client.post(one(made), {"ceiling": "7", "warn_percent": "50"}).status_code == 302
    made.refresh_from_db()
    assert (made.ceiling, made.warn_percent) == (7, 50)
    assert client.post(one(tokens, "/end")).status_code == 302
    assert [each.budget.pk for each in budgets.standing(acme.pk)] == [made.pk]
    assert client.post(one(tokens, "/end")).status_code == 404


def test_a_key_that_is_named_in_the_address_is_chosen(db: None) -> None:
    acme = world.organization()
    key = world.organization_key(acme).key
    shown = f"key:{ids.show('key', key.pk)}"
    page = owner(acme).get(f"{PLACE}/new", {"for": shown}).content.decode()
    assert f'<option value="{shown}" selected>' in page


def test_a_ceiling_of_which_nothing_is_left_says_that_calls_are_refused(db: None) -> None:
    acme = world.organization()
    ceiling(acme, COST)
    record(attributed(acme, event()))
    assert "full: calls are refused" in owner(acme).get(PLACE).content.decode()


def test_keys_of_one_name_are_told_apart(db: None) -> None:
    acme = world.organization()
    first, second = (world.organization_key(acme, name="server").key for _ in range(2))
    told = [f"server (…{key.last_four})" for key in (first, second)]
    client = owner(acme)
    form = client.get(f"{PLACE}/new").content.decode()
    budgets.set_ceiling(
        organization_id=acme.pk, subject="key", subject_id=second.pk, window="7d", unit="usd", ceiling=Decimal(1),
        by=world.BY,
    )  # fmt: skip
    page = client.get(PLACE).content.decode()
    assert [(name in form, name in page) for name in told] == [(True, False), (True, True)]


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"ceiling": "-1"}, "ceiling", "At most is zero or more"),
        ({"ceiling": "NaN"}, "ceiling", "Enter a number."),
        ({"ceiling": "1" + "0" * 11}, "ceiling", "At most is zero or more"),
        ({"warn_percent": "0"}, "warn_percent", "Mail us at (%) is a whole number from 1 to 100"),
        ({"window": "2d"}, "window", "is not one of the available choices"),
        ({"subject_id": "key:key_00000000000000000000000000"}, "subject_id", "is not one of the available choices"),
        ({"subject_id": "planet:earth"}, "subject_id", "is not one of the available choices"),
    ],
)
def test_a_wrong_budget_is_told_at_its_field(db: None, wrong: dict[str, str], field: str, said: str) -> None:
    answer = owner(world.organization()).post(f"{PLACE}/new", told("organization:", **wrong))
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert f'id="id_{field}_error"' in answer.content.decode()
    assert not Budget.objects.exists()


def test_what_belongs_to_others_is_not_there(db: None) -> None:
    acme, other = world.organization(), world.organization("other")
    theirs = ceiling(other, "1")
    key = world.organization_key(other).key
    client = owner(acme)
    before = AuditEntry.objects.count()
    for place in (one(theirs), f"{PLACE}/{ids.show('budget', ids.new())}", f"{PLACE}/budget_1"):
        assert client.get(place).status_code == 404
        assert client.post(place, {"ceiling": "9", "warn_percent": "9"}).status_code == 404
        assert client.post(f"{place}/end").status_code == 404
    shown = f"key:{ids.show('key', key.pk)}"
    assert shown not in client.get(f"{PLACE}/new", {"for": shown}).content.decode()
    assert client.post(f"{PLACE}/new?for={shown}", told(shown)).status_code == 422
    assert AuditEntry.objects.count() == before


@pytest.mark.parametrize("role", ["member", "viewer"])
def test_who_does_not_manage_the_money_sets_nothing(db: None, role: str) -> None:
    acme = world.organization()
    made = ceiling(acme, "1")
    client = member(acme, role)
    assert client.get(PLACE).status_code == (200 if role == "viewer" else 403)
    assert_refused(client, f"{PLACE}/new", **told("organization:"))
    assert_refused(client, one(made), ceiling="9")
    assert_refused(client, one(made, "/end"))
    assert_refused(client, f"{PLACE}/alerts", low_usd="9")
    assert Budget.objects.get().ceiling == 1


def test_the_warning_line_is_set_and_it_is_said_who_is_told(db: None) -> None:
    acme = world.organization()
    world.member(acme, "ada@example.com", "billing")
    world.member(acme, "eve@example.com", "viewer")
    client = owner(acme)
    assert client.post(f"{PLACE}/alerts", {"low_usd": "12.5"}).status_code == 302
    assert wallets.state(acme.pk).low_usd == Decimal("12.5")
    page = client.get(PLACE).content.decode()
    assert "$12.50" in page
    assert "ada@example.com" in page
    assert "eve@example.com" not in page
    wrong = client.post(f"{PLACE}/alerts", {"low_usd": "-1"})
    assert "Tell us below (USD) is zero or more" in wrong.content.decode()
    assert wallets.state(acme.pk).low_usd == Decimal("12.5")


@pytest.mark.parametrize(
    ("ceiling", "spent", "held", "shown"),
    [("10", "0", "0", 0), ("10", "7.9999", "0", 79), ("10", "7", "2.99", 99), ("10", "9", "1", 100),
     ("10", "25", "0", 100), ("0", "0", "0", 100), ("10", "-3", "0", 0), ("3", "1", "0", 33),
     ("0.01", "0.0099", "0", 99), ("0.1", "0.0999", "0", 99), ("999999999999", "999999999998.999999999999", "0", 99)],
)  # fmt: skip
def test_a_meter_is_full_only_when_nothing_is_left(ceiling: str, spent: str, held: str, shown: int) -> None:
    assert percent(Standing(Budget(), Decimal(ceiling), Decimal(spent), Decimal(held))) == shown


def test_the_list_takes_as_many_queries_for_many_ceilings_as_for_one(db: None) -> None:
    acme = world.organization()
    client = owner(acme)
    ceiling(acme, "1", subject="key", subject_id=world.organization_key(acme).key.pk)
    few = count_queries(client, PLACE)
    for _ in range(5):
        ceiling(acme, "1", subject="key", subject_id=world.organization_key(acme, name="<i>x</i>").key.pk)
    assert ApiKey.objects.count() == 6
    assert count_queries(client, PLACE) == few
    page = client.get(PLACE).content.decode()
    assert "<i>x" not in page
    assert "&lt;i&gt;x&lt;/i&gt;" in page
