"""Connections that proxies keep."""

import http.client
import time
from contextlib import closing

import pytest

from tests.server import HOST, WebServer

pytestmark = pytest.mark.soak

# nginx's ``keepalive_timeout`` in an ``upstream`` block, and the idle timeout of AWS's load balancers.
KEPT_SECONDS = 60


def test_a_connection_outlives_what_proxies_keep_theirs(server: WebServer) -> None:
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=30)) as kept:
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        line = kept.sock
        time.sleep(KEPT_SECONDS + 5)
        kept.request("GET", "/healthz")
        assert kept.getresponse().status == 200
        assert kept.sock is line, "the same connection"
