"""First paint of the customers' pages in a browser, with ten million records in the database."""

import statistics
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.benchmarks import size
from tests.benchmarks.stage import Figure, Stage
from tests.browser.conftest import CHROMIUM
from tests.browser.test_portal import pages

ROUNDS = 5
_PASSWORD = "a password of the benchmark"
# As browsers tell it (Paint Timing, W3C): milliseconds from the navigation's start to the first text or picture.
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def _member(stage: Stage) -> str:
    """The address of a person who owns the first organization, with a password."""
    from orgs import organizations
    from orgs.models import Member

    with size.pointed(stage):
        owner = Member.objects.filter(organization__slug=stage.slugs[0], role__name="owner").first()
        assert owner is not None
        organizations.choose_password(email=owner.user.email, password=_PASSWORD)
        return owner.user.email


def _paint(page: Page, address: str) -> float:
    """Milliseconds to the first paint, the median of ``ROUNDS`` after one that fills the caches."""
    told: list[Any] = []
    for _ in range(ROUNDS + 1):
        answer = page.goto(address)
        assert answer is not None
        assert answer.status == 200, (address, answer.status)
        page.wait_for_function(f"performance.getEntriesByName('first-contentful-paint').length && {_PAINTED} > 0")
        told.append(page.evaluate(_PAINTED))
    return float(statistics.median(told[1:]))


def figures(stage: Stage) -> list[Figure]:
    """Each page of an organization; limit: a page of a few words from the same server, which asks nothing."""
    full = stage.spare["full"]
    size.fill(full)
    email = _member(full)
    slug = full.slugs[0]
    found = []
    with full.server(workers=1) as web, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{web.base_url}/portal/sign-in")
        page.fill("[name=email]", email)
        page.fill("[name=password]", _PASSWORD)
        page.click("main button")
        page.wait_for_url(f"{web.base_url}/portal/**")
        plain = _paint(page, f"{web.base_url}/billing/cards")
        for address in pages(slug):
            took = _paint(page, f"{web.base_url}/{address}")
            name = address.removeprefix(f"portal/{slug}/").strip("/").replace("/", "_") or "overview"
            detail = f"{size.ROWS} records; limit: a page that asks nothing; aim: 300 ms"
            found.append(Figure(f"paint_{name}", took, "ms", plain, detail))
        browser.close()
    return found
