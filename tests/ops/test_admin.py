"""The desk's pages of jobs and approvals: what is asked, and a second person who decides it."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.test import Client
from psycopg.errors import LockNotAvailable

from core import ids
from core.schedule import JOBS, Job
from ops import approvals, jobs, mails
from ops.admin import RIGHTS
from ops.models import Approval, JobPeriod, JobRun, Mail, WebhookDelivery, WebhookEndpoint
from orgs.audit import Actor
from orgs.models import AuditEntry, User
from tests import desk
from tests.ops import hooks
from tests.orgs import world


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty jobs of no app."""
    for number in range(60):
        monkeypatch.setitem(JOBS, f"job {number}", Job("tests.nothing", timedelta(hours=1)))


def fail() -> str:
    raise RuntimeError("<b>no</b> disk")


def test_the_last_run_of_each_job_is_shown(root: Client) -> None:
    jobs.run("partitions", lambda: "made none")
    with pytest.raises(RuntimeError):
        jobs.run("fold_rollups", fail)
    shown = desk.read(root, desk.listing(JobRun))
    assert [row.name for row in shown.rows] == ["fold_rollups", "partitions"]
    assert "made none" in shown.text
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; disk" in shown.text
    assert [row.name for row in desk.read(root, desk.listing(JobRun), q="part").rows] == ["partitions"]
    assert [row.name for row in desk.read(root, desk.listing(JobRun), ok__exact="0").rows] == ["fold_rollups"]
    assert "made none" in desk.read(root, desk.page(JobRun.objects.get(name="partitions"))).text
    assert desk.counting([shown]) == []


def test_how_late_a_job_is_and_its_periods_are_shown(root: Client) -> None:
    jobs.run("verify", lambda: "27 checks passed")
    row = JobRun.objects.get()
    assert row.done_period is not None
    JobRun.objects.update(period=row.period - timedelta(hours=3), done_period=row.period - timedelta(hours=3))
    late = int(re.findall(r">(\d+) s<", desk.read(root, desk.listing(JobRun)).text)[0])
    # Two of its slots have begun since the one that is done ended.
    assert 2 * 3600 <= late < 3 * 3600
    page = desk.read(root, desk.page(row))
    (place,) = re.findall(r'href="([^"]*jobperiod[^"]*)"[^>]*>those that are over', page.text)
    shown = desk.read(root, place.replace("&amp;", "&"))
    assert [period.name for period in shown.rows] == ["verify"]
    assert "27 checks passed" in desk.read(root, desk.page(JobPeriod.objects.get())).text
    assert desk.counting([shown]) == []


def test_a_list_takes_the_same_queries_for_60_jobs_as_for_3(root: Client, unlisted: None) -> None:
    for number in range(3):
        jobs.run(f"job {number}", lambda: "done")
    few = desk.read(root, desk.listing(JobRun))
    for number in range(3, 60):
        jobs.run(f"job {number}", lambda: "done")
    many = desk.read(root, desk.listing(JobRun))
    assert (len(few.rows), len(many.rows)) == (3, 50)
    assert len(few.queries) == len(many.queries)


def test_nothing_is_added_changed_or_deleted(root: Client) -> None:
    jobs.run("partitions", lambda: "made none")
    row = JobRun.objects.get()
    before = JobRun.objects.values().get()
    assert root.post(desk.listing(JobRun) + "add/", {"name": "x"}).status_code == 403
    assert root.post(desk.page(row), {"result": "x"}).status_code == 403
    assert root.post(desk.page(row, "delete"), {"post": "yes"}).status_code == 403
    assert JobRun.objects.values().get() == before


def test_approvals_are_found_by_id_and_subject_and_decided_elsewhere(root: Client) -> None:
    asked = [
        approvals.ask(kind="credit", subject_id=ids.new(), by=world.BY, details={"why": f"<b>{number}</b>"})
        for number in range(3)
    ]
    few = desk.read(root, desk.listing(Approval))
    for text in (str(asked[1]), str(asked[1].subject_id)):
        assert [row.pk for row in desk.read(root, desk.listing(Approval), q=text).rows] == [asked[1].pk]
    assert desk.read(root, desk.listing(Approval), q="credit").rows == []
    shown = desk.read(root, desk.page(asked[1]))
    assert "&lt;b&gt;1&lt;/b&gt;" in shown.text
    assert root.post(desk.page(asked[1]), {"granted": "true"}).status_code == 403
    assert root.post(desk.page(asked[1], "delete"), {"post": "yes"}).status_code == 403
    assert root.post(desk.listing(Approval) + "add/", {"kind": "x"}).status_code == 403
    for _ in range(57):
        approvals.ask(kind="credit", subject_id=ids.new(), by=world.BY, details={})
    many = desk.read(root, desk.listing(Approval))
    assert (len(few.rows), len(many.rows)) == (3, 50)
    assert len(few.queries) == len(many.queries)
    assert desk.counting([few, many, shown]) == []
    assert not Approval.objects.exclude(decided_at=None).exists()


def asked_by_root(**details: Any) -> Approval:
    """A question of the person whose client is ``root``."""
    return approvals.ask(kind="credit", subject_id=ids.new(), by=desk.actor(), details=details)


@pytest.fixture
def second(db: None, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setitem(RIGHTS, "credit", "ops.change_approval")
    return desk.clerk("view_approval", "change_approval")


def test_who_may_not_do_an_act_does_not_decide_about_it(root: Client, second: Client) -> None:
    RIGHTS["credit"] = "billing.add_adjustment"
    done = desk.send(second, desk.page(asked_by_root(), "grant"))
    assert desk.said(done) == ["error: Your role does not decide about this."]
    del RIGHTS["credit"]
    done = desk.send(second, desk.page(Approval.objects.get(), "refuse"))
    assert desk.said(done) == ["error: Your role does not decide about this."]
    assert Approval.objects.get().decided_at is None


@pytest.mark.parametrize(("act", "granted", "verb"), [("grant", True, "granted"), ("refuse", False, "refused")])
def test_a_second_person_decides(root: Client, second: Client, act: str, granted: bool, verb: str) -> None:
    asked = asked_by_root(usd="900")
    shown = desk.read(second, desk.page(asked))
    assert desk.buttons(shown) == ["Grant", "Refuse"]
    page = desk.read(second, desk.page(asked, act))
    assert ["usd", "900"] in desk.cells(page.text)
    assert ["asked by", "root@example.com"] in desk.cells(page.text)
    assert Approval.objects.get().decided_at is None
    done = desk.send(second, desk.page(asked, act))
    assert done.address == desk.page(asked)
    assert desk.said(done)[0].startswith(f"success: {verb.capitalize()}")
    assert desk.buttons(done) == []
    assert f"{verb} by clerk@example.com" in done.text
    assert (Approval.objects.get().granted, Approval.objects.get().decided_by) == (granted, f"user:{_clerk_id()}")
    note = AuditEntry.objects.get(verb=f"approval.{verb}")
    assert (note.actor_label, note.subject_id) == ("clerk@example.com", str(asked))


def _clerk_id() -> str:
    return ids.show("user", User.objects.get(email="clerk@example.com").pk)


@pytest.mark.parametrize("act", ["grant", "refuse"])
def test_who_asked_cannot_decide(root: Client, act: str) -> None:
    asked = asked_by_root()
    done = desk.send(root, desk.page(asked, act))
    assert desk.said(done) == ["error: A second person has to decide this."]
    assert Approval.objects.get().decided_at is None


def test_what_was_decided_stays_decided(root: Client, second: Client) -> None:
    asked = asked_by_root()
    desk.send(second, desk.page(asked, "refuse"))
    again = desk.send(second, desk.page(asked, "grant"))
    assert desk.said(again) == ["error: This was decided before."]
    assert Approval.objects.get().granted is False


@pytest.mark.parametrize("act", ["grant", "refuse"])
def test_who_may_only_see_has_no_buttons_and_is_refused(root: Client, act: str) -> None:
    asked = asked_by_root()
    viewer = desk.clerk("view_approval")
    shown = desk.read(viewer, desk.page(asked))
    assert desk.buttons(shown) == []
    assert "/grant/" not in shown.text + desk.read(viewer, desk.listing(Approval)).text
    assert viewer.get(desk.page(asked, act)).status_code == 403
    assert viewer.post(desk.page(asked, act)).status_code == 403
    assert Approval.objects.get().decided_at is None
    assert not AuditEntry.objects.filter(verb__startswith="approval.").exclude(verb="approval.asked").exists()


def test_staff_without_a_right_and_strangers_see_nothing(root: Client) -> None:
    asked = asked_by_root()
    clerk = desk.clerk("change_pricedraft")
    for address in (desk.listing(Approval), desk.page(asked), desk.page(asked, "grant")):
        assert clerk.get(address).status_code == 403
        assert Client().get(address)["Location"].startswith("/admin/login/")
    assert Client().post(desk.page(asked, "grant")).status_code == 302
    assert Approval.objects.get().decided_at is None


def test_a_post_from_another_site_decides_nothing(root: Client) -> None:
    asked = asked_by_root()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("second@example.com", desk.PASSWORD))
    assert strict.post(desk.page(asked, "grant")).status_code == 403
    assert Approval.objects.get().decided_at is None


def test_a_database_that_cannot_right_now_is_a_message(
    root: Client, second: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_by_root()

    def locked(**_: Any) -> None:
        raise OperationalError("canceling statement due to lock timeout") from LockNotAvailable()

    monkeypatch.setattr(approvals, "decide", locked)
    done = desk.send(second, desk.page(asked, "grant"))
    assert desk.said(done) == ["error: The service cannot do this right now; send it again."]


def test_an_approval_that_is_not_there_is_not_found(second: Client) -> None:
    address = f"/admin/ops/approval/{ids.new()}/grant/"
    assert (second.get(address).status_code, second.post(address).status_code) == (404, 404)
    assert second.post("/admin/ops/approval/x%00y/grant/").status_code == 404


def test_what_is_asked_is_shown_as_text_line_by_line(root: Client, second: Client) -> None:
    nasty = "<script>alert(1)</script>"
    asked = asked_by_root(changes=[f"{nasty} input: 1 to 2", "b", "c", "d", "e", "f"], **{nasty: nasty})
    shown = [desk.read(second, desk.page(asked)), desk.read(second, desk.page(asked, "grant"))]
    listed = desk.read(second, desk.listing(Approval))
    for each in (*shown, listed):
        assert "<script>alert" not in each.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt; input: 1 to 2<br>b<br>c<br>d<br>" in each.text
    assert "and 3 more<br>" in listed.text
    assert all("e<br>f<br>" in each.text for each in shown)


def test_open_questions_come_first_and_can_be_listed_alone(root: Client, second: Client) -> None:
    asked = [asked_by_root() for _ in range(3)]
    desk.send(second, desk.page(asked[2], "grant"))
    listed = desk.read(second, desk.listing(Approval))
    assert [row.pk for row in listed.rows] == [asked[1].pk, asked[0].pk, asked[2].pk]
    assert listed.text.count("root@example.com") == 3
    assert "granted by clerk@example.com" in listed.text
    waiting = desk.read(second, desk.listing(Approval), decided_at__isempty="1")
    assert [row.pk for row in waiting.rows] == [asked[1].pk, asked[0].pk]


def test_names_of_people_cost_one_query_for_a_whole_list(root: Client) -> None:
    asked_by_root()
    few = desk.read(root, desk.listing(Approval))
    for number in range(59):
        desk.superuser(f"p{number}@example.com")
        by = desk.actor(f"p{number}@example.com")
        approvals.ask(kind="credit", subject_id=ids.new(), by=by, details={})
    many = desk.read(root, desk.listing(Approval))
    assert (len(few.rows), len(many.rows)) == (1, 50)
    assert len(few.queries) == len(many.queries)
    assert "p58@example.com" in many.text


def test_who_is_no_person_of_ours_is_named_as_well_as_can_be(root: Client) -> None:
    for by in (
        world.BY,
        Actor(kind="user", id="typed@example.com", label="x"),
        Actor(kind="key", id="key_1", label="x"),
    ):
        approvals.ask(kind="credit", subject_id=ids.new(), by=by, details={})
    text = desk.read(root, desk.listing(Approval)).text
    assert re.findall(r'class="field-asker [^>]*>(.*?)</td>', text) == ["key_1", "typed@example.com", "system"]


def test_the_desk_sees_endpoints_without_secrets_and_sends_a_delivery_again(root: Client) -> None:
    acme = world.organization("acme")
    made = hooks.endpoint(acme, kinds=["wallet.low"])
    for number in range(3):
        hooks.hand_on(acme, key=str(number), low_by="<4>")
    delivery = WebhookDelivery.objects.order_by("id")[0]
    WebhookDelivery.objects.update(
        state="failed", next_attempt_at=None, done_at=delivery.created_at, attempts=10, status=500, excerpt="<b>no</b>"
    )
    few = desk.read(root, desk.listing(WebhookDelivery), q="acme")
    assert len(few.rows) == 3
    listed = desk.read(root, desk.listing(WebhookEndpoint), q=str(made.endpoint))
    assert [row.pk for row in listed.rows] == [made.endpoint.pk]
    page = desk.read(root, desk.page(made.endpoint))
    assert "wallet.low" in page.text
    for shown in (page, desk.read(root, desk.page(delivery))):
        assert made.secret not in shown.text
        assert "<b>no</b>" not in shown.text
    done = desk.send(root, desk.page(delivery, "redeliver"))
    assert desk.said(done) == [f"success: On its way again: {delivery}."]
    assert WebhookDelivery.objects.get(pk=delivery.pk).state == "pending"
    note = AuditEntry.objects.get(verb="webhook_delivery.redelivered")
    assert (note.actor_label, note.subject_id) == ("root@example.com", str(delivery))
    for number in range(3, 60):
        hooks.hand_on(acme, key=str(number))
    many = desk.read(root, desk.listing(WebhookDelivery), q="acme")
    assert (len(many.rows), len(many.queries)) == (50, len(few.queries))
    assert desk.counting([few, many, listed, page]) == []
    for address in (desk.page(made.endpoint), desk.page(delivery)):
        assert root.post(address, {"url": "https://x.example/"}).status_code == 403


def test_the_desk_sends_a_mail_in_doubt_again(root: Client) -> None:
    with transaction.atomic():
        mails.post(
            kind="invoice.finalized", organization_id=None, key="inv_1", to=["ada@example.com", "bob@example.com"],
            subject="<i>Invoice</i>", text="<b>5 USD</b>", attachments=[{"kind": "invoice", "key": "inv_1"}],
        )  # fmt: skip
    row = Mail.objects.get(recipient="ada@example.com")
    assert desk.buttons(desk.read(root, desk.page(row))) == []
    Mail.objects.filter(pk=row.pk).update(state="doubtful", next_attempt_at=None)
    found = desk.read(root, desk.listing(Mail), q=" Ada@example.com")
    assert [each.pk for each in found.rows] == [row.pk]
    assert "<i>Invoice</i>" not in found.text
    page = desk.read(root, desk.page(row))
    assert "&lt;b&gt;5 USD&lt;/b&gt;" in page.text
    assert "invoice inv_1" in page.text
    assert desk.buttons(page) == ["Send again"]
    assert desk.said(desk.send(root, desk.page(row, "again"))) == [f"success: On its way again: {row}."]
    assert Mail.objects.get(pk=row.pk).state == "pending"
    assert desk.counting([found, page]) == []
    assert root.post(desk.page(row), {"recipient": "eve@example.com"}).status_code == 403
