"""Where we send to and where we never do: addresses, names that change, redirects, certificates, slow receivers."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops import egress
from ops.egress import Answer, Failed, Refused
from tests.ops.internet import OTHER, PUBLIC, Answering, Internet, Receiver
from tests.proofs import proves

URL = "https://hooks.example.com/in?from=tollbook"
BODY = b'{"type":"ping"}'
INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "100.100.100.200", "169.254.169.254", "192.0.0.192", "198.18.0.1", "203.0.113.7", "224.0.0.1", "255.255.255.255",
    "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "2002:7f00:1::", "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1",
    "fec0::1", "ff02::1", "5f00::1", "3fff::1", "100::1",
]  # fmt: skip
OUTSIDE = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::1",
           "::ffff:8.8.8.8", "64:ff9b::808:808"]  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def net(receiver: Receiver) -> Iterator[Internet]:
    with Internet() as made:
        made.put("hooks.example.com", receiver)
        yield made


def send(url: str = URL, *, local: bool = False) -> Answer:
    return egress.post(url, body=BODY, headers={"Content-Type": "application/json"}, local=local)


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_of_the_inside_is_not_public(address: str) -> None:
    assert not egress.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert egress.is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
@example(ipaddress.IPv4Address("8.8.8.8"))
def test_an_address_is_the_same_in_every_wrapping_and_never_wider_than_pythons_own_rule(
    address: ipaddress.IPv4Address,
) -> None:
    public = egress.is_public(address)
    assert not public or address.is_global
    for wrapping in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert egress.is_public(ipaddress.ip_address(wrapping)) is public
    for tunnel in (f"::{address}", f"2002:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}::1", f"2001::{address}"):
        assert not egress.is_public(ipaddress.ip_address(tunnel))


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_is_public_that_python_calls_private(address: ipaddress.IPv6Address) -> None:
    assert not egress.is_public(address) or address.is_global


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/", "ftp://hooks.example.com/", "HTTPS//x", "https://", "https:///x",
        "hooks.example.com",
        "https://user@hooks.example.com/", "https://user:pw@hooks.example.com/", "https://hooks.example.com@127.0.0.1/",
        "https://127.0.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://017700000001/",
        "https://127.1/", "https://0177.0.0.1/", "https://1.1.1.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/", "https://localhost/", "https://metadata/", "https://hooks.example.com./",
        "https://hooks..example.com/", "https://-hooks.example.com/", "https://hooks_1.example.com/",
        "https://hooks.example.1/", "https://hooks.example.com:22/", "https://hooks.example.com:80/",
        "https://hooks.example.com:0/", "https://hooks.example.com:65536/", "https://hooks.example.com:99999/",
        "https://hooks.example.com/#x", "https://hooks.example.com/a b", "https://hooks.example.com/\r\nX: y",
        "https://hooks.example.com\\@127.0.0.1/", "https://hooks.example.com/\\", "https://１２７.0.0.1/",
        "https://hoöks.example.com/", "https://hooks.example.com/é", " https://hooks.example.com/",
        "https://hooks.example.com/\n", "https://hooks.example.com/" + "x" * 2048, "http://localhost/", "http://127.0.0.1/",
        "https://" + "a" * 64 + ".example.com/", "https://" + "a." * 126 + "com/",
    ],
)  # fmt: skip
def test_a_url_that_is_no_public_https_name_is_refused_before_anybody_is_asked(url: str, net: Internet) -> None:
    with pytest.raises(Refused):
        send(url)
    assert net.dialled == []


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://hooks.example.com", "hooks.example.com", 443, "/"),
        ("https://Hooks.Example.COM/In?a=%20b&c[", None, 0, ""),
        ("https://Hooks.Example.COM/In?a=%20b", "hooks.example.com", 443, "/In?a=%20b"),
        ("https://hooks.example.com:8443?x", "hooks.example.com", 8443, "/?x"),
        ("https://xn--hks-1na.example:1024/a@b", "xn--hks-1na.example", 1024, "/a@b"),
    ],
)
def test_a_good_url_is_taken_apart(url: str, host: str | None, port: int, path: str) -> None:
    if host is None:
        with pytest.raises(Refused):
            egress.read(url)
        return
    assert egress.read(url) == ("https", host, port, path)


@given(st.text(max_size=60) | st.from_regex(r"https?://[^ ]{0,30}", fullmatch=True))
def test_whatever_is_taken_is_a_name_with_a_dot_whose_last_part_is_no_number(url: str) -> None:
    try:
        target = egress.read(url)
    except Refused:
        return
    assert target.scheme == "https"
    assert target.host.rpartition(".")[2][0].isalpha()
    with pytest.raises(ValueError):
        ipaddress.ip_address(target.host)
    with pytest.raises(OSError):
        socket.inet_aton(target.host)


def test_a_message_arrives_at_the_checked_address_under_its_name(net: Internet, receiver: Receiver) -> None:
    answer = send()
    assert (answer.status, answer.excerpt) == (204, "")
    (request,) = receiver.got
    assert (request.path, request.body) == ("/in?from=tollbook", BODY)
    assert request.headers["host"] == "hooks.example.com"
    assert net.dialled == [(PUBLIC, 443)]
    net.routes[PUBLIC, 8443] = receiver
    send("https://hooks.example.com:8443/")
    assert receiver.got[1].headers["host"] == "hooks.example.com:8443"


@proves("A15", guard="resolved_addresses_are_checked")
@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::ffff:127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        ["169.254.169.254", "127.0.0.1"],
    ],
)
def test_a_name_that_leads_inside_is_not_sent_to(net: Internet, receiver: Receiver, addresses: list[str]) -> None:
    net.resolve("inside.example.com", addresses)
    url = f"https://inside.example.com:{receiver.port}/"
    with pytest.raises((Refused, Failed)) as caught:
        send(url)
    assert receiver.connections == 0
    assert net.dialled == []
    assert isinstance(caught.value, Refused), caught.value


@proves("A15", guard="the_checked_address_is_dialled")
def test_a_name_server_that_changes_its_mind_changes_nothing(net: Internet, receiver: Receiver) -> None:
    net.resolve("rebinding.example.com", [OTHER], ["127.0.0.1"])
    with pytest.raises(Failed, match="no route"):
        send(f"https://rebinding.example.com:{receiver.port}/")
    assert receiver.connections == 0
    assert net.dialled == [(OTHER, receiver.port)]


@proves("A15", guard="numbers_are_no_names")
@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:7f00:1]"])
def test_a_number_that_a_resolver_would_take_for_an_address_is_not_even_resolved(
    net: Internet, receiver: Receiver, host: str
) -> None:
    # A resolver that takes the number for a public address, so that nothing but its spelling is wrong.
    net.resolve(host.strip("[]"), [PUBLIC])
    net.routes[PUBLIC, 8443] = receiver
    with pytest.raises((Refused, Failed)):
        send(f"https://{host}:8443/")
    assert receiver.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(net: Internet, receiver: Receiver, status: int) -> None:
    with Receiver(tls=False) as inside:
        for place in ("http://169.254.169.254/latest/meta-data/", inside.local, "https://hooks.example.com/again"):
            receiver.behave = lambda _, place=place: Answering(status, b"moved", (("Location", place),))  # type: ignore[misc]
            assert send()[::2] == (status, "moved")
        assert inside.connections == 0
    assert len(receiver.got) == 3
    assert net.dialled == [(PUBLIC, 443)] * 3


def test_a_name_that_does_not_resolve_is_not_sent_to(net: Internet) -> None:
    with pytest.raises(Failed, match=r"nowhere\.example\.com does not resolve"):
        send("https://nowhere.example.com/")
    net.resolve("empty.example.com", [])
    with pytest.raises(Failed, match="does not resolve"):
        send("https://empty.example.com/")
    net.resolve("odd.example.com", ["no address"])
    with pytest.raises(Failed, match="does not resolve"):
        send("https://odd.example.com/")
    assert net.dialled == []


def test_a_name_server_that_says_nothing_is_not_waited_for(net: Internet) -> None:
    silent = threading.Event()

    def ask(*_: Any, **__: Any) -> list[Any]:
        silent.wait(20)
        return []

    with mock.patch("socket.getaddrinfo", ask), mock.patch("ops.egress.RESOLVE_SECONDS", 0.05):
        try:
            with pytest.raises(Failed, match="does not resolve"):
                send()
        finally:
            silent.set()


def test_the_next_address_is_tried_when_nobody_listens_at_the_first(net: Internet, receiver: Receiver) -> None:
    net.resolve("hooks.example.com", [OTHER, PUBLIC])
    assert send().status == 204
    assert net.dialled == [(OTHER, 443), (PUBLIC, 443)]
    net.resolve("hooks.example.com", [OTHER, OTHER, "1.1.1.1", "1.1.1.2", "1.1.1.3", PUBLIC])
    with pytest.raises(Failed, match="no route"):
        send()
    assert len(net.dialled) == 2 + egress.ADDRESSES_MAX


def test_a_certificate_for_another_name_is_refused(net: Internet, receiver: Receiver) -> None:
    net.put("hooks.example.org", receiver)
    with pytest.raises(Failed, match="CERTIFICATE_VERIFY_FAILED"):
        send("https://hooks.example.org/")
    assert receiver.got == []


def test_a_certificate_by_nobody_we_trust_is_refused(net: Internet, receiver: Receiver) -> None:
    with pytest.raises(Failed, match="CERTIFICATE_VERIFY_FAILED"):
        egress.post(URL, body=BODY, headers={}, context=ssl.create_default_context())
    assert receiver.got == []


def test_proxies_of_the_environment_are_not_asked(
    net: Internet, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(tls=False) as proxy:
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.local)
        assert send().status == 204
        assert proxy.connections == 0


def test_of_a_refusal_the_first_words_are_kept_and_nothing_else(net: Internet, receiver: Receiver) -> None:
    words = b"no \x00such\r\n\x1b[31m thing \xff whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw " + b"y" * 10_000_000
    receiver.behave = lambda _: Answering(500, words)
    answer = send()
    assert answer.status == 500
    assert answer.excerpt.startswith("no such [31m thing � whsec_[redacted] yyy")
    assert len(answer.excerpt) == 200
    receiver.behave = lambda _: Answering(200, b"all of this is nobody's business")
    assert send()[::2] == (200, "")


class Dripping:
    """A server that says one byte after the other and never comes to an end."""

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        self.socket.settimeout(5)
        line, _ = self.socket.accept()
        with line:
            line.sendall(self.first)
            while not self.stop.wait(0.01):
                try:
                    line.sendall(b"x")
                except OSError:
                    return

    def close(self) -> None:
        self.stop.set()
        self.thread.join()
        self.socket.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 500 No\r\nContent-Length: 4000\r\n\r\n"])
def test_a_receiver_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(egress, "DEADLINE_SECONDS", 0.3)
    dripping = Dripping(first)
    try:
        with pytest.raises(Failed, match="no whole answer"):
            send(f"http://127.0.0.1:{dripping.port}/", local=True)
    finally:
        dripping.close()


def test_a_handshake_that_never_ends_is_cut_off(net: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "DEADLINE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as line:
        line.connect(silent.getsockname())
        monkeypatch.setattr(egress, "_dial", lambda *_: line)
        with pytest.raises(Failed, match="no whole answer"):
            send()


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 999999 x\r\n\r\n"])
def test_an_answer_that_is_no_http_is_a_failure(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            server.settimeout(5)
            line, _ = server.accept()
            with line:
                line.recv(65_536)
                line.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(Failed):
            send(f"http://127.0.0.1:{server.getsockname()[1]}/", local=True)
        thread.join()


def test_only_this_machine_is_local_and_only_where_that_is_allowed() -> None:
    with Receiver(tls=False) as mine, Internet() as net:
        net.resolve("localhost", ["127.0.0.1"])
        net.resolve("127.0.0.1", ["127.0.0.1"])
        for host in ("localhost", "127.0.0.1"):
            assert send(f"http://{host}:{mine.port}/x", local=True).status == 204
            with pytest.raises(Refused):
                send(f"http://{host}:{mine.port}/x")
        net.resolve("localhost", ["127.0.0.1", "10.0.0.1"])
        for url in (
            f"http://localhost:{mine.port}/",
            "http://10.0.0.1/",
            "http://hooks.example.com/",
            "http://0.0.0.0/",
        ):
            with pytest.raises(Refused):
                send(url, local=True)
    assert [each.headers["host"] for each in mine.got] == [f"localhost:{mine.port}", f"127.0.0.1:{mine.port}"]


def test_an_answer_says_how_long_it_took(net: Internet, receiver: Receiver) -> None:
    began = time.monotonic()
    took = send().took_ms
    assert 0 <= took <= (time.monotonic() - began) * 1000
