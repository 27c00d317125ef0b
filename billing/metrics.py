"""``GET /metrics``: what an operator is woken for, in Prometheus's text format.

Everything is read from the database when it is asked for, so every process answers the same.
"""

import hmac
from collections.abc import Iterable, Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from billing import holds
from billing.models import CheckRun
from core import errors
from core.views import Open
from metering import partitions
from ops import jobs
from ops.models import JobRun
from orgs.authentication import bearer, client_address


class Books(Collector):
    """The last result of each invariant and each job, and what the sweeper of holds has not come to."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A family for each thing that is told."""
        ok = GaugeMetricFamily(
            "tollbook_check_ok", "1 if the invariant held when it was last checked", labels=["check"]
        )
        seen = GaugeMetricFamily("tollbook_check_rows", "Rows that the check looked at", labels=["check"])
        at = GaugeMetricFamily("tollbook_check_timestamp_seconds", "When it was last checked", labels=["check"])
        for check in CheckRun.objects.all():
            name = [check.name.split()[0]]
            ok.add_metric(name, check.ok)
            seen.add_metric(name, check.seen)
            at.add_metric(name, check.began_at.timestamp())
        yield from (ok, seen, at)

        done = GaugeMetricFamily("tollbook_job_ok", "1 if the job's last finished run went well", labels=["job"])
        begun = GaugeMetricFamily("tollbook_job_timestamp_seconds", "When the job last began", labels=["job"])
        for job in JobRun.objects.all():
            if job.ok is not None:
                done.add_metric([job.name], job.ok)
            if job.started_at is not None:
                begun.add_metric([job.name], job.started_at.timestamp())
        lag = GaugeMetricFamily(
            "tollbook_job_lag_seconds", "Since when the job's first period that is not done is due", labels=["job"]
        )
        aside = GaugeMetricFamily(
            "tollbook_job_aside",
            "1 if the job is put aside: it failed again and again and waits for a person",
            labels=["job"],
        )
        for standing in jobs.standings():
            lag.add_metric([standing.name], standing.lag.total_seconds())
            aside.add_metric([standing.name], standing.aside)
        yield from (done, begun, lag, aside)

        yield GaugeMetricFamily(
            "tollbook_partition_days", "For how many days usage has its months", value=partitions.runway()
        )

        late = holds.overdue()
        yield GaugeMetricFamily("tollbook_holds_overdue", "Holds that are open beyond their end", value=late.number)
        yield GaugeMetricFamily(
            "tollbook_holds_overdue_seconds", "For how long the first of them is", value=late.longest.total_seconds()
        )


REGISTRY = CollectorRegistry()
REGISTRY.register(Books())


class Unasked(BaseContentNegotiation):
    """One form, whatever is accepted; a refusal is an envelope as everywhere."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """The only one."""
        only = next(iter(renderers))
        return only, str(only.media_type)

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> None:
        """Nothing is read."""


class Metrics(Open):
    """``GET /metrics``."""

    content_negotiation_class = Unasked

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """The figures. Raises ``InvalidApiKey`` or ``IpNotAllowed``."""
        _admit(request._request)
        return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)


def _admit(request: HttpRequest) -> None:
    """Whoever has ``METRICS_TOKEN``; where none is set, this machine. Raises ``InvalidApiKey`` or ``IpNotAllowed``."""
    if settings.METRICS_TOKEN:
        if not hmac.compare_digest(
            bearer(request.headers.get("Authorization", "")).encode(), settings.METRICS_TOKEN.encode()
        ):
            raise errors.InvalidApiKey
        return
    address = client_address(request)
    if address is None or not address.is_loopback:
        raise errors.IpNotAllowed("Metrics are for this machine, or for whoever has METRICS_TOKEN.")
