"""The web server's own settings and its question to a running one."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from core import web
from core.env import BadSetting
from core.web import Address
from tests.core.running import environment
from tests.database import ROOT
from tests.server import HOST


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "WEB_WORKERS", "WEB_THREADS", "ALLOWED_HOSTS"):
        monkeypatch.delenv(name, raising=False)


class Recorder(BaseHTTPRequestHandler):
    """Answers every GET with ``status`` and remembers who was asked for what."""

    status = 200
    asked: tuple[str, str | None] = ("", None)

    def do_GET(self) -> None:
        type(self).asked = (self.path, self.headers["Host"])
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[tuple[Address, type[Recorder]]]:
    handler = type("Own", (Recorder,), {})
    with HTTPServer((HOST, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Address(HOST, server.server_port), handler
        finally:
            server.shutdown()
            thread.join()


def test_an_address_is_written_as_in_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.address() == ("127.0.0.1", 8000)
    assert web.address().netloc == "127.0.0.1:8000"
    monkeypatch.setenv("HOST", "[::1]")
    monkeypatch.setenv("PORT", "9000")
    assert web.address() == ("::1", 9000)
    assert web.address().netloc == "[::1]:9000"


@pytest.mark.parametrize(("name", "value"), [("PORT", "0"), ("PORT", "65536"), ("PORT", "eighty")])
def test_a_port_that_is_none_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"^{name}="):
        web.address()


@pytest.mark.parametrize("name", ["WEB_WORKERS", "WEB_THREADS"])
def test_capacity_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.capacity() == (2, 16)
    for value in ("0", "201"):
        monkeypatch.setenv(name, value)
        with pytest.raises(BadSetting, match=f"^{name}={value} is outside"):
            web.capacity()


def test_a_service_is_ready_when_it_says_so(service: tuple[Address, type[Recorder]]) -> None:
    where, handler = service
    assert web.is_ready(where)
    handler.status = 503
    assert not web.is_ready(where)


def test_a_service_that_is_not_there_is_not_ready(service: tuple[Address, type[Recorder]]) -> None:
    where, _ = service
    assert not web.is_ready(where._replace(host="127.0.0.3"))


@pytest.mark.parametrize(
    ("allowed", "host"),
    [("", "localhost"), ("*", "localhost"), (".example.com", "example.com"), ("a.example, b.example", "a.example")],
)
def test_it_is_asked_by_a_name_that_it_takes(
    allowed: str, host: str, service: tuple[Address, type[Recorder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, handler = service
    monkeypatch.setenv("ALLOWED_HOSTS", allowed)
    assert web.is_ready(where)
    assert handler.asked == ("/readyz", host)


def test_one_that_listens_everywhere_is_asked_on_loopback(service: tuple[Address, type[Recorder]]) -> None:
    where, handler = service
    assert web.is_ready(where._replace(host="0.0.0.0"))
    assert handler.asked[0] == "/readyz"


def test_the_check_command_exits_by_the_answer(service: tuple[Address, type[Recorder]]) -> None:
    where, handler = service
    command = [sys.executable, "-m", "core.web", "check"]
    settings = environment(HOST=where.host, PORT=str(where.port))
    for status, code in ((200, 0), (503, 1)):
        handler.status = status
        assert subprocess.run(command, cwd=ROOT, env=settings, timeout=120).returncode == code


def test_a_bad_setting_is_one_line() -> None:
    for wrong in ({"PORT": "x"}, {"WEB_THREADS": "x"}, {"DATABASE_URL": "x"}):
        done = subprocess.run(
            [sys.executable, "-m", "core.web"],
            cwd=ROOT,
            env=environment(**wrong),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert next(iter(wrong)) in done.stderr
