"""Prices that two people agree to: rules, their ends, price groups; what is foreseen, and what a yes does."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from core import clock, errors
from metering import agreements, catalog, pricing, rating, rules
from metering.agreements import Wish
from metering.models import CatalogModel, PriceRule
from ops import approvals
from ops.models import Approval
from orgs import audit, caches
from orgs.audit import Actor
from orgs.models import AuditEntry, Organization, User
from tests.orgs import world
from tests.proofs import proves

# In force for deepseek-chat: 0.27 in, 0.07 cached, 1.10 out.
MODEL = "deepseek-chat"
FIFTH_MORE = Decimal("1.2")


def person(email: str) -> Actor:
    return audit.user(User.objects.create_user(email, is_staff=True))


@pytest.fixture
def ada(db: None) -> Actor:
    return person("ada@example.com")


@pytest.fixture
def bob(db: None) -> Actor:
    return person("bob@example.com")


def grant(asked: Approval, by: Actor) -> None:
    approvals.decide(approval_id=asked.pk, by=by, grant=True)
    caches.forget_all()


def model() -> CatalogModel:
    return CatalogModel.objects.get(slug=MODEL)


def pays(of: Organization, at: datetime) -> tuple[str, str]:
    """Input and output of deepseek-chat for an organization, USD per 1M."""
    of.refresh_from_db()
    offer = pricing.book().offer(model(), organization_id=of.pk, group=of.price_group, at=at)
    assert offer is not None
    return shown(offer.card)


def shown(card: rating.RateCard) -> tuple[str, str]:
    rates = next(filter(rating.is_base, card.terms)).rates
    assert rates.input is not None
    assert rates.output is not None
    return str(rating.per_million(rates.input).normalize()), str(rating.per_million(rates.output).normalize())


def later(**shift: int) -> datetime:
    return clock.now() + timedelta(hours=1, **shift)


def published(ada: Actor, bob: Actor, **wish: Any) -> PriceRule:
    asked = agreements.ask_rule(wish=Wish(**wish), reason="as agreed", by=ada)
    grant(asked, bob)
    return PriceRule.objects.get(pk=asked.subject_id)


@proves("A14", guard="a_second_account_is_no_second_person")
def test_a_rule_is_published_by_a_second_person_and_by_nobody_else(ada: Actor, bob: Actor) -> None:
    acme = world.organization("acme")
    same_mailbox = person("ada+pricing@example.com")
    asked = agreements.ask_rule(wish=Wish(group="standard", factor=FIFTH_MORE), reason="costs rose", by=ada)
    for nobody in (ada, same_mailbox):
        with pytest.raises(approvals.SamePerson):
            approvals.decide(approval_id=asked.pk, by=nobody, grant=True)
    assert not PriceRule.objects.exists()
    before = catalog.earliest_start()
    grant(asked, bob)
    rule = PriceRule.objects.get()
    assert (rule.pk, rule.factor, rule.price_group) == (asked.subject_id, FIFTH_MORE, "standard")
    assert (rule.reason, rule.created_by) == ("costs rose", "ada@example.com")
    # Two cache lives and the time that events may be ahead, counted from the yes, and a full minute.
    assert before < rule.effective_from <= catalog.earliest_start() + timedelta(seconds=61)
    assert (rule.effective_from.second, rule.effective_from.microsecond) == (0, 0)
    assert pays(acme, rule.effective_from) == ("0.324", "1.32")
    assert pays(acme, rule.effective_from - timedelta(seconds=1)) == ("0.27", "1.1")
    note = AuditEntry.objects.get(verb="price_rule.published")
    assert (note.actor_label, note.details["reason"]) == ("bob@example.com", "costs rose")


def test_what_was_refused_is_never_published(ada: Actor, bob: Actor) -> None:
    asked = agreements.ask_rule(wish=Wish(factor=FIFTH_MORE), reason="costs rose", by=ada)
    approvals.decide(approval_id=asked.pk, by=bob, grant=False)
    with pytest.raises(errors.Conflict):
        approvals.decide(approval_id=asked.pk, by=bob, grant=True)
    assert not PriceRule.objects.exists()


def test_a_start_that_has_passed_by_the_time_of_the_yes_is_moved_and_a_later_one_is_kept(
    ada: Actor, bob: Actor
) -> None:
    late = published(ada, bob, factor=FIFTH_MORE, effective_from=clock.now() - timedelta(days=1))
    assert late.effective_from > clock.now() + timedelta(seconds=299)
    start = later(days=3)
    assert published(ada, bob, factor=FIFTH_MORE, effective_from=start).effective_from == start


def test_a_rule_that_would_end_before_it_starts_is_not_granted_and_stays_open(ada: Actor, bob: Actor) -> None:
    asked = agreements.ask_rule(wish=Wish(factor=FIFTH_MORE, effective_to=later()), reason="a campaign", by=ada)
    asked.details["effective_to"] = clock.now().isoformat()
    asked.save(update_fields=["details"])
    with pytest.raises(errors.OutOfRange, match="ends after it starts"):
        approvals.decide(approval_id=asked.pk, by=bob, grant=True)
    assert Approval.objects.get(pk=asked.pk).decided_at is None


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"factor": None}, "factor"),
        ({"factor": Decimal("1000.1")}, "factor"),
        ({"factor": FIFTH_MORE, "group": "Gold!"}, "group"),
        ({"factor": FIFTH_MORE, "provider": "nobody"}, "provider"),
        ({"factor": FIFTH_MORE, "effective_to": clock.now()}, "effective_to"),
    ],
)
def test_what_cannot_be_a_rule_is_not_even_asked(ada: Actor, wish: dict[str, Any], param: str) -> None:
    with pytest.raises(errors.OutOfRange) as refused:
        agreements.ask_rule(wish=Wish(**wish), reason="why", by=ada)
    assert refused.value.param == param
    assert not Approval.objects.exists()


def test_a_contract_takes_the_rates_that_it_names_and_the_catalogs_for_the_rest(ada: Actor, bob: Actor) -> None:
    acme, other = world.organization("acme"), world.organization("other")
    rates = agreements.contract(model(), {"input": Decimal("0.2"), "output": Decimal(1)}, at=clock.now())
    rule = published(ada, bob, organization=acme, model=model(), rates=rates)
    assert pays(acme, rule.effective_from) == ("0.2", "1")
    assert pays(other, rule.effective_from) == ("0.27", "1.1")
    card = rating.read_card(PriceRule.objects.get().rates)
    cached = next(filter(rating.is_base, card.terms)).rates.cached_input
    assert cached is not None
    # As the catalog has it.
    assert rating.per_million(cached) == Decimal("0.07")


def test_it_is_foreseen_what_models_cost_before_and_after_and_who_is_touched(ada: Actor, bob: Actor) -> None:
    acme, own = world.organization("acme"), world.organization("own")
    world.organization("elsewhere")
    Organization.objects.filter(slug="elsewhere").update(price_group="gold")
    published(ada, bob, organization=own, factor=Decimal("0.9"))
    found = agreements.foresee_rule(Wish(group="standard", model=model(), factor=FIFTH_MORE))
    (line,) = found.lines
    assert line.model == MODEL
    assert [shown(card) for card in (line.listed, line.before, line.after)] == [
        ("0.27", "1.1"), ("0.27", "1.1"), ("0.324", "1.32"),
    ]  # fmt: skip
    # Who has a rule of their own pays by that, for any model.
    touched = {one.organization.slug: one.models for one in found.touched}
    assert (touched["acme"], touched["own"], "elsewhere" in touched) == (1, 0, False)
    everything = agreements.foresee_rule(Wish(factor=FIFTH_MORE))
    assert len(everything.lines) > 100
    mine = agreements.foresee_rule(Wish(organization=own, factor=Decimal(2), model=model()))
    assert [shown(line.before) for line in mine.lines] == [("0.243", "0.99")]
    assert [one.organization for one in mine.touched] == [own]
    assert not PriceRule.objects.filter(organization=acme).exists()


def test_a_rule_for_the_same_that_starts_later_is_named(ada: Actor, bob: Actor) -> None:
    campaign = published(ada, bob, group="gold", factor=Decimal("0.5"), effective_from=later(days=30))
    found = agreements.foresee_rule(Wish(group="gold", factor=FIFTH_MORE))
    assert [rule.id for rule in found.later] == [campaign.pk]


def test_the_end_of_a_rule_brings_back_what_holds_without_it(ada: Actor, bob: Actor) -> None:
    acme = world.organization("acme")
    published(ada, bob, group="standard", factor=FIFTH_MORE)
    own = published(ada, bob, organization=acme, factor=Decimal("0.9"))
    at = later()
    assert pays(acme, at) == ("0.243", "0.99")
    found = agreements.foresee_end(own, at)
    (line,) = [line for line in found.lines if line.model == MODEL]
    assert (shown(line.before), shown(line.after)) == (("0.243", "0.99"), ("0.324", "1.32"))
    asked = agreements.ask_end(rule=own, at=at, reason="the contract is over", by=ada)
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=asked.pk, by=ada, grant=True)
    grant(asked, bob)
    assert pays(acme, at - timedelta(seconds=1)) == ("0.243", "0.99")
    assert pays(acme, at) == ("0.324", "1.32")
    assert rules.ends_at(own) == at
    with pytest.raises(errors.Conflict, match="ends before that anyway"):
        agreements.ask_end(rule=own, at=at, reason="again", by=ada)
    said = PriceRule.objects.get(ends=own)
    assert (said.reason, said.created_by, said.factor, said.rates) == (
        "the contract is over", "ada@example.com", None, None,
    )  # fmt: skip


def test_a_rule_that_has_not_started_is_taken_back_by_its_end(ada: Actor, bob: Actor) -> None:
    acme = world.organization("acme")
    wrong = published(ada, bob, organization=acme, factor=Decimal(12), effective_from=later(days=7))
    grant(agreements.ask_end(rule=wrong, at=None, reason="12 was meant as percent", by=ada), bob)
    assert pays(acme, later(days=8)) == ("0.27", "1.1")


def test_a_group_is_set_by_a_second_person(ada: Actor, bob: Actor) -> None:
    acme = world.organization("acme")
    rule = published(ada, bob, group="gold", factor=Decimal("0.5"))
    (line,) = [line for line in agreements.foresee_group(acme, "gold").lines if line.model == MODEL]
    # Foreseen for an instant at which every rule of now holds.
    assert (shown(line.before), shown(line.after)) == (("0.27", "1.1"), ("0.135", "0.55"))
    asked = agreements.ask_group(organization=acme, group="gold", reason="a large customer", by=ada)
    with pytest.raises(approvals.SamePerson):
        approvals.decide(approval_id=asked.pk, by=ada, grant=True)
    assert pays(acme, rule.effective_from) == ("0.27", "1.1")
    grant(asked, bob)
    assert pays(acme, rule.effective_from) == ("0.135", "0.55")
    note = AuditEntry.objects.get(verb="organization.price_group_changed")
    assert (note.actor_label, note.details) == (
        "bob@example.com", {"before": "standard", "after": "gold", "reason": "a large customer"},
    )  # fmt: skip


def test_a_second_question_about_a_group_does_not_hide_behind_the_first(ada: Actor, bob: Actor) -> None:
    acme = world.organization("acme")
    first = agreements.ask_group(organization=acme, group="gold", reason="large", by=ada)
    assert agreements.ask_group(organization=acme, group="gold", reason="large", by=ada).pk == first.pk
    with pytest.raises(errors.Conflict, match="waits for a second person already"):
        agreements.ask_group(organization=acme, group="tin", reason="small", by=ada)
    Organization.objects.filter(pk=acme.pk).update(price_group="tin")
    with pytest.raises(errors.Conflict, match="in the group tin by now"):
        approvals.decide(approval_id=first.pk, by=bob, grant=True)
    with pytest.raises(errors.Conflict, match="is in that group"):
        agreements.ask_group(organization=Organization.objects.get(pk=acme.pk), group="tin", reason="x", by=ada)
