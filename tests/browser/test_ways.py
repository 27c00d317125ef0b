"""The ways of the three kinds of people, from start to end, in a browser against everything that ``make up`` starts.

Stripe is the fake of the tests; its page says so.
"""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import openai
import pypdf
import pytest
from playwright.sync_api import Page, expect

from core import clock
from tests.browser.looking import Looker
from tests.browser.staff import open_desk
from tests.core import running
from tests.core.running import Up

T = TypeVar("T")
PASSWORD = "correct horse battery staple"
WAIT_SECONDS = 120


@pytest.fixture(scope="module")
def product() -> Iterator[Up]:
    """All of the product, with a fake Stripe."""
    with running.folder() as data, Up(data, settings={"STRIPE_FAKE": "1", "ADMIN_TWO_FACTOR": "REQUIRED"}) as up:
        up.wait_ready()
        yield up
        up.stop()


def sooner_or_later(look: Callable[[], T | None]) -> T:
    """What a look finds once the workers have done their part."""
    end = time.monotonic() + WAIT_SECONDS
    while (found := look()) is None:
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.5)
    return found


def letter(folder: Path, to: str) -> str | None:
    """The link in a letter, once it is sent; embedded, letters are files."""
    for file in folder.glob("*"):
        text = file.read_text().replace("=\n", "")
        if to in text and (link := re.search(r"http://\S+/portal/welcome/\S+", text)):
            return link.group().replace("=3D", "=")
    return None


def test_a_customer_signs_up_calls_sees_the_cost_pays_and_has_a_receipt(product: Up, look: Looker) -> None:
    page = look.window()
    page.goto(f"{product.base_url}/portal/sign-up")
    page.fill("[name=email]", "eve@example.com")
    page.click("main button")
    link = sooner_or_later(lambda: letter(product.data_dir / "mail", "eve@example.com"))
    page.goto(link)
    page.fill("[name=password]", PASSWORD)
    page.click("main button")
    look.over(page, "way-welcome")
    page.wait_for_url("**/portal/personal-*/")
    look.over(page, "way-first-page")

    page.goto(f"{product.base_url}/portal/organizations")
    page.fill("[name=name]", "Eve's Engines")
    page.fill("[name=slug]", "eves-engines")
    page.click("main button")
    page.wait_for_url("**/portal/eves-engines/")

    _top_up(page, product, "25")
    page.goto(f"{product.base_url}/portal/eves-engines/keys/new")
    page.fill("[name=name]", "laptop")
    page.click("text=Make the key")
    secret = page.input_value("#secret")
    look.over(page, "way-key-told")

    client = openai.OpenAI(api_key=secret, base_url=f"{product.base_url}/v1", max_retries=0)
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
    assert answer.usage is not None
    cost = Decimal(str(answer.usage.model_extra["cost"]["total_cost"]))  # type: ignore[index]
    page.goto(f"{product.base_url}/portal/eves-engines/requests")
    expect(page.locator("table tbody tr:has-text('gpt-4o-mini')")).to_have_count(1)
    look.over(page, "way-requests")
    page.click("table tbody tr:has-text('gpt-4o-mini') a")
    assert format(cost, "f").rstrip("0") in page.inner_text("main")
    look.over(page, "way-request")

    receipt = sooner_or_later(lambda: _receipt(page, product))
    answered = page.request.get(f"{product.base_url}{receipt}")
    text = pypdf.PdfReader(io.BytesIO(answered.body())).pages[0].extract_text()
    assert "25.00" in text
    assert "Eve" in text
    # The stand-in for Stripe is no page of ours; it has no picture for its tab.
    ours = [fault for fault in look.faults if "/fake/" not in fault]
    assert ours == [], "\n".join(ours)


def _top_up(page: Page, product: Up, amount: str) -> None:
    page.goto(f"{product.base_url}/portal/eves-engines/credit")
    page.fill("[name=amount_usd]", amount)
    page.click("main form:has([name=amount_usd]) button")
    page.wait_for_url("**/fake/**")
    page.click("button[value=pay]")
    page.wait_for_url(f"{product.base_url}/**")

    def paid() -> str | None:
        page.goto(f"{product.base_url}/portal/eves-engines/credit")
        balance = page.locator(".card:has(.label:text-is('Balance')) .figure").inner_text()
        return None if balance == "$0.00" else balance

    assert sooner_or_later(paid) == "$25.00"


def _receipt(page: Page, product: Up) -> str | None:
    page.goto(f"{product.base_url}/portal/eves-engines/invoices")
    first = page.locator("a[href*='/invoices/inv_']").first
    if not first.count():
        return None
    return f"{first.get_attribute('href')}.pdf"


def test_finance_signs_in_gives_credit_and_follows_a_number_to_its_cause(product: Up, look: Looker) -> None:
    page = look.window()
    demo = json.loads((product.data_dir / "demo.json").read_text())
    open_desk(page, product.base_url, demo["admin_user"], demo["admin_password"])
    look.over(page, "way-desk-today")
    page.goto(f"{product.base_url}/admin/billing/wallet/?q=demo")
    page.click("#result_list tbody th a")
    page.click("a:text-is('Move money')")
    look.over(page, "way-desk-move")
    page.fill("[name=amount_usd]", "5")
    page.fill("[name=reason]", "a try of the desk")
    page.click("form.asks input[type=submit]")
    look.over(page, "way-desk-moved")
    page.goto(f"{product.base_url}/admin/orgs/auditentry/?q=demo")
    expect(page.locator("#result_list tbody tr").first).to_contain_text("demo")
    look.over(page, "way-desk-trail")
    assert look.faults == [], "\n".join(look.faults)


def test_an_operator_reads_the_api_reports_an_event_and_is_told_its_cost(product: Up, look: Looker) -> None:
    demo = json.loads((product.data_dir / "demo.json").read_text())
    page = look.window()
    look.visit(page, f"{product.base_url}/docs", name="way-docs", axe=False)
    expect(page.locator(".opblock").first).to_be_visible()
    told = page.request.post(
        f"{product.base_url}/v1/events",
        headers={"Authorization": f"Bearer {demo['service_key']}"},
        data={
            "event_id": "way-1", "occurred_at": clock.to_unix(clock.now()), "organization": demo["organization"],
            "model": "deepseek-chat", "input_tokens": 1000, "output_tokens": 200,
        },
    )  # fmt: skip
    assert told.status == 201
    # 1,000 tokens at $0.27 and 200 at $1.10 a million.
    assert '"cost_usd":0.00049' in told.text()
    assert look.faults == [], "\n".join(look.faults)
