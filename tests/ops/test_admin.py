"""The desk's pages of jobs and approvals."""

import pytest
from django.test import Client

from core import ids
from ops import approvals, jobs
from ops.models import Approval, JobRun
from tests import desk
from tests.orgs import world


@pytest.fixture
def root(db: None) -> Client:
    return desk.superuser()


def fail() -> str:
    raise RuntimeError("<b>no</b> disk")


def test_the_last_run_of_each_job_is_shown(root: Client) -> None:
    jobs.run("partitions", lambda: "made none")
    with pytest.raises(RuntimeError):
        jobs.run("fold", fail)
    shown = desk.read(root, desk.listing(JobRun))
    assert [row.name for row in shown.rows] == ["fold", "partitions"]
    assert "made none" in shown.text
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt; disk" in shown.text
    assert [row.name for row in desk.read(root, desk.listing(JobRun), q="part").rows] == ["partitions"]
    assert [row.name for row in desk.read(root, desk.listing(JobRun), ok__exact="0").rows] == ["fold"]
    assert "made none" in desk.read(root, desk.page(JobRun.objects.get(name="partitions"))).text
    assert desk.counting([shown]) == []


def test_a_list_takes_the_same_queries_for_60_jobs_as_for_3(root: Client) -> None:
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
