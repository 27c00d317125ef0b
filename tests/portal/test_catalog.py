"""Models and the calculator: prices as an organization pays them, by the code that debits."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from core import clock
from metering import catalog, rules
from metering.models import CatalogModel
from orgs import caches
from orgs.models import Organization
from tests import desk
from tests.orgs import world
from tests.portal.test_credit import text
from tests.portal.world import member, owner

MODELS = "/portal/acme-labs/models"
CALCULATOR = f"{MODELS}/calculator"
# 360 × 0.27 + 640 × 0.07 + 200 × 1.10 = 362 millionths of a dollar.
ASKED = {"model": "deepseek-chat", "input_tokens": "1000", "cached_input_tokens": "640", "output_tokens": "200"}


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme-labs")


def move_to(monkeypatch: pytest.MonkeyPatch, at: datetime) -> None:
    """From now on it is then."""
    monkeypatch.setattr(clock, "now", lambda: at)
    caches.forget_all()


def rule(at: datetime, **told: Any) -> None:
    """A rule from an instant on."""
    rules.publish(by=world.BY, reason="tests", effective_from=at, **told)
    caches.forget_all()


def shown(client: Any, slug: str = "deepseek-chat") -> str:
    """The row of a model in the list."""
    told = text(client.get(MODELS, {"q": slug}))
    start = told.index(f"Can {slug}") if f"Can {slug}" in told else told.index(f" {slug} ")
    return told[start : start + 150]


def test_rates_are_those_of_the_catalog_without_a_rule(acme: Organization) -> None:
    assert "deepseek-chat DeepSeek Chat $0.27 $0.07 $1.10 64K DeepSeek tools json" in shown(owner(acme))


def test_the_rule_of_a_price_group_is_announced_and_then_paid(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = owner(world.organization("other"))
    Organization.objects.filter(pk=acme.pk).update(price_group="partners")
    at = (clock.now() + timedelta(hours=2)).replace(microsecond=0)
    rule(at, group="partners", factor=Decimal("1.5"))
    client = owner(acme)
    announced = client.get(MODELS, {"q": "deepseek-chat"})
    (change,) = announced.context["changes"]
    assert (change[0].slug, change[1].at) == ("deepseek-chat", at)
    assert f"{at:%Y-%m-%d %H:%M:%S} UTC $0.405 $0.105 $1.65" in text(announced)
    assert "Prices that change soon" not in text(other.get("/portal/other/models", {"q": "deepseek-chat"}))
    move_to(monkeypatch, at + timedelta(minutes=1))
    now = text(client.get(MODELS, {"q": "deepseek-chat"}))
    assert "DeepSeek Chat $0.405 $0.27 $0.105 $1.65 $1.10 64K DeepSeek" in now
    assert "Prices that change soon" not in now
    assert "$0.405" not in text(other.get("/portal/other/models", {"q": "deepseek-chat"}))
    page = text(client.get(f"{MODELS}/deepseek-chat"))
    assert "Input $0.405" in page
    assert "The list price is $0.27 in and $1.10 out; these are your own." in page


def test_a_price_of_the_catalog_is_announced(acme: Organization) -> None:
    at = (clock.now() + timedelta(days=30)).replace(microsecond=0)
    catalog.load({"format": catalog.FORMAT, "models": [_entry(at)]})
    caches.forget_all()
    told = text(owner(acme).get(f"{MODELS}/deepseek-chat"))
    assert f"From {at:%Y-%m-%d %H:%M:%S} UTC 1M tokens cost $0.28 in and $0.42 out." in told


def _entry(at: datetime) -> dict[str, Any]:
    """The model with a later price."""
    model = catalog.listing().models["deepseek-chat"]
    rates = {"terms": [{"when": {}, "rates": {"input": "0.28", "output": "0.42"}}], "units": {}, "request": "0"}
    fields = ("name", "vendor", "brand", "provider", "owned_by", "kind", "categories", "capabilities", "encoding")
    return {
        "id": model.slug, **{name: getattr(model, name) for name in fields},
        "released_at": clock.to_unix(model.released_at),
        "prices": [{"effective_from": at.isoformat(), "rates": rates, "source": "tests"}],
    }  # fmt: skip


def test_models_are_found_by_text_provider_and_capability(acme: Organization) -> None:
    client = owner(acme)

    def found(**asked: str) -> list[str]:
        return [row.model.slug for row in client.get(MODELS, asked).context["rows"]]

    assert found(q="DEEPSEEK-CH") == ["deepseek-chat"]
    assert "gpt-4o" in found(provider="OpenAI")
    assert not any(slug.startswith("claude") for slug in found(provider="OpenAI"))
    assert "deepseek-chat" not in found(can="logprobs", q="deepseek-chat")
    assert found(q="<script>") == []
    assert "&lt;script&gt;" in client.get(MODELS, {"q": "<script>"}).content.decode()
    every, after = [], ""
    for _ in range(20):
        page = client.get(MODELS, {"after": after})
        every += [row.model.slug for row in page.context["rows"]]
        after = page.context["older"]
        if not after:
            break
    assert sorted(every) == [model.slug for model in catalog.offered(group="standard")]
    assert len(set(every)) == len(every) > 100


def test_no_page_asks_once_for_each_model(acme: Organization) -> None:
    client = owner(acme)
    few = len(desk.read(client, MODELS, q="deepseek-chat").queries)
    assert len(desk.read(client, MODELS).queries) == few < 20


def test_a_model_that_is_not_on_offer_has_no_page(acme: Organization) -> None:
    client = owner(acme)
    assert client.get(f"{MODELS}/no-such-model").status_code == 404
    CatalogModel.objects.filter(slug="deepseek-chat").update(retired_at=clock.now())
    caches.forget_all()
    assert client.get(f"{MODELS}/deepseek-chat").status_code == 404
    assert client.get(MODELS, {"q": "deepseek-chat"}).context["rows"] == []


def test_a_month_costs_to_the_last_digit_what_the_requests_will(acme: Organization) -> None:
    page = owner(acme).get(CALCULATOR, {**ASKED, "requests": "333333333"})
    cost = page.context["cost"]
    assert (cost.quote.cost_usd, cost.month_usd) == (Decimal("0.000362"), Decimal("120666.666546"))
    told = text(page)
    assert "A month of 333,333,333 requests $120,666.66 exactly 120666.666546 USD" in told
    assert "Input 360 $0.27 0.0000972 Cached input 640 $0.07 0.0000448 Output 200 $1.10 0.00022" in told


def test_the_calculator_goes_by_the_organizations_own_prices(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = clock.now() + timedelta(hours=1)
    rule(at, organization=acme, factor=Decimal("0.5"))
    move_to(monkeypatch, at + timedelta(minutes=1))
    page = member(acme, "viewer").get(CALCULATOR, {**ASKED, "requests": "2"})
    assert page.context["cost"].month_usd == Decimal("0.000362")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"model": "no-such-model"}, "model"),
        ({"cached_input_tokens": "1001"}, "input_tokens"),
        ({"input_tokens": "-1"}, "input_tokens"),
        ({"output_tokens": "2147483648"}, "output_tokens"),
        ({"requests": "0"}, "requests"),
        ({"requests": "1.5"}, "requests"),
        ({"batch": "on"}, "batch"),
        ({"model": "<script>alert(1)</script>"}, "model"),
    ],
)
def test_what_cannot_be_calculated_is_said_at_its_field(acme: Organization, wrong: dict[str, str], field: str) -> None:
    page = owner(acme).get(CALCULATOR, {**ASKED, "requests": "10", **wrong})
    assert (page.context["cost"], list(page.context["form"].errors)) == (None, [field])
    # Beside the form, where the sum would be, what is wrong is said with the name of its field.
    label = page.context["form"][field].label
    assert f'<li class="error">{label[:1].upper()}{label[1:]}: ' in page.content.decode()
    assert "<script>alert" not in page.content.decode()


def test_the_calculator_begins_with_the_model_that_it_was_opened_for(acme: Organization) -> None:
    page = owner(acme).get(CALCULATOR, {"model": "gpt-4o"})
    assert page.context["form"]["model"].value() == "gpt-4o"
    assert "Choose a model and say how large a request is." in text(page)
