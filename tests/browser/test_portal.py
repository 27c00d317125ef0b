"""Every page of the portal, as its owner sees it in a browser."""

import re

from django.urls import get_resolver

from orgs.models import User
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
