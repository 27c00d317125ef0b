"""Every page of finance's desk, in a browser."""

from django.conf import settings
from django.contrib import admin
from django.urls import reverse

from tests import desk
from tests.books import Books
from tests.browser.looking import Looker
from tests.journeys import neighbours
from tests.server import WebServer


def test_every_list_and_a_row_of_each_are_whole(books: Books, server: WebServer, look: Looker) -> None:
    house = neighbours.house("acme-labs")
    desk.use(house.organization, 2)
    page = look.window()
    session = desk.superuser().cookies[settings.SESSION_COOKIE_NAME].value
    page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": server.base_url}])
    look.visit(page, f"{server.base_url}{reverse('admin:index')}", name="desk-index")
    for model in admin.site._registry:
        name = f"desk-{model._meta.app_label}-{model._meta.model_name}"
        look.visit(page, f"{server.base_url}{desk.listing(model)}", name=name)
        row = model._default_manager.order_by("pk").first()
        if row is not None:
            look.visit(page, f"{server.base_url}{desk.page(row)}", name=f"{name}-one")
    assert look.faults == [], "\n".join(look.faults)
