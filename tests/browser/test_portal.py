"""Every page of the portal, as its owner sees it in a browser."""

import re

from django.urls import get_resolver
from playwright.sync_api import expect

from orgs.models import ApiKey, User
from tests.books import Books
from tests.browser.looking import Looker
from tests.orgs import world
from tests.portal.world import PASSWORD
from tests.server import WebServer

# Pages that need no more than the organization; ways through the others are in test_ways.
_OF_ORGANIZATION = re.compile(r"portal/%\(slug\)s/[a-z/-]*")


def pages(slug: str = "acme-labs") -> list[str]:
    """The addresses of an organization's pages, from the URL configuration."""
    found = []
    for name, entries in get_resolver("portal.urls").reverse_dict.lists():
        for possibilities, *_ in entries:
            for pattern, _ in possibilities:
                if isinstance(name, str) and _OF_ORGANIZATION.fullmatch(pattern):
                    found.append(pattern % {"slug": slug})
    return sorted(set(found))


def test_every_page_is_whole_on_a_screen_and_on_a_phone(books: Books, server: WebServer, look: Looker) -> None:
    acme = world.organization()
    person = User.objects.get(email="owner@acme-labs.example")
    person.set_password(PASSWORD)
    person.save()
    assert acme.slug == "acme-labs"
    for width, dark in ((1280, False), (1280, True), (390, False)):
        mark = f"portal-{width}{'-dark' if dark else ''}"
        page = look.window(width=width, dark=dark)
        look.visit(page, f"{server.base_url}/portal/sign-in", name=f"{mark}-sign-in")
        page.fill("[name=email]", person.email)
        page.fill("[name=password]", PASSWORD)
        page.click("main button")
        page.wait_for_url(f"{server.base_url}/portal/acme-labs/")
        for address in pages():
            look.visit(page, f"{server.base_url}/{address}", name=f"{mark}-{address}")
    assert look.faults == [], "\n".join(look.faults)


def test_a_form_is_sent_once_and_a_part_that_cannot_be_had_says_so(
    books: Books, server: WebServer, look: Looker
) -> None:
    acme = world.organization()
    person = User.objects.get(email="owner@acme-labs.example")
    person.set_password(PASSWORD)
    person.save()
    page = look.window()
    home = f"{server.base_url}/portal/acme-labs/"

    def sign_in() -> None:
        page.fill("[name=email]", person.email)
        page.fill("[name=password]", PASSWORD)
        page.click("main button")

    page.goto(f"{server.base_url}/portal/sign-in")
    sign_in()
    page.wait_for_url(home)
    page.goto(f"{home}keys/new")
    page.fill("[name=name]", "once")
    page.evaluate("() => { const it = document.querySelector('main form button'); it.click(); it.click(); }")
    page.wait_for_selector("#secret")
    assert ApiKey.objects.for_org(acme.pk).count() == 1

    # The list of organizations closes by Escape, and whoever closed it is where they were.
    page.focus("details.switch summary")
    page.keyboard.press("Enter")
    expect(page.locator("details.switch ul")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("details.switch ul")).to_be_hidden()
    expect(page.locator("details.switch summary")).to_be_focused()

    page.goto(f"{home}usage")
    page.route("**/usage?**", lambda route: route.fulfill(status=503, body="down"))
    page.select_option("[name=by]", "key")
    expect(page.locator("#failed")).to_contain_text("This could not be loaded")
    page.unroute("**/usage?**")
    page.select_option("[name=by]", "project")
    expect(page.locator("#failed")).to_have_count(0)

    page.goto(f"{home}usage?period=7")
    page.context.clear_cookies(name="sessionid")
    page.select_option("[name=by]", "key")
    page.wait_for_url("**/sign-in?next=**")
    sign_in()
    page.wait_for_url(f"{home}usage?period=7")
