"""The web server: granian's workers in front of ``core.asgi``, for ``make up`` and containers alike.

Run as ``python -m core.web`` (``manage.py serve`` ends in the same). The main process only
watches its workers: Django is loaded in them, with a connection pool as large as their threads.
``WEB_INTERFACE=wsgi`` serves ``core.wsgi`` instead: all of the product, without the data plane.
``python -m core.web check`` asks a running one whether it is ready and exits 0 or 1.
"""

import gc
import http.client
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server import Server

from core import env, processes

TARGETS = {"asgi": "core.asgi:application", "wsgi": "core.wsgi:application"}
# Threads of the data plane, beside those of Django.
PLANE_THREADS = 16
# A process serves so many connections, idle ones too. Whoever comes beyond them is not even refused, so they are
# more than the requests that may wait (gateway.groups). Files for them, and for everything else.
CONNECTIONS_MAX = 8192
FILES_BESIDE = 256
# What the kernel keeps for us until we accept it; it may keep less (listen(2)).
BACKLOG = 4096
# A kept connection may be idle for so long, and a request's head may take as long. Proxies and load balancers keep
# theirs for 60 (nginx's keepalive_timeout, AWS's idle timeout): were it less here, they would send requests into
# connections that are just being closed, and answer 502.
IDLE_SECONDS = 75
# Requests in progress get this long at a stop, then their worker is killed.
WORKER_STOP_SECONDS = 20
CHECK_SECONDS = 5
# Where a client of this machine finds a server that listens everywhere.
LOOPBACKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a person may ask for


class Address(NamedTuple):
    """Where the service listens."""

    host: str
    port: int

    @property
    def netloc(self) -> str:
        """``host:port`` as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address() -> Address:
    """``HOST`` and ``PORT``. Raises ``core.env.BadSetting``."""
    return Address(env.text("HOST", "127.0.0.1").strip("[]"), env.integer("PORT", 8000, low=1, high=65535))


class Capacity(NamedTuple):
    """How many requests are worked on at once: processes, and threads of Django's in each."""

    workers: int
    threads: int


def capacity() -> Capacity:
    """``WEB_WORKERS`` and ``WEB_THREADS``. Raises ``core.env.BadSetting``."""
    return Capacity(env.integer("WEB_WORKERS", 2, low=1, high=64), env.integer("WEB_THREADS", 16, low=1, high=200))


def interface() -> str:
    """``WEB_INTERFACE``. Raises ``core.env.BadSetting``."""
    chosen = env.text("WEB_INTERFACE", "asgi")
    if chosen not in TARGETS:
        raise env.BadSetting(f"WEB_INTERFACE should be {' or '.join(TARGETS)}, not {chosen!r}.")
    return chosen


def is_ready(where: Address) -> bool:
    """Whether ``/readyz`` answers 200, asked from this machine under a name that the service takes."""
    connection = http.client.HTTPConnection(LOOPBACKS.get(where.host, where.host), where.port, timeout=CHECK_SECONDS)
    allowed = env.words("ALLOWED_HOSTS", "localhost")[0]
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost" if allowed == "*" else allowed.lstrip(".")})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# Objects made between two looks at the young generation: a batch of a thousand events makes
# tens of thousands that die together, and looking for cycles among them cost a third of its time.
GARBAGE_THRESHOLD = 50_000
# A thread whose query is answered waits for the interpreter as long as another computes; at
# Python's 5 ms, a batch with a dozen round trips lost most of its time to that.
SWITCH_SECONDS = 0.0005


def load(target: str) -> Callable[..., Any]:
    """The application, in a worker; the worker ends with granian's main process."""
    processes.end_with_parent()
    module, name = target.split(":")
    application: Callable[..., Any] = getattr(import_module(module), name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 100)
    sys.setswitchinterval(SWITCH_SECONDS)
    return application


def main() -> int:
    """Serve until SIGINT or SIGTERM, or check."""
    try:
        where = address()
        if sys.argv[1:] == ["check"]:
            return 0 if is_ready(where) else 1
        workers, threads = capacity()
        kind = interface()
        beside = PLANE_THREADS if kind == "asgi" else 0
        os.environ.setdefault("DATABASE_POOL_MAX", str(threads + beside))
        import_module("core.settings")
    except env.BadSetting as error:
        print(f"tollbook: {error}", file=sys.stderr)  # noqa: T201 - a command's message
        return 2
    connections = processes.allow_files(CONNECTIONS_MAX + FILES_BESIDE) - FILES_BESIDE
    server = Server(
        TARGETS[kind],
        address=where.host,
        port=where.port,
        interface=Interfaces(kind),
        workers=workers,
        blocking_threads=threads if kind == "wsgi" else 1,
        backlog=BACKLOG,
        # Django alone has a thread for each request that it works on: there granian's own measure stays.
        backpressure=max(connections, FILES_BESIDE) if kind == "asgi" else None,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000),
        respawn_failed_workers=True,
        workers_kill_timeout=WORKER_STOP_SECONDS,
        log_access=False,
    )
    server.serve(target_loader=load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
