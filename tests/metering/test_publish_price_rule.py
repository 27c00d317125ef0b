"""``manage.py publish_price_rule``, ``end_price_rule`` and ``set_price_group``: they say what would change, and ask."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from core import clock
from metering import rules
from metering.models import CatalogModel, PriceRule
from ops import approvals
from ops.models import Approval
from orgs import audit, caches
from orgs.models import Organization, User
from tests.orgs import world

ADA = ("--reason", "costs rose", "--by", "ada@example.com")
PUBLISH, END, GROUP = "publish_price_rule", "end_price_rule", "set_price_group"


@pytest.fixture
def run(db: None) -> Callable[..., str]:
    """What a command says, asked by ada."""
    User.objects.create_user("ada@example.com", is_staff=True)

    def say(*words: str) -> str:
        out = io.StringIO()
        call_command(*words, *ADA, stdout=out)
        return out.getvalue()

    return say


def grant(asked: Approval) -> None:
    bob = User.objects.create_user("bob@example.com", is_staff=True)
    approvals.decide(approval_id=asked.pk, by=audit.user(bob), grant=True)


def test_a_markup_is_asked_for_and_published_by_a_second_person(run: Callable[..., str]) -> None:
    world.organization("acme-labs")
    said = run(PUBLISH, "--group", "standard", "--model", "deepseek-chat", "--percent", "20")
    asked = Approval.objects.get()
    first, second, *rest = said.splitlines()
    assert first.endswith("1 models cost something else")
    assert second == "  deepseek-chat: 0.27 / 1.1 -> 0.324 / 1.32 (catalog 0.27 / 1.1)"
    assert rest[-1] == f"{asked}: waits for a second person, at the desk under Approvals."
    assert "acme-labs" in rest[0]
    assert not PriceRule.objects.exists()
    grant(asked)
    rule = PriceRule.objects.get()
    assert (rule.price_group, rule.factor, rule.created_by) == ("standard", Decimal("1.2"), "ada@example.com")


def test_machines_are_told_in_json(run: Callable[..., str]) -> None:
    acme = world.organization("acme-labs")
    told = json.loads(run(PUBLISH, "--organization", "acme-labs", "--percent", "-12.5", "--json"))
    asked = Approval.objects.get()
    assert (told["approval"], told["state"], told["organizations"]) == (str(asked), "waiting", 1)
    assert told["models"] > 100
    grant(asked)
    rule = PriceRule.objects.get()
    assert (told["rule"], rule.factor, rule.organization) == (str(rule), Decimal("0.875"), acme)


def test_a_check_asks_nobody(run: Callable[..., str]) -> None:
    assert "Nobody was asked." in run(PUBLISH, "--percent", "20", "--check")
    assert json.loads(run(PUBLISH, "--percent", "20", "--check", "--json"))["state"] == "checked"
    assert not Approval.objects.exists()


@pytest.mark.parametrize(
    ("document", "rates"),
    [
        ({"input": "0.2", "output": "1"}, ("0.2", "0.07")),
        ({"terms": [{"when": {}, "rates": {"input": "0.2", "output": "1"}}]}, ("0.2", None)),
    ],
)
def test_a_contract_is_read_from_a_file(
    run: Callable[..., str], tmp_path: Path, document: dict[str, Any], rates: tuple[str, str | None]
) -> None:
    world.organization("acme-labs")
    file = tmp_path / "rates.json"
    file.write_text(json.dumps(document))
    run(PUBLISH, "--organization", "acme-labs", "--model", "deepseek-chat", "--rates", str(file))
    grant(Approval.objects.get())
    told = PriceRule.objects.get().rates["terms"][0]["rates"]
    assert (told["input"], told.get("cached_input")) == rates


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--percent", "20", "--organization", "nobody"), "--organization: No organization nobody."),
        (("--percent", "20", "--model", "gpt-0"), "--model: gpt-0 is not in the catalog."),
        (("--percent", "20", "--provider", "nobody"), "--provider: No model of the catalog is of that provider."),
        (("--percent", "20", "--group", "Gold!"), "--group: group has 1 to 63"),
        (("--percent", "-101"), "--percent: factor lies between 0 and 1000"),
        (("--percent", "20", "--ends-at", "2020-01-01T00:00:00Z"), "--ends-at: A rule ends after it starts."),
        (("--percent", "20", "--starts-at", "2099-01-01"), "argument --starts-at: an instant needs its zone"),
        (("--percent", "twenty"), "argument --percent: 'twenty' is no number"),
        (("--rates", "nowhere.json"), "--model: Rates of its own are for one model."),
        (("--rates", "nowhere.json", "--model", "gpt-4o"), "--rates: nowhere.json: "),
        (("--percent", "1", "--rates", "x"), "argument --rates: not allowed with argument --percent"),
        ((), "one of the arguments --percent --rates is required"),
        (("--percent", "1", "--by", "eve@example.com"), "--by: Nobody here has the address eve@example.com."),
        (("--percent", "1", "--reason", " "), "--reason: reason says why, in words."),
    ],
)
def test_what_is_wrong_is_said_by_the_arguments_name(run: Callable[..., str], words: tuple[str, ...], why: str) -> None:
    with pytest.raises(CommandError) as refused:
        call_command(PUBLISH, *ADA, *words)
    assert why in str(refused.value)
    assert not Approval.objects.exists()


def test_rates_of_a_file_are_texts_by_pool(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    documents: list[Any] = [{"input": 0.2}, {"inputs": "0.2"}, {"input": "-"}, [], {"input": "0.0000001"}]
    for document in documents:
        file.write_text(json.dumps(document))
        with pytest.raises(CommandError, match="--rates: "):
            run(PUBLISH, "--model", "deepseek-chat", "--rates", str(file))
    assert not Approval.objects.exists()


def test_the_end_of_a_rule_is_asked_for_and_said_by_a_second_person(run: Callable[..., str]) -> None:
    world.organization("acme-labs")
    rule = rules.publish(
        by=world.BY, reason="a contract", effective_from=clock.now() + timedelta(hours=1), group="standard",
        factor=Decimal(2), model=CatalogModel.objects.get(slug="deepseek-chat"),
    )  # fmt: skip
    caches.forget_all()
    at = (clock.now() + timedelta(days=3)).replace(microsecond=0)
    told = run(END, str(rule), "--at", at.isoformat())
    assert "  deepseek-chat: 0.54 / 2.2 -> 0.27 / 1.1 (catalog 0.27 / 1.1)" in told.splitlines()
    asked = Approval.objects.get()
    assert json.loads(run(END, str(rule), "--at", at.isoformat(), "--json")) == {
        "approval": str(asked), "rule": str(rule), "state": "waiting", "models": 1,
    }  # fmt: skip
    assert rules.ends_at(rule) is None
    grant(asked)
    assert rules.ends_at(rule) == at
    for words, why in (
        ((str(rule), "--at", at.isoformat()), "--at: This ends before that anyway."),
        (("rule_nobody",), "RULE: No price rule rule_nobody."),
        ((str(rule), "--by", "eve@example.com"), "--by: Nobody here has"),
        ((str(rule), "--reason", " "), "--reason: reason says why"),
    ):
        with pytest.raises(CommandError, match=why):
            call_command(END, *ADA, *words)


def test_a_price_group_is_asked_for_and_set_by_a_second_person(run: Callable[..., str]) -> None:
    acme = world.organization("acme-labs")
    told = json.loads(run(GROUP, "acme-labs", "partners", "--json"))
    asked = Approval.objects.get()
    assert told == {
        "approval": str(asked), "organization": "acme-labs", "state": "waiting", "models": 0, "before": "standard",
        "after": "partners",
    }  # fmt: skip
    assert f"{asked}: waits" in run(GROUP, "acme-labs", "partners")
    grant(asked)
    acme.refresh_from_db()
    assert acme.price_group == "partners"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("nobody", "gold"), "SLUG: No organization nobody."),
        (("acme-labs", "Gold!"), "group: group has 1 to 63"),
        (("acme-labs", "standard"), "group: acme-labs is in that group."),
        (("acme-labs", "gold", "--by", "eve@example.com"), "--by: Nobody here has"),
        (("acme-labs", "gold", "--reason", ""), "--reason: reason says why"),
    ],
)
def test_a_group_that_cannot_be_set_is_not_asked_for(run: Callable[..., str], words: tuple[str, ...], why: str) -> None:
    world.organization("acme-labs")
    with pytest.raises(CommandError) as refused:
        call_command(GROUP, *ADA, *words)
    assert why in str(refused.value)
    assert not Approval.objects.exists()
    assert Organization.objects.get(slug="acme-labs").price_group == "standard"
