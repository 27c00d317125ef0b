"""A fake of the internet for tests of what we send: names, addresses, and receivers that are real servers on loopback.

    with Receiver() as receiver, Internet() as net:
        net.put("hooks.example.com", receiver)

Names and routes are made up; sockets, TLS and HTTP are real. A connection to anything but a made-up public address
is really dialled, so a receiver that no route leads to counts what got through to the inside. The certificate is
for hooks.example.com and hooks.example.net until the year 2126, by an authority that only these tests trust.
"""

import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from unittest import mock

from ops import egress

TLS = Path(__file__).parent / "tls"
PUBLIC = "93.184.216.34"
OTHER = "93.184.216.35"


class Request(NamedTuple):
    """What arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Answering(NamedTuple):
    """What a receiver answers."""

    status: int = 204
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Behaviour = Callable[[Request], Answering]


class Receiver:
    """A server of somebody's: notes what arrives, and answers what ``behave`` says. ``tls`` False speaks plain HTTP."""

    def __init__(self, *, tls: bool = True, host: str = "127.0.0.1") -> None:
        self.got: list[Request] = []
        self.connections = 0
        self.behave: Behaviour = lambda _: Answering()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", "0")))
                request = Request(self.path, headers, body)
                receiver.got.append(request)
                answering = receiver.behave(request)
                self.send_response(answering.status)
                for name, value in answering.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answering.body)))
                self.end_headers()
                self.wfile.write(answering.body)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def get_request(self) -> tuple[Any, Any]:
                found: tuple[Any, Any] = super().get_request()
                receiver.connections += 1
                return found

            def finish_request(self, request: Any, client_address: Any) -> None:
                if not tls:
                    super().finish_request(request, client_address)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(TLS / "receiver.pem")
                with context.wrap_socket(request, server_side=True) as line:
                    super().finish_request(line, client_address)

            def handle_error(self, *_: Any) -> None:
                """A client that hangs up is what many tests are about."""

        self._server = Server((host, 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def local(self) -> str:
        """Its address on this machine, for plain HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def trusting() -> ssl.SSLContext:
    """Whoever trusts the tests' authority."""
    return ssl.create_default_context(cafile=TLS / "authority.pem")


def _connect(place: tuple[str, int], seconds: float) -> socket.socket:
    """A real connection to a numeric address."""
    line = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
    line.settimeout(seconds)
    line.connect(place)
    return line


class Internet:
    """Made-up names and routes, in force within the block. ``dialled`` is where connections were asked for."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.routes: dict[tuple[str, int], Receiver] = {}
        self.dialled: list[tuple[str, int]] = []
        self._stack = ExitStack()

    def put(self, name: str, receiver: Receiver, *, address: str = PUBLIC, port: int = 443) -> None:
        """A name, and who listens there."""
        self.resolve(name, [address])
        self.routes[address, port] = receiver

    def resolve(self, name: str, *answers: Sequence[str]) -> None:
        """What the name server says of a name: one answer after the other, the last one for good."""
        self.names[name] = [list(each) for each in answers]

    def _ask(self, name: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self.names[name]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(None, None, None, "", (address, port)) for address in found]

    def _dial(self, place: tuple[str, int], timeout: float) -> socket.socket:
        self.dialled.append(place)
        if (receiver := self.routes.get(place)) is not None:
            return _connect(("127.0.0.1", receiver.port), timeout)
        if egress.is_public(ipaddress.ip_address(place[0])):
            raise OSError("no route in this made-up internet")
        return _connect(place, timeout)

    def __enter__(self) -> Self:
        for target, replacement in (
            ("ops.egress.socket.getaddrinfo", self._ask),
            ("ops.egress.socket.create_connection", self._dial),
            ("ops.egress._trusted", trusting),
        ):
            self._stack.enter_context(mock.patch(target, replacement))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
