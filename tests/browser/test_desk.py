"""Every page of finance's desk, in a browser."""

from django.conf import settings
from django.contrib import admin
from django.urls import reverse
from playwright.sync_api import Page, expect

from ops.models import Approval
from tests import desk
from tests.billing.paying import fake
from tests.books import Books
from tests.browser.errands import errands, places
from tests.browser.looking import Looker
from tests.fakes.stripe import StripeFake
from tests.journeys import neighbours
from tests.server import WebServer

__all__ = ["fake"]


def enter(look: Looker, server: WebServer) -> Page:
    """A window of somebody who may do everything."""
    page = look.window()
    session = desk.superuser().cookies[settings.SESSION_COOKIE_NAME].value
    page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": server.base_url}])
    return page


def test_every_list_and_a_row_of_each_are_whole(books: Books, server: WebServer, look: Looker) -> None:
    house = neighbours.house("acme-labs")
    desk.use(house.organization, 2)
    page = enter(look, server)
    look.visit(page, f"{server.base_url}{reverse('admin:index')}", name="desk-index")
    for model in admin.site._registry:
        name = f"desk-{model._meta.app_label}-{model._meta.model_name}"
        look.visit(page, f"{server.base_url}{desk.listing(model)}", name=name)
        row = model._default_manager.order_by("pk").first()
        if row is not None:
            look.visit(page, f"{server.base_url}{desk.page(row)}", name=f"{name}-one")
    assert look.faults == [], "\n".join(look.faults)


def test_every_act_asks_on_a_page_that_is_whole(
    books: Books, fake: StripeFake, server: WebServer, look: Looker
) -> None:
    house = neighbours.house("acme-labs")
    desk.use(house.organization, 2)
    errands(house, fake)
    found, missing = places()
    assert missing == []
    assert len(found) > 55
    page = enter(look, server)
    seen: set[str] = set()
    for name, place in found.items():
        look.visit(page, f"{server.base_url}{place}", name=f"act-{name}", axe=False)
        # One form of a kind is enough for axe: they differ by their warning.
        fields = page.evaluate(
            "(document.querySelector('form.asks') ?? document.querySelector('main') ?? document.body).innerText"
        )
        if fields not in seen:
            look.over(page, f"act-{name}")
            seen.add(fields)
        if page.locator("form [name=reason], form [name=source], form [name=resolution]").count() != 1:
            look.faults.append(f"{place}: does not ask why")
    assert look.faults == [], "\n".join(look.faults)


def test_what_an_act_would_change_is_shown_on_pages_that_are_whole(
    books: Books, server: WebServer, look: Looker
) -> None:
    """A rule on prices and an organization's price group, from the form to the page on which a second person agrees."""
    house = neighbours.house("acme-labs")
    root = enter(look, server)
    root.goto(f"{server.base_url}{reverse('admin:metering_pricerule_publish')}")
    root.fill("[name=organization]", "acme-labs")
    root.fill("[name=factor]", "20")
    root.fill("[name=reason]", "what providers ask of us rose")
    root.click("text=Show what it changes")
    expect(root.locator("main, body").first).to_contain_text("+20 %: 1.2 × the catalog's price")
    look.over(root, "foreseen-rule")
    root.click("input[value='Publish a rule']")
    expect(root.locator(".messagelist")).to_contain_text("somebody else grants")
    look.over(root, "waiting-rule")
    root.goto(f"{server.base_url}{desk.page(house.organization, 'price-group')}")
    root.fill("[name=group]", "partners")
    root.fill("[name=reason]", "resells for us")
    root.click("text=Show what it changes")
    look.over(root, "foreseen-group")
    for asked in Approval.objects.all():
        look.visit(root, f"{server.base_url}{desk.page(asked, 'grant')}", name=f"grant-{asked.kind}")
    assert Approval.objects.count() == 1
    assert look.faults == [], "\n".join(look.faults)
