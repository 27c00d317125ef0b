"""First paint of customers' pages and of the desk's in a browser, with ten million records in the database."""

import statistics
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.benchmarks import size
from tests.benchmarks.stage import Figure, Stage
from tests.browser.conftest import CHROMIUM
from tests.browser.staff import open_desk
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


def _lists() -> list[str]:
    """The desk's first page and its lists."""
    from django.contrib import admin
    from django.urls import reverse

    return [
        reverse("admin:index"),
        *(
            reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
            for model in admin.site._registry
        ),
    ]


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
    """Each page of an organization and each list of the desk; limit: a page of the same server that asks nothing."""
    from orgs.models import User

    full = stage.spare["full"]
    size.fill(full)
    email, staff, lists = _member(full), "finance@bench.example", _lists()
    with size.pointed(full):
        User.objects.create_superuser(staff, _PASSWORD)
    slug = full.slugs[0]
    found = []
    with full.server(workers=1) as web, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        # The wait for the paint is a script of the driver, which the policy of the pages refuses.
        page = browser.new_page(bypass_csp=True)
        page.goto(f"{web.base_url}/portal/sign-in")
        page.fill("[name=email]", email)
        page.fill("[name=password]", _PASSWORD)
        page.click("main button")
        page.wait_for_url(f"{web.base_url}/portal/**")
        plain = _paint(page, f"{web.base_url}/billing/cards")
        detail = f"{size.ROWS} records; limit: a page that asks nothing; aim: 300 ms"
        for address in pages(slug):
            took = _paint(page, f"{web.base_url}/{address}")
            name = address.removeprefix(f"portal/{slug}/").strip("/").replace("/", "_") or "overview"
            found.append(Figure(f"paint_{name}", took, "ms", plain, detail))
        open_desk(page, web.base_url, staff, _PASSWORD)
        for place in lists:
            took = _paint(page, f"{web.base_url}{place}")
            name = place.removeprefix("/admin/").strip("/").replace("/", "_") or "today"
            found.append(Figure(f"paint_desk_{name}", took, "ms", plain, detail))
        browser.close()
    return found
