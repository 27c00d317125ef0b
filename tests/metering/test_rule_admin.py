"""The desk's pages of rules: shown first, asked by one, granted by another; who may and who may not."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from core import clock
from metering import catalog, rules
from metering.models import CatalogModel, PriceRule
from ops.models import Approval
from orgs import caches
from orgs.models import AuditEntry, Organization
from tests import desk
from tests.orgs import world

PUBLISH = "/admin/metering/pricerule/publish/"
NASTY = "<script>alert(1)</script>"
EMPTY = dict.fromkeys(
    (
        *("organization", "group", "model", "provider", "factor", "input", "cached_input", "cache_write", "output"),
        *("effective_from", "effective_to"),
    ),
    "",
)


@pytest.fixture
def ada(db: None) -> Client:
    return desk.clerk("view_pricerule", "change_pricerule", "change_organization", "view_organization")


@pytest.fixture
def bob(db: None) -> Client:
    return desk.superuser("bob@example.com")


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def rule(**told: Any) -> PriceRule:
    at = clock.now() + timedelta(hours=1)
    made = rules.publish(by=world.BY, reason="a contract", effective_from=at, factor=Decimal(2), **told)
    caches.forget_all()
    return made


def button(shown: desk.Page) -> str:
    """What sends the form."""
    (found,) = re.findall(r'<input type="submit" class="default" value="([^"]*)">', shown.text)
    return str(found)


def again(client: Client, shown: desk.Page, told: dict[str, str]) -> desk.Page:
    """Send what was shown once more, as the page itself would."""
    (seen,) = re.findall(r'name="foreseen" value="([0-9a-f]{64})"', shown.text)
    return desk.send(client, shown.address, **told, foreseen=seen)


def done(client: Client, place: str, **told: str) -> desk.Page:
    """Look at what it changes, and send it."""
    told = {**told, "reason": "as agreed"}
    return again(client, desk.send(client, place, **told), told)


def test_a_markup_is_shown_first_then_asked_then_published_by_a_second_person(
    ada: Client, bob: Client, acme: Organization
) -> None:
    assert desk.buttons(desk.read(ada, desk.listing(PriceRule))) == ["Publish a rule"]
    assert button(desk.read(ada, PUBLISH)) == "Show what it changes"
    told = {**EMPTY, "group": "standard", "model": desk.MODEL, "factor": "20", "reason": "costs rose"}
    shown = desk.send(ada, PUBLISH, **told)
    assert (shown.address, button(shown)) == (PUBLISH, "Publish a rule")
    lines = desk.cells(shown.text)
    assert ["pays", "+20 %: 1.2 × the catalog&#x27;s price"] in lines
    assert ["for whom", "group standard"] in lines
    assert ["deepseek-chat", "0.27", "1.1", "0.27", "1.1", "0.324", "1.32", "+20 %"] in lines
    assert ["acme-labs", "standard", "1"] in lines
    assert not Approval.objects.exists()

    # Another figure is another thing: it is shown anew.
    other = again(ada, shown, {**told, "factor": "30"})
    assert ["deepseek-chat", "0.27", "1.1", "0.27", "1.1", "0.351", "1.43", "+30 %"] in desk.cells(other.text)
    assert not Approval.objects.exists()

    asked = again(ada, shown, told)
    (question,) = Approval.objects.all()
    assert desk.said(asked) == [
        f"warning: This waits until a second person agrees: somebody else grants {question} under Approvals."
    ]
    assert not PriceRule.objects.exists()

    place = desk.page(question, "grant")
    grant = desk.read(bob, place)
    assert ["deepseek-chat", "0.27", "1.1", "0.27", "1.1", "0.324", "1.32", "+20 %"] in desk.cells(grant.text)
    assert ["asked by", "clerk@example.com"] in desk.cells(grant.text)
    agreed = desk.send(bob, place)
    published = PriceRule.objects.get()
    assert desk.said(agreed) == [f"success: Granted, and done: {published}."]
    assert f'href="{desk.page(published)}"' in agreed.text
    assert (published.factor, published.price_group, published.reason) == (Decimal("1.2"), "standard", "costs rose")
    notes = dict(AuditEntry.objects.filter(verb__startswith="price_rule").values_list("verb", "actor_label"))
    assert notes == {"price_rule.published": "bob@example.com"}
    text = desk.read(bob, desk.listing(PriceRule)).text
    assert "+20 %: 1.2 × the catalog" in text
    assert "waits for a second person" not in text


def test_what_waits_stands_above_the_rules(ada: Client, bob: Client) -> None:
    done(ada, PUBLISH, **{**EMPTY, "factor": "-15"})
    (question,) = Approval.objects.all()
    shown = desk.read(bob, desk.listing(PriceRule))
    assert f'href="{desk.page(question)}"' in shown.text
    assert "factor: 0.85" in shown.text
    # Who may not see approvals is told nothing of them.
    assert str(question) not in desk.read(ada, desk.listing(PriceRule)).text
    # Until it is granted there is no page of the rule to lead to.
    about = desk.read(bob, desk.page(question))
    assert f"rule/{question.subject_id}" not in about.text


def test_a_contract_shows_its_whole_card(ada: Client, bob: Client, acme: Organization) -> None:
    told = {**EMPTY, "organization": "acme-labs", "model": desk.MODEL, "input": "0.2", "output": "1", "reason": "June"}
    shown = desk.send(ada, PUBLISH, **told)
    lines = desk.cells(shown.text)
    assert ["deepseek-chat", "0.27", "1.1", "0.27", "1.1", "0.2", "1", "-25.92 %"] in lines
    assert ["pays", "its own rates"] in lines
    # Input, cached input, both cache writes, which cost what input costs in the catalog too, and output.
    assert ["ordinary", "0.2", "0.07", "0.2", "0.2", "1"] in lines
    again(ada, shown, told)
    # A card is no line of a list.
    assert "rates: see its page" in desk.read(bob, desk.listing(PriceRule)).text
    desk.send(bob, desk.page(Approval.objects.get(), "grant"))
    assert PriceRule.objects.get().rates["terms"][0]["rates"]["input"] == "0.2"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, "A rule has a factor or rates, one of them."),
        ({"factor": "20", "organization": "nobody"}, "No organization has that name."),
        ({"factor": "20", "model": NASTY}, "No model of the catalog has that id."),
        ({"factor": "20", "group": "Gold!"}, "group has 1 to 63 lower-case letters, digits and inner hyphens."),
        ({"factor": "20", "organization": "acme-labs", "group": "gold"},
         "A rule is for an organization or for a group, not both."),
        ({"factor": "20", "model": desk.MODEL, "provider": "OpenAI"},
         "A rule is for a provider or for a model, not both."),
        ({"factor": "-101"}, "Ensure this value is greater than or equal to -100."),
        ({"factor": "0.00001"}, "Ensure that there are no more than 4 decimal places."),
        ({"input": "1"}, "Rates of its own are for one model."),
        ({"input": "-1", "model": desk.MODEL}, None),
        ({"factor": "20", "effective_to": "2020-01-01T00:00"}, "A rule ends after it starts."),
        ({"factor": "20", "reason": " "}, "This field is required."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_field_and_nothing_is_asked(
    ada: Client, acme: Organization, told: dict[str, str], why: str | None
) -> None:
    shown = desk.send(ada, PUBLISH, **{**EMPTY, "reason": "why", **told})
    found = desk.errors(shown)
    assert found == [why] if why else len(found) == 1
    assert (shown.address, button(shown)) == (PUBLISH, "Show what it changes")
    assert NASTY not in shown.text
    assert not Approval.objects.exists()


def test_an_answer_that_was_never_shown_asks_nothing(ada: Client) -> None:
    told = {**EMPTY, "factor": "20", "reason": "why"}
    for foreseen in ("", "0" * 64):
        shown = desk.send(ada, PUBLISH, **told, foreseen=foreseen)
        assert button(shown) == "Publish a rule"
    assert not Approval.objects.exists()


def test_a_rule_ends_early_when_a_second_person_agrees(ada: Client, bob: Client, acme: Organization) -> None:
    standing, other = rule(organization=acme), rule(group="gold")
    assert desk.buttons(desk.read(ada, desk.page(standing))) == ["End early"]
    at = clock.now() + timedelta(days=3)
    told = {"at": f"{at:%Y-%m-%dT%H:%M}"}
    shown = desk.send(ada, desk.page(standing, "end"), **told, reason="over")
    assert any(line[0] == desk.MODEL for line in desk.cells(shown.text)) or "The first 20 of" in shown.text
    again(ada, shown, {**told, "reason": "over"})
    (question,) = Approval.objects.all()
    assert ["acme-labs", "standard"] in [
        line[:2] for line in desk.cells(desk.read(bob, desk.page(question, "grant")).text)
    ]
    desk.send(bob, desk.page(question, "grant"))
    text = desk.read(bob, desk.listing(PriceRule)).text
    ends = re.findall(r'class="field-until\b[^>]*>([^<]*)<', text)
    assert sorted(ends) == ["-", "-", f"{at:%Y-%m-%d %H:%M}:00"]
    assert f'ends <a href="{desk.page(standing)}">{standing}</a>' in text
    said = PriceRule.objects.get(ends=standing)
    assert desk.buttons(desk.read(ada, desk.page(said))) == []
    assert desk.buttons(desk.read(ada, desk.page(other))) == ["End early"]
    assert "End early" in desk.buttons(desk.read(ada, desk.page(standing)))


def test_a_price_group_is_set_when_a_second_person_agrees(ada: Client, bob: Client, acme: Organization) -> None:
    rule(group="gold", model=CatalogModel.objects.get(slug=desk.MODEL))
    assert "Set the price group" in desk.buttons(desk.read(ada, desk.page(acme)))
    place = desk.page(acme, "price-group")
    assert "Rules name: gold." in desk.read(ada, place).text
    assert desk.errors(desk.send(ada, place, group="standard", reason="x")) == ["acme-labs is in that group."]
    shown = desk.send(ada, place, group="gold", reason="large")
    assert ["price group", "standard → gold"] in desk.cells(shown.text)
    assert ["deepseek-chat", "0.27", "1.1", "0.27", "1.1", "0.54", "2.2", "+100 %"] in desk.cells(shown.text)
    assert "No rule names the group" not in shown.text
    again(ada, shown, {"group": "gold", "reason": "large"})
    (question,) = Approval.objects.all()
    assert Organization.objects.get(pk=acme.pk).price_group == "standard"
    assert "group: standard → gold" in desk.read(bob, desk.listing(PriceRule)).text
    desk.send(bob, desk.page(question, "grant"))
    assert Organization.objects.get(pk=acme.pk).price_group == "gold"


def test_who_may_not_change_rules_asks_and_grants_nothing(ada: Client, acme: Organization) -> None:
    viewer = desk.clerk(
        "view_pricerule", "change_approval", "view_approval", "view_organization", email="eve@example.com"
    )
    standing = rule(organization=acme)
    assert desk.buttons(desk.read(viewer, desk.listing(PriceRule))) == []
    assert desk.buttons(desk.read(viewer, desk.page(standing))) == []
    for place in (PUBLISH, desk.page(standing, "end"), desk.page(acme, "price-group")):
        assert viewer.get(place).status_code == 403
        assert viewer.post(place, {**EMPTY, "factor": "20", "group": "gold"}).status_code == 403
    done(ada, PUBLISH, **{**EMPTY, "factor": "20"})
    done(ada, desk.page(standing, "end"), at="")
    done(ada, desk.page(acme, "price-group"), group="gold")
    for question in Approval.objects.all():
        assert desk.said(desk.send(viewer, desk.page(question, "grant"))) == [
            "error: Your role does not decide about this."
        ]
    assert Approval.objects.filter(decided_at=None).count() == 3
    assert PriceRule.objects.count() == 1


def test_lists_of_rules_take_the_same_queries_for_many(bob: Client, acme: Organization) -> None:
    rule()
    few = desk.read(bob, desk.listing(PriceRule))
    ended = [rule(group=f"g{number}") for number in range(30)]
    for one in ended:
        rules.end(rule=one, at=catalog.earliest_start() + timedelta(hours=2), by=world.BY, reason="over")
    many = desk.read(bob, desk.listing(PriceRule))
    assert len(many.rows) == 50
    assert len(few.queries) == len(many.queries), many.queries
    assert desk.counting([many]) == []


def test_what_a_question_is_about_can_be_gone(bob: Client, ada: Client, acme: Organization) -> None:
    done(ada, PUBLISH, **{**EMPTY, "organization": "acme-labs", "factor": "20"})
    (question,) = Approval.objects.all()
    Organization.objects.filter(pk=acme.pk).update(slug="acme-new")
    shown = desk.read(bob, reverse("admin:ops_approval_grant", args=[question.pk]))
    assert "is not there any more" in shown.text
    assert desk.said(desk.send(bob, desk.page(question, "grant")))[0].startswith("error: Whom or what")
    assert Approval.objects.get().decided_at is None
