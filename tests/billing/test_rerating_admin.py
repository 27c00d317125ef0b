"""The desk's pages of re-ratings: planned, applied, undone, and by whom."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client

from billing import rerating, tasks
from billing.models import Correction, Rerating, ReratingShare, Wallet
from core import clock, ids
from metering import rating, usage
from metering.catalog import Listing, Version
from orgs.models import AuditEntry, Organization, User
from tests import desk
from tests.billing.pages import NASTY, acme, cells_of_page, made_up, root
from tests.orgs import world

__all__ = ["acme", "root"]

DOUBLE = {"terms": [{"when": {}, "rates": {"input": "0.54", "output": "2.20"}}]}
RERATER = ("view_rerating", "change_rerating", "view_reratingshare")


def test_a_rerating_shows_what_it_means_for_each_organization(root: Client, acme: Organization) -> None:
    act = made_up(acme, desk.organization("other"))
    text = desk.read(root, desk.page(act)).text
    assert desk.MODEL in text
    assert "1,234" in text
    assert "-2.25" in text
    assert text.count("/admin/orgs/organization/0") == 2
    assert [row.pk for row in desk.read(root, desk.listing(Rerating), q=str(act)).rows] == [act.pk]
    assert desk.read(root, desk.listing(Rerating), q="acme-labs").rows == []


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A switch: from then on the book says twice the price, and a period may end now, as nothing else writes."""

    def switch() -> None:
        price_at = Listing.price_at

        def twice(self: Listing, slug: str, at: datetime) -> Version | None:
            version = price_at(self, slug, at)
            return version and version._replace(card=rating.read_card(DOUBLE))

        monkeypatch.setattr(Listing, "price_at", twice)
        monkeypatch.setattr(usage, "FINAL_AFTER", timedelta(hours=-1))

    return switch


def plan_form(**told: str) -> dict[str, str]:
    """A form for the last hour and the next minutes."""
    now = clock.now()
    period = {
        "start": f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M}",
        "end": f"{now + timedelta(minutes=5):%Y-%m-%dT%H:%M}",
    }
    return {**period, "models": "", "organizations": "", "reason": "a late price", **told}


def planned(by: Client, **told: str) -> Rerating:
    desk.send(by, f"{desk.listing(Rerating)}plan/", **plan_form(**told))
    return Rerating.objects.latest("id")


def test_a_rerating_is_planned_applied_and_undone(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    desk.use(desk.organization("other"), 1)
    doubled()
    assert desk.buttons(desk.read(root, desk.listing(Rerating))) == ["Plan a re-rating"]
    plan = f"{desk.listing(Rerating)}plan/"
    assert 'type="datetime-local"' in desk.read(root, plan).text
    done = desk.send(root, plan, **plan_form())
    act = Rerating.objects.get()
    assert (done.address, desk.said(done)) == (desk.page(act), ["success: A dry run: nothing is posted yet."])
    # Three records and one of 361.4 millionths, which cost twice as much now.
    lines = [["acme-labs", "3", "0.0010842", "0.0021684", "+0.0010842", "0"], ["other", "1", "0.0003614", "0.0007228"]]
    shown = desk.cells(done.text)
    assert [*lines[0], "no"] in shown
    assert [*lines[1], "+0.0003614", "0", "no"] in shown
    assert ["all", "4", "0.0014456", "0.0028912", "+0.0014456", "0", ""] in shown
    assert "planned: a dry run, nothing is posted" in done.text
    assert not Correction.objects.exists()

    asked = desk.read(root, desk.page(act, "apply"))
    assert ["all", "4", "0.0014456", "0.0028912", "+0.0014456", "0", ""] in desk.cells(asked.text)
    assert Rerating.objects.get().state == "planned"
    begun = desk.send(root, desk.page(act, "apply"))
    assert desk.said(begun) == ["success: Begun: a worker posts the differences, and this page follows it."]
    assert "being applied: 0 of 2 organizations done, 0 records corrected so far" in begun.text
    assert '<meta http-equiv="refresh" content="5">' in begun.text
    assert desk.buttons(begun) == []
    assert desk.said(desk.send(root, desk.page(act, "apply"))) == ["warning: It was begun before."]
    assert desk.said(desk.send(root, desk.page(act, "undo"), reason="x")) == [
        "error: Only an applied re-rating can be undone."
    ]

    assert tasks.apply_reratings() == "0 acts still go on"
    applied = desk.read(root, desk.page(act))
    assert [*lines[0], "yes"] in desk.cells(applied.text)
    assert (desk.buttons(applied), "refresh" in applied.text) == (["Undo"], False)
    assert set(Correction.objects.values_list("actor", flat=True)) == {"root@example.com"}
    # 10 less twice three times 361.4 millionths.
    assert Wallet.objects.get(pk=acme.pk).posted_usd == Decimal("9.9978316")

    undone = desk.send(root, desk.page(act, "undo"), reason=f"wrong {NASTY}")
    back = Rerating.objects.get(undoes=act)
    assert undone.address == desk.page(back)
    assert desk.said(undone) == ["success: Begun: this act takes the differences back, and this page follows it."]
    assert f'<a href="{desk.page(act)}">{act}</a>' in undone.text
    assert "wrong &lt;script&gt;" in undone.text
    assert "<script>alert" not in undone.text + desk.read(root, desk.listing(Rerating)).text
    tasks.apply_reratings()
    assert Wallet.objects.get(pk=acme.pk).posted_usd == Decimal("9.9989158")
    after = desk.read(root, desk.page(act))
    assert desk.buttons(after) == []
    assert f'<a href="{desk.page(back)}">{back}</a>' in after.text
    assert desk.said(desk.send(root, desk.page(act, "undo"), reason="again")) == [
        "error: This re-rating was undone before."
    ]
    acts = AuditEntry.objects.filter(verb__startswith="rerating").order_by("id").values_list("verb", "actor_label")
    assert list(acts) == [(f"rerating.{verb}", "root@example.com") for verb in ("planned", "applied", "undone")]


def test_a_rerating_is_narrowed_by_models_and_organizations(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    other = desk.organization("other")
    desk.use(other, 1)
    doubled()
    ada = world.personal(world.person())
    named = f"acme-labs, {ids.show('org', other.pk)}\n ADA@example.com acme-labs"
    act = planned(root, organizations=named, models=f"{desk.MODEL},gpt-4o")
    assert set(act.organization_ids) == {acme.pk, other.pk, ada.pk}
    assert act.model_slugs == [desk.MODEL, "gpt-4o"]
    text = desk.read(root, desk.page(act)).text
    assert cells_of_page(text, "models_text") == f"{desk.MODEL}, gpt-4o"
    assert set(cells_of_page(text, "organizations_text").split(", ")) == {"acme-labs", "other", ada.slug}
    alone = planned(root, organizations="other", models="gpt-4o")
    assert "Nothing changes for anybody." in desk.read(root, desk.page(alone)).text


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"models": "nobody-9"}, "No model nobody-9 is in the catalog."),
        ({"models": NASTY}, "No model &lt;script&gt;alert(1)&lt;/script&gt; is in the catalog."),
        ({"organizations": "acme-labs nobody"}, "No organization is called nobody."),
        ({"organizations": NASTY}, "No organization is called &lt;script&gt;alert(1)&lt;/script&gt;."),
        ({"organizations": " ".join(map(str, range(201)))}, "At most 200 can be named."),
        ({"reason": " "}, "This field is required."),
        ({"reason": "x" * 501}, "Ensure this value has at most 500 characters (it has 501)."),
        ({"start": "2099-01-01T00:00"}, "A period ends after it starts, and at least a minute ago."),
        ({"end": "2099-01-01T00:00"}, "A period ends after it starts, and at least a minute ago."),
        ({"start": "0001-01-01T00:00"}, "That is before anything was recorded."),
        ({"end": "x"}, "Enter a valid date/time."),
        ({"reason": "a\x00b"}, "Null characters are not allowed."),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_at_its_field(
    root: Client, acme: Organization, told: dict[str, str], why: str
) -> None:
    fine = {"start": "2026-01-01T00:00", "end": "2026-01-02T00:00"}
    place = f"{desk.listing(Rerating)}plan/"
    shown = desk.send(root, place, **{**plan_form(**fine), **told})
    assert (shown.address, desk.errors(shown)) == (place, [why])
    assert "<script>alert" not in shown.text
    assert not Rerating.objects.exists()


def test_an_undo_says_why(root: Client, acme: Organization, doubled: Callable[[], None]) -> None:
    doubled()
    act = planned(root)
    rerating.apply(act, by=desk.actor())
    shown = desk.send(root, desk.page(act, "undo"), reason=" ")
    assert (shown.address, desk.errors(shown)) == (desk.page(act, "undo"), ["This field is required."])
    assert not Rerating.objects.filter(undoes=act).exists()


def test_who_may_only_see_reratings_has_no_buttons_and_is_refused(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    doubled()
    act = planned(root)
    viewer = desk.clerk("view_rerating", "view_reratingshare", "add_rerating")
    shown = desk.read(viewer, desk.page(act))
    assert (desk.buttons(shown), desk.buttons(desk.read(viewer, desk.listing(Rerating)))) == ([], [])
    assert "acme-labs" in shown.text
    for place in (f"{desk.listing(Rerating)}plan/", desk.page(act, "apply"), desk.page(act, "undo")):
        assert viewer.get(place).status_code == 403
        assert viewer.post(place, {**plan_form(), "reason": "x"}).status_code == 403
    assert [(row.pk, row.state) for row in Rerating.objects.all()] == [(act.pk, "planned")]


def test_who_may_change_reratings_plans_and_applies_under_their_own_name(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    doubled()
    act = planned(root)
    clerk = desk.clerk(*RERATER)
    assert desk.buttons(desk.read(clerk, desk.page(act))) == ["Apply"]
    desk.send(clerk, desk.page(act, "apply"))
    tasks.apply_reratings()
    # Planned by root; what is posted names who decided that it is.
    assert set(Correction.objects.values_list("actor", flat=True)) == {"clerk@example.com"}
    assert AuditEntry.objects.get(verb="rerating.planned").actor_label == "root@example.com"


def test_a_post_from_another_site_applies_nothing(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    doubled()
    act = planned(root)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(email="root@example.com"))
    assert strict.post(desk.page(act, "apply")).status_code == 403
    assert strict.post(f"{desk.listing(Rerating)}plan/", plan_form()).status_code == 403
    assert Rerating.objects.get().state == "planned"


def test_pages_of_an_act_take_the_same_queries_for_many_organizations(
    root: Client, acme: Organization, doubled: Callable[[], None]
) -> None:
    for number in range(8):
        desk.use(desk.organization(f"o{number}"), 1)
    doubled()
    everybody = " ".join(["acme-labs", *(f"o{number}" for number in range(8))])
    few, many = planned(root, organizations="acme-labs"), planned(root, organizations=everybody)
    assert ReratingShare.objects.filter(rerating=few).count() == 1
    assert ReratingShare.objects.filter(rerating=many).count() == 9
    for kind in ("change", "apply"):
        first, second = (desk.read(root, desk.page(act, kind)) for act in (few, many))
        assert len(first.queries) == len(second.queries), second.queries
