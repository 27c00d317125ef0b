"""One POST to an address that a customer gave us, which must never reach into our own network.

* The address is ``https://name[:port]/…``: a name with a dot, no number in any spelling, no user, no fragment,
  port 443 or one above 1023.
* The name is resolved once, and if any one of its addresses is not public, nothing is sent (``is_public``).
* The connection goes to an address that was checked, never to the name again, so a name server that changes
  its mind afterwards changes nothing. The certificate is still verified against the name.
* A redirect is an answer like any other; nobody follows it. Proxies of the environment are not asked.
* Everything together takes at most ``DEADLINE_SECONDS``, also when the other side sends a byte at a time, and of
  a refusal at most ``BODY_BYTES_MAX`` are read, of which ``EXCERPT_CHARS`` are kept.
* What cannot be found out (a name that does not resolve, an address of an unknown kind) is a no.

``local`` lets ``http://localhost:port/`` through, and nothing else that is not public: for trying things out.
Python's own HTTP and TLS are used below ``connect``, because there the socket is in our hands from the first byte.
"""

import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import NamedTuple

from core import logs

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

URL_CHARS_MAX = 2048
CONNECT_SECONDS = 5
# Between two bytes.
READ_SECONDS = 10
DEADLINE_SECONDS = 15
RESOLVE_SECONDS = 5
# Of a name with several addresses, so many are tried.
ADDRESSES_MAX = 3
BODY_BYTES_MAX = 4096
EXCERPT_CHARS = 200
PORT_HTTPS = 443
# Below are the services that listen for something else than webhooks.
PORT_LOW = 1024
PORT_MAX = 65_535

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?)",
    re.ASCII,
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A top-level domain begins with a letter (RFC 3696, 2), so 2130706433, 0x7f.1 and 127.1 are no names.
_NAME = re.compile(rf"(?:{_LABEL}\.)+(?=[a-z]){_LABEL}", re.ASCII)
_NAME_CHARS_MAX = 253
_LOCAL = {"localhost", "127.0.0.1", "[::1]"}

# What the registries of special addresses (RFC 6890 and after, IANA's pages of 2025) call not globally reachable.
_CLOSED_V4 = [
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        # Looks public and is answered by the host that a machine of Azure runs on.
        "168.63.129.16/32",
    )
]  # fmt: skip
# All that is handed out for the internet at large.
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
# Within it: protocols' own with Teredo, documentation, 6to4 (both of these tunnel to an IPv4 address).
_CLOSED_V6 = [
    ipaddress.ip_network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]  # fmt: skip
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(Exception):
    """An address that we do not send to; the message says why."""


class Failed(Exception):
    """Nobody answered; the message says how far it came."""


class Target(NamedTuple):
    """An address taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The ``Host`` header: the port only where it is not the scheme's own."""
        own = {"https": PORT_HTTPS, "http": http.client.HTTP_PORT}[self.scheme]
        return self.host if self.port == own else f"{self.host}:{self.port}"


class Answer(NamedTuple):
    """What was answered, how long it took, and of a refusal the first words."""

    status: int
    took_ms: int
    excerpt: str = ""


def read(url: str, *, local: bool = False) -> Target:
    """A URL that we may send to, as far as it can be told without asking anybody. Raises ``Refused``."""
    if len(url) > URL_CHARS_MAX:
        raise Refused(f"the URL is longer than {URL_CHARS_MAX} characters")
    found = _URL.fullmatch(url)
    if found is None:
        raise Refused("this is not https://name/path without a user, spaces or a fragment")
    host = found["host"].lower()
    path = found["path"] if found["path"].startswith("/") else f"/{found['path']}"
    if local and found["scheme"] == "http" and host in _LOCAL:
        return Target("http", host, _port(found["port"], http.client.HTTP_PORT), path)
    if found["scheme"] != "https":
        raise Refused("the URL must begin with https://")
    if not _NAME.fullmatch(host) or len(host) > _NAME_CHARS_MAX:
        raise Refused("the host must be a full domain name, not an address or a name of one word")
    port = _port(found["port"], PORT_HTTPS)
    if port != PORT_HTTPS and port < PORT_LOW:
        raise Refused(f"the port must be {PORT_HTTPS} or from {PORT_LOW} to {PORT_MAX}")
    return Target("https", host, port, path)


def _port(text: str | None, default: int) -> int:
    port = default if text is None else int(text)
    if not 0 < port <= PORT_MAX:
        raise Refused(f"the port must be {PORT_HTTPS} or from {PORT_LOW} to {PORT_MAX}")
    return port


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet at large, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in closed for closed in _CLOSED_V4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_V6 and not any(address in closed for closed in _CLOSED_V6)


def post(
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    local: bool = False,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Send ``body`` and say what was answered. ``context`` is who is trusted to vouch for names (the system's list).

    Raises ``Refused`` before anything was sent, ``Failed`` for anything but a whole answer.
    """
    target = read(url, local=local)
    began = time.monotonic()
    ends = began + DEADLINE_SECONDS
    reason = "it has no address"
    for address in addresses(target)[:ADDRESSES_MAX]:
        try:
            plain = _dial(address, target.port, min(CONNECT_SECONDS, ends - time.monotonic()))
        except OSError as error:
            reason = _said(error)
            continue
        status, excerpt = _exchange(plain, target, body, headers, context, ends)
        return Answer(status, int((time.monotonic() - began) * 1000), excerpt)
    raise Failed(f"no connection to {target.host}: {reason}")


def addresses(target: Target) -> list[Address]:
    """The addresses behind a target, all of them fit to be sent to. Raises ``Refused`` or ``Failed``."""
    fit: Callable[[Address], bool] = is_public if target.scheme == "https" else _is_loopback
    try:
        found = [ipaddress.ip_address(each) for each in _resolve(target.host.strip("[]"), target.port)]
    except (OSError, UnicodeError, ValueError) as error:
        raise Failed(f"{target.host} does not resolve: {_said(error)}") from error
    if not found:
        raise Failed(f"{target.host} does not resolve")
    # One bad address spoils the name: who is behind it could have us try it first the next time.
    if not all(fit(address) for address in found):
        raise Refused(f"{target.host} leads to an address that is not public")
    return found


def _is_loopback(address: Address) -> bool:
    return address.is_loopback


def _resolve(name: str, port: int) -> Sequence[str]:
    """The name's addresses as text. ``getaddrinfo`` cannot be told how long to try, so a thread of its own asks.

    Raises ``OSError`` or ``UnicodeError``.
    """
    told: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            told.put(error)
        else:
            told.put(list(dict.fromkeys(str(row[4][0]) for row in rows)))

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = told.get(timeout=RESOLVE_SECONDS)
    except queue.Empty as error:
        raise TimeoutError(f"no answer within {RESOLVE_SECONDS} s") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _dial(address: Address, port: int, seconds: float) -> socket.socket:
    """A connection to the very address that was checked. Raises ``OSError``."""
    if seconds <= 0:
        raise TimeoutError("no time left")
    return socket.create_connection((str(address), port), timeout=seconds)


@cache
def _trusted() -> ssl.SSLContext:
    """Certificates are verified, and against the name (both are this function's default)."""
    return ssl.create_default_context()


def _exchange(
    plain: socket.socket,
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    context: ssl.SSLContext | None,
    ends: float,
) -> tuple[int, str]:
    """One request over a fresh connection, which is closed afterwards. Raises ``Failed``."""
    line = plain
    try:
        if target.scheme == "https":
            line = (context or _trusted()).wrap_socket(
                plain, server_hostname=target.host, do_handshake_on_connect=False
            )
        line.settimeout(READ_SECONDS)
        with _cut_off(line, ends) as is_late:
            answered, reason = None, f"no whole answer within {DEADLINE_SECONDS} s"
            try:
                answered = _ask(line, target, body, headers)
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = reason if is_late() else _said(error)
            # To a reader our hanging up looks like the end of the headers or of the body.
            if answered is None or is_late():
                raise Failed(reason)
            return answered
    except ssl.SSLError as error:
        raise Failed(_said(error)) from error
    finally:
        line.close()


def _ask(line: socket.socket, target: Target, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    if isinstance(line, ssl.SSLSocket):
        line.do_handshake()
    speaker = http.client.HTTPConnection(target.host, target.port)
    # Should the line break, nobody dials the name again.
    speaker.sock, speaker.auto_open = line, 0
    sent = {"Accept-Encoding": "identity", "Connection": "close", **headers, "Host": target.authority}
    speaker.request("POST", target.path, body=body, headers=sent)
    with speaker.getresponse() as answer:
        if 200 <= answer.status < 300:
            return answer.status, ""
        return answer.status, _excerpt(answer.read(BODY_BYTES_MAX))


@contextmanager
def _cut_off(line: socket.socket, ends: float) -> Iterator[Callable[[], bool]]:
    """Hang up when the time is over, whatever the block is waiting for; yields whether that has happened."""
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        # Not the TLS way, which would say goodbye first; a read that waits returns at once.
        with suppress(OSError):
            socket.socket.shutdown(line, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, ends - time.monotonic()), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()


def _excerpt(raw: bytes) -> str:
    """The first words of an answer, on one line and without what a page or a terminal could trip over."""
    text = raw.decode("utf-8", errors="replace")
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return logs.redact(" ".join(shown.split()))[:EXCERPT_CHARS]


def _said(error: Exception) -> str:
    """An error in short; its text may hold what the other side sent."""
    return f"{type(error).__name__}: {_excerpt(str(error).encode(errors='replace'))}"[:EXCERPT_CHARS]
