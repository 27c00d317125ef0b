"""What only a real server on a real socket shows: bodies nobody read, HEAD, chunks, compressed bodies."""

import csv
import gzip
import http.client
import io
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import zstandard

from core import ids
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import House
from tests.server import HOST, WebServer

MIB = 1024 * 1024


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with usage."""
    return neighbours.house("acme-labs")


@pytest.fixture
def client(server: WebServer) -> Iterator[httpx.Client]:
    """One client that keeps its connection."""
    with httpx.Client(base_url=server.base_url, timeout=30) as opened:
        yield opened


def said(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal in its envelope."""
    assert answer.headers["x-request-id"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer.status_code, answer.json()["error"]["code"]


def test_whoever_sends_a_large_body_in_vain_sees_the_refusal_and_may_go_on(acme: House, client: httpx.Client) -> None:
    customer, gateway = acme.callers["plain"].headers, acme.gateway.headers
    refusals = {
        ("/v1/events", 401, "invalid_api_key"): {},
        ("/nowhere", 404, "not_found"): {},
        ("/v1/keys", 403, "scope_missing"): customer,
        ("/v1/wallet", 405, "method_not_allowed"): customer,
        ("/v1/events", 406, "not_acceptable"): {**gateway, "Accept": "image/png"},
        ("/v1/events", 415, "unsupported_media_type"): {**gateway, "Content-Encoding": "br"},
    }
    for size in (1000, 6 * MIB):
        body = b"[" + b" " * size + b"]"
        for (path, status, code), headers in refusals.items():
            sent = {"Content-Type": "application/json", **headers}
            assert said(client.post(path, content=body, headers=sent)) == (status, code)
    large = b'{"name": "' + b"x" * 20 * MIB + b'"}'
    sent = {"Content-Type": "application/json", **gateway}
    assert said(client.post("/v1/events", content=large, headers=sent)) == (413, "request_too_large")
    sent = {"Content-Type": "application/json", **acme.callers["owner"].headers}
    assert said(client.post("/v1/keys", content=large, headers=sent)) == (413, "request_too_large")
    # The connection still stands.
    assert client.get("/v1/wallet", headers=customer).status_code == 200


def test_a_body_may_be_as_large_as_it_may_and_compressed(acme: House, client: httpx.Client) -> None:
    headers = {**acme.gateway.headers, "Content-Type": "application/json"}
    packings: dict[str, Callable[[bytes], bytes]] = {
        "identity": bytes,
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
    }
    for number, (name, pack) in enumerate(packings.items()):
        exact = json.dumps([neighbours.event(f"large-{number}")]).encode()
        exact += b" " * (8 * MIB - len(exact))
        packed = pack(exact)
        answer = client.post("/v1/events", content=packed, headers={**headers, "Content-Encoding": name})
        assert (answer.status_code, answer.json()["created"]) == (200, 1), name
        packed = pack(exact + b" ")
        answer = client.post("/v1/events", content=packed, headers={**headers, "Content-Encoding": name})
        assert said(answer) == (413, "request_too_large"), name


def raw(server: WebServer, head: str, body: bytes = b"") -> http.client.HTTPResponse:
    """The answer to exactly these bytes, its body not yet read."""
    line = socket.create_connection((HOST, server.port), timeout=20)
    line.sendall(head.replace("\n", "\r\n").encode() + body)
    answer = http.client.HTTPResponse(line, method=head.split(" ")[0])
    answer.begin()
    line.close()
    return answer


def test_a_body_in_chunks_is_taken_where_it_can_be_and_else_refused_rather_than_taken_for_none(
    acme: House, server: WebServer
) -> None:
    event = json.dumps(neighbours.event("chunked", organization=acme.slug)).encode()
    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (7, event[:7], len(event) - 7, event[7:])

    def head(path: str) -> str:
        key = f"Authorization: Bearer {acme.gateway.secret}"
        return f"POST {path} HTTP/1.1\nHost: localhost\n{key}\nTransfer-Encoding: chunked\n\n"

    with closing(raw(server, head("/v1/events"), chunks)) as answer:
        assert (answer.status, json.load(answer)["status"]) == (201, "created")
    # Behind WSGI a body without a length looks like none.
    with closing(raw(server, head("/v1/keys/verify"), chunks)) as answer:
        assert (answer.status, json.load(answer)["error"]["code"]) == (411, "length_required")
        assert answer.headers["X-Gateway-Error-Category"] == "user_error"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def lines_head(acme: House, *headers: str) -> bytes:
    """The head of a request whose lines come in chunks."""
    told = [
        "POST /v1/events HTTP/1.1", "Host: localhost", f"Authorization: Bearer {acme.gateway.secret}",
        "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked", *headers,
    ]  # fmt: skip
    return "\r\n".join([*told, "", ""]).encode()


def heard(line: socket.socket) -> tuple[int, Any]:
    """Status and body of the next answer on a connection."""
    answer = http.client.HTTPResponse(line, method="POST")
    answer.begin()
    return answer.status, json.load(answer)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_line_too_many_is_refused_before_its_sender_has_finished(
    acme: House, server: WebServer, encoding: str
) -> None:
    body = b"".join(b'{"event_id": "%d"}\n' % number for number in range(1001))
    with socket.create_connection((HOST, server.port), timeout=20) as line:
        line.sendall(lines_head(acme, f"Content-Encoding: {encoding}"))
        packer = zlib.compressobj(0, wbits=31)
        packed = body if encoding == "identity" else packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH)
        line.sendall(chunk(packed))
        status, told = heard(line)
        assert (status, told["error"]["code"]) == (413, "too_many_events")
        # What is sent all the same is nobody's, and after the last chunk the connection ends.
        line.sendall(chunk(b"{" * MIB) * 3 + b"0\r\n\r\n")
        assert line.recv(1) == b""
    with socket.create_connection((HOST, server.port), timeout=20) as line:
        event = json.dumps(neighbours.event("afterwards", organization=acme.slug)).encode()
        line.sendall(lines_head(acme) + chunk(event) + b"0\r\n\r\n")
        status, told = heard(line)
        assert (status, told["created"]) == (200, 1)


def test_lines_that_come_a_little_at_a_time_are_taken_as_one_batch(acme: House, server: WebServer) -> None:
    events = [neighbours.event(f"line-{number}", organization=acme.slug, end_user="Zoë 🎟") for number in range(200)]
    body = "\n".join(json.dumps(event, ensure_ascii=False) for event in events).encode()
    for packed, encoding, counted in ((body, "identity", "created"), (gzip.compress(body, 0), "gzip", "duplicates")):
        with socket.create_connection((HOST, server.port), timeout=20) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.sendall(lines_head(acme, f"Content-Encoding: {encoding}"))
            for at in range(0, len(packed), 997):
                line.sendall(chunk(packed[at : at + 997]))
            line.sendall(b"0\r\n\r\n")
            status, told = heard(line)
        assert (status, told[counted]) == (200, 200)


def test_who_asks_before_sending_is_refused_before_having_sent(acme: House, server: WebServer) -> None:
    head = "POST /v1/events HTTP/1.1\nHost: localhost\nContent-Length: 5000000\nExpect: 100-continue\n\n"
    with closing(raw(server, head)) as answer:
        # Who asks first is told before having sent anything.
        assert (answer.status, json.load(answer)["error"]["code"]) == (401, "invalid_api_key")


def test_head_sends_the_headers_of_get_and_no_body(acme: House, server: WebServer) -> None:
    key = acme.callers["organization"].secret
    for path in ("/v1/wallet", "/v1/usage", "/healthz", "/nowhere", "/v1/events"):
        head = f"{path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {key}\nConnection: close\n\n"
        with closing(raw(server, f"HEAD {head}")) as bare, closing(raw(server, f"GET {head}")) as full:
            assert bare.status == full.status
            assert bare.read() == b""
            assert full.read() != b""
            for name in ("content-type", "deepailab-version", "deepailab-organization", "x-gateway-error-category"):
                assert bare.headers[name] == full.headers[name], (path, name)


def test_an_export_streams_whole_over_many_chunks(acme: House, client: httpx.Client) -> None:
    events = [neighbours.event(f"many-{number}", end_user="ü" * 100) for number in range(1000)]
    for batch in range(3):
        told = [{**event, "event_id": f"{event['event_id']}-{batch}"} for event in events]
        assert client.post("/v1/events", json=told, headers=acme.gateway.headers).json()["created"] == 1000
    headers = {**acme.callers["organization"].headers, "Accept": "text/csv"}
    with client.stream("GET", "/v1/usage", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["deepailab-organization"] == "acme-labs"
        text = "".join(answer.iter_text())
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["id"] for row in rows] == [ids.show("usage", each.pk) for each in reversed(acme.records)]
    assert len(rows) == 3006
    assert {row["end_user"] for row in rows} == {"ü" * 100, "user of acme-labs"}
