"""What an operator's Prometheus reads, and who else may."""

import pytest
from django.test import Client

from billing import verification
from billing.invariants import EVERYTHING
from billing.models import CheckRun
from ops import jobs
from tests.billing.test_holds import place
from tests.billing.world import organization, rows
from tests.books import Books

TOKEN = "a-long-token-of-the-operator"


def figures(answer: bytes) -> dict[str, float]:
    """Each sample by its name and labels."""
    lines = [line for line in answer.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.one_database
def test_the_last_result_of_each_check_and_job_and_what_is_overdue_can_be_scraped(books: Books) -> None:
    acme = organization("acme", usd="1")
    place(acme, "0.5")
    verification.verify(EVERYTHING)
    jobs.run("expire_holds", lambda: "ended 0")
    rows("UPDATE hold SET expires_at = clock_timestamp() - interval '100 seconds'")
    jobs.run("verify", lambda: "done")
    rows(
        "UPDATE job_run SET state = 'aside', period = period - interval '1 hour',"
        " done_period = done_period - interval '2 hours' WHERE name = 'verify'"
    )
    CheckRun.objects.filter(name__startswith="V04").update(ok=False)

    answer = Client().get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    told = figures(answer.content)
    assert {name: told[f'tollbook_check_ok{{check="{name}"}}'] for name in ("V01", "V04", "V09")} == {
        "V01": 1, "V04": 0, "V09": 1,
    }  # fmt: skip
    assert told['tollbook_check_rows{check="V04"}'] == 1
    assert told['tollbook_job_ok{job="expire_holds"}'] == 1
    assert told["tollbook_holds_overdue"] == 1
    assert told['tollbook_job_lag_seconds{job="expire_holds"}'] < 60
    assert told['tollbook_job_aside{job="expire_holds"}'] == 0
    assert told['tollbook_job_aside{job="verify"}'] == 1
    assert 3600 <= told['tollbook_job_lag_seconds{job="verify"}'] < 2 * 3600
    # Three whole months lie ahead.
    assert 89 <= told["tollbook_partition_days"] <= 123
    assert 100 <= told["tollbook_holds_overdue_seconds"] < 200
    assert len([name for name in told if name.startswith("tollbook_check_timestamp")]) == CheckRun.objects.count()


@pytest.mark.django_db
def test_without_a_token_only_this_machine_may_read_them() -> None:
    assert Client(REMOTE_ADDR="::1").get("/metrics").status_code == 200
    for elsewhere in ("10.0.0.7", "203.0.113.9", ""):
        refused = Client(REMOTE_ADDR=elsewhere).get("/metrics")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "ip_not_allowed")


@pytest.mark.django_db
def test_with_a_token_whoever_has_it_may_and_nobody_else(settings: pytest.FixtureRequest) -> None:
    settings.METRICS_TOKEN = TOKEN  # type: ignore[attr-defined]
    far = Client(REMOTE_ADDR="203.0.113.9")
    assert far.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    for header in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "ü"}):
        for client in (far, Client()):
            assert client.get("/metrics", headers=header).status_code == 401


@pytest.mark.django_db
def test_no_other_method_is_answered_and_the_document_does_not_name_them() -> None:
    assert Client().post("/metrics").status_code == 405
    assert "/metrics" not in Client().get("/v1/openapi.json").json()["paths"]
