"""Model calls through the gateway against the same fake provider asked directly, hold and debit on.

With ``BENCH_LITELLM=1`` a LiteLLM proxy of one process and no database, installed into an environment of its own,
is measured beside it in turns; it reads nothing of our environment, where it would find a database. With
``BENCH_LITELLM=FOLDER`` that environment is there already. ``python -m tests.benchmarks.gateway`` is the crowd, told
what to do on standard input.
"""

import asyncio
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.stage import Figure, Stage
from tests.database import ROOT
from tests.server import WebServer, free_port, living

ROUNDS = 400
CLIENTS = 64
SECONDS = 6
STREAMS = 2000
LITELLM = "litellm[proxy]==1.92.2"
# Turns of ours and theirs.
TURNS = 3
BODY = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "Which wallet paid for this call?"}],
        "max_tokens": 300}  # fmt: skip


@contextlib.contextmanager
def fake(**act: Any) -> Iterator[int]:
    """The fake provider in a process of its own; its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.upstream", json.dumps(act)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


class _Line:
    """One kept connection that measures."""

    def __init__(self, port: int, key: str) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, **told: Any) -> tuple[float, float]:
        """Milliseconds to the first byte of the body and to its end."""
        raw = json.dumps({**BODY, **told})
        began = time.perf_counter()
        self._line.request("POST", "/v1/chat/completions", raw, self._headers)
        answer = self._line.getresponse()
        answer.read(1)
        first = time.perf_counter() - began
        rest = answer.read()
        assert answer.status == 200, rest[:300]
        return first * 1000, (time.perf_counter() - began) * 1000


def _compared(ours: _Line, direct: _Line, **told: Any) -> tuple[list[float], list[float]]:
    """What the gateway adds at the median, and the provider's own, to the first byte and to the end; in turns."""
    for line in (ours, direct):
        for _ in range(30):
            line.ask(**told)
    pairs = [(ours.ask(**told), direct.ask(**told)) for _ in range(ROUNDS)]
    with_us = [statistics.median(one[0][place] for one in pairs) for place in (0, 1)]
    without = [statistics.median(one[1][place] for one in pairs) for place in (0, 1)]
    return [mine - other for mine, other in zip(with_us, without, strict=True)], without


def crowd(port: int, key: str, *, clients: int, seconds: float, model: str = "deepseek-chat") -> float:
    """Calls a second of so many connections, from a process of their own."""
    asked = {"port": port, "key": key, "clients": clients, "seconds": seconds, "model": model}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gateway"], cwd=ROOT, input=json.dumps(asked), capture_output=True,
        text=True, timeout=seconds + 60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


async def _crowd(asked: dict[str, Any]) -> float:
    raw = json.dumps({**BODY, "model": asked["model"]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {asked['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    ).encode()
    counted = 0
    seconds: float = asked["seconds"]
    begin = time.monotonic() + 1.0
    end = begin + seconds

    async def client() -> None:
        nonlocal counted
        reader, writer = await asyncio.open_connection("127.0.0.1", asked["port"])
        while time.monotonic() < end:
            writer.write(head + raw)
            told = await reader.readuntil(b"\r\n\r\n")
            assert told.startswith(b"HTTP/1.1 200"), told + await reader.read(500)
            length = told.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            counted += time.monotonic() > begin
        writer.close()

    await asyncio.gather(*(client() for _ in range(asked["clients"])))
    return counted / seconds


def _resident(web: WebServer) -> int:
    """Bytes that the server's processes hold (proc_pid_status(5))."""
    total = 0
    for pid in living(web.pid):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def _listen(port: int, key: str, count: int) -> list[http.client.HTTPConnection]:
    """So many streams that have begun."""
    opened = []
    raw = json.dumps({**BODY, "model": "gpt-4o", "stream": True, "max_tokens": 5})
    for _ in range(count):
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        line.request(
            "POST", "/v1/chat/completions", raw, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        )
        answer = line.getresponse()
        assert answer.status == 200
        answer.read(1)
        opened.append(line)
    return opened


def _install(stage: Stage) -> Path:
    """The programs of an environment with a LiteLLM proxy in it."""
    told = os.environ["BENCH_LITELLM"]
    if told != "1":
        return Path(told) / "bin"
    place = stage.folder / "litellm"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    subprocess.run([str(place / "bin" / "pip"), "install", "-q", LITELLM], check=True, timeout=900)
    return place / "bin"


@contextlib.contextmanager
def _litellm(stage: Stage, upstream: int) -> Iterator[int]:
    """A LiteLLM proxy in front of the same provider; its port."""
    programs = _install(stage)
    config, log_path = stage.folder / "litellm.json", stage.folder / "litellm.log"
    config.write_text(json.dumps({
        "model_list": [{"model_name": BODY["model"], "litellm_params": {
            "model": "openai/up-1", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "x"}}],
        "general_settings": {"master_key": "sk-bench"},
    }))  # fmt: skip
    port = free_port()
    kept = {name: each for name, each in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(programs / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1",
             "--num_workers", "1"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=stage.folder,
            env={**kept, "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"},
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not _is_alive(port):
            ended = process.poll() is not None or time.monotonic() > end
            assert not ended, log_path.read_text()[-2000:]
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _is_alive(port: int) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        line.request("GET", "/health/liveliness")
        return line.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


def figures(stage: Stage) -> list[Figure]:
    """One client: what is added. Many: how many calls. Open streams: how much memory."""
    from gateway import channels
    from orgs.audit import system

    by = system("benchmark")
    with fake() as quick, fake(fault="pause", at=1, words=["a"] * 3) as paused:
        channels.keep(
            name="quick", by=by,
            fields={"base_url": f"http://127.0.0.1:{quick}/v1", "models": {"deepseek-chat": "up-1"}},
        )  # fmt: skip
        channels.keep(
            name="paused", by=by,
            fields={"base_url": f"http://127.0.0.1:{paused}/v1", "models": {"gpt-4o": "up-2"}},
        )  # fmt: skip
        found = []
        with stage.server(workers=1) as web:
            ours, direct = _Line(web.port, stage.customer_key), _Line(quick, "x")
            (_, added), (_, own) = _compared(ours, direct)
            found.append(Figure(
                "call_added_p50", added, "ms", 3.0,
                f"one client, hold and debit on; the provider alone takes {own:.2f} ms; limit: what was promised",
            ))  # fmt: skip
            (first, _), (own, _) = _compared(ours, direct, stream=True)
            found.append(Figure(
                "stream_first_byte_added", first, "ms", 3.0,
                f"one client; the provider's own first byte {own:.2f} ms; limit: what was promised",
            ))  # fmt: skip
            found += _costs(stage, web, ours)
            alone = crowd(quick, "x", clients=CLIENTS, seconds=SECONDS)
            rate = crowd(web.port, stage.customer_key, clients=CLIENTS, seconds=SECONDS)
            found.append(Figure(
                f"calls_{CLIENTS}", rate, "calls/s", alone,
                f"{CLIENTS} connections, one process, one organization; limit: the same fake provider alone",
            ))  # fmt: skip
            if os.environ.get("BENCH_LITELLM"):
                found.append(_rival(stage, quick, web))
            before = _resident(web)
            opened = _listen(web.port, stage.customer_key, STREAMS)
            each = (_resident(web) - before) / STREAMS
            found.append(Figure(
                "stream_memory", each / 1000, "kB", 100.0, f"{STREAMS} streams open in one process"
            ))  # fmt: skip
            for line in opened:
                line.close()
    return found


def _costs(stage: Stage, web: WebServer, ours: _Line) -> list[Figure]:
    """Processor time of a call that comes alone, which other work on the machine does not change as it does times."""
    before = _processor(living(web.pid)), _processor(_sessions(stage))
    for _ in range(ROUNDS):
        ours.ask()
    after = _processor(living(web.pid)), _processor(_sessions(stage))
    return [
        Figure(f"call_{name}_cpu", (end - begin) / ROUNDS, "ms", None, "one client, each call")
        for name, begin, end in zip(("web", "database"), before, after, strict=True)
    ]


def _processor(pids: list[int]) -> float:
    """Milliseconds of processor time that processes have had (proc_pid_stat(5))."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(told[11]) + int(told[12])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def _sessions(stage: Stage) -> list[int]:
    """The processes of the stage's database: the first and its children, each of which is a group of its own."""
    first = int(next(stage.folder.rglob("postmaster.pid")).read_text().split()[0])
    found = [first]
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((place / "stat").read_text().rpartition(")")[2].split()[1]) == first:
                found.append(int(place.name))
    return found


def _rival(stage: Stage, upstream: int, web: WebServer) -> Figure:
    """Ours beside a LiteLLM proxy, in turns; the median of each."""
    turns = []
    with _litellm(stage, upstream) as port:
        crowd(port, "sk-bench", clients=CLIENTS, seconds=2)
        for _ in range(TURNS):
            theirs = crowd(port, "sk-bench", clients=CLIENTS, seconds=SECONDS)
            turns.append((crowd(web.port, stage.customer_key, clients=CLIENTS, seconds=SECONDS), theirs))
    mine, theirs = (statistics.median(turn[place] for turn in turns) for place in (0, 1))
    ratios = ", ".join(f"{own / other:.1f}" for own, other in turns)
    return Figure(
        "calls_to_litellm", mine, "calls/s", theirs,
        f"{CLIENTS} connections; limit: {LITELLM}, one process, no database; ratio of each turn: {ratios}",
    )  # fmt: skip


if __name__ == "__main__":
    print(asyncio.run(_crowd(json.loads(sys.stdin.read()))))
