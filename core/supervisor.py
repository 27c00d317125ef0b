"""Everything that ``make up`` runs, started in order, kept alive, stopped in reverse.

The supervisor starts each part from its main thread and tells the kernel to end it when the
supervisor ends, so even kill -9 leaves nothing behind. One supervisor per ``DATA_DIR``.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple, Protocol

import kombu

from core import env, processes, schedule
from core.embedded import EmbeddedError, Postgres, Valkey, explain, rotate
from core.web import LOOPBACKS, Address, address, capacity, is_ready

ROOT = Path(__file__).resolve().parent.parent
TICK_SECONDS = 0.2
READY_SECONDS = 120
READY_POLL_SECONDS = 0.05
# Long enough for the requests and tasks in progress; then the process group is killed.
STOP_SECONDS = 25
KILL_SECONDS = 5
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 30.0
# A part that ran this long starts over with the shortest wait.
STEADY_SECONDS = 60
LOG_CHECK_SECONDS = 30
BROKER_SECONDS = 5
FAKE_HOST = "127.0.0.1"
# After an unclean end the kernel is still ending the old web processes.
PORT_WAIT_SECONDS = 5.0


class StartError(Exception):
    """``up`` cannot start; the message is one line and says what to do."""


class Interrupted(BaseException):
    """A signal asked for the end while ``up`` was still starting."""


class Part(Protocol):
    """Something that runs: an embedded server or a process of the product."""

    name: str
    process: subprocess.Popen[bytes] | None

    def start(self) -> None:
        """Start it. Raises ``EmbeddedError`` or ``StartError``."""

    def alive(self) -> bool:
        """Whether its main process runs."""

    def stop(self) -> None:
        """Stop it and clear away what is left of it; harmless if it does not run."""


@dataclass
class Child:
    """One process of the product with its own process group and log."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    asked: bool = False

    @property
    def pid(self) -> int:
        """The main process's id, which is its group's too. Only while it runs."""
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    def start(self) -> None:
        """Start the process; it may need a while to do its work. Call it in the main thread."""
        assert self.process is None, f"{self.name} runs already"
        try:
            output = self.log_path.open("ab")
        except OSError as error:
            raise StartError(explain(error, self.log_path.parent)) from error
        with output, processes.signals_deferred():
            self.process = subprocess.Popen(  # noqa: S603 - our own command line
                self.command,
                cwd=ROOT,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=processes.before_exec(on_orphan=signal.SIGKILL),
            )

    def alive(self) -> bool:
        """Whether the main process runs."""
        return self.process is not None and self.process.poll() is None

    def ask(self) -> None:
        """SIGTERM to the main process, once: a second one would cut off what it finishes."""
        if self.process is not None and not self.asked and self.process.poll() is None:
            self.asked = True
            self.process.terminate()

    def stop(self) -> None:
        """SIGTERM to the main process, time to finish, then SIGKILL to whoever is left in its group."""
        self.ask()
        process, self.process, self.asked = self.process, None, False
        if process is None:
            return
        if process.poll() is None:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end = time.monotonic() + KILL_SECONDS
        # granian's workers outlive their main process and keep the port.
        while processes.kill_group(process.pid) and time.monotonic() < end:
            time.sleep(0.01)

    def last_words(self) -> str:
        """The last line of its log."""
        with self.log_path.open("rb") as text:
            text.seek(max(0, self.log_path.stat().st_size - 4096))
            lines = [line.strip() for line in text.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


@dataclass
class _Watch:
    """What the supervisor remembers of one part."""

    part: Part
    started: float = 0.0
    failures: int = 0
    again_at: float | None = None


@dataclass
class Supervisor:
    """Starts parts in order, restarts the dead, stops in reverse order.

    ``say`` takes a line for the person at the terminal.
    """

    say: Callable[[str], None]
    watches: list[_Watch] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)
    interruptible: bool = True

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP end the run: at once while starting, else after the current step."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        # nohup's wish is respected.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ending.set()
        if self.interruptible:
            self.interruptible = False
            raise Interrupted

    def start(self, part: Part) -> None:
        """Start a part and keep it alive from now on. Raises what the part raises."""
        watch = _Watch(part)
        self.watches.append(watch)
        watch.started = time.monotonic()
        part.start()

    def tend(self) -> None:
        """Look at each part once: notice the dead, start again those whose time has come."""
        now = time.monotonic()
        for watch in self.watches:
            if self.ending.is_set():
                return
            if watch.again_at is None:
                if watch.part.alive():
                    continue
                self._bury(watch, now)
            if watch.again_at is not None and now >= watch.again_at:
                self._restart(watch)
        processes.reap({watch.part.process.pid for watch in self.watches if watch.part.process is not None})

    def _bury(self, watch: _Watch, now: float) -> None:
        if now - watch.started > STEADY_SECONDS:
            watch.failures = 0
        wait = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2**watch.failures) if watch.failures else 0.0
        watch.failures += 1
        watch.again_at = now + wait
        self.say(f"{watch.part.name} ended unexpectedly; starting it again" + (f" in {wait:g} s" if wait else ""))
        watch.part.stop()

    def _restart(self, watch: _Watch) -> None:
        watch.again_at = None
        watch.started = time.monotonic()
        try:
            watch.part.start()
        except (EmbeddedError, StartError, OSError, subprocess.SubprocessError) as error:
            self.say(f"{watch.part.name}: {error}")

    def stop(self) -> None:
        """Stop every part, the last started first; our own processes finish side by side, before the servers go."""
        self.interruptible = False
        for watch in reversed(self.watches):
            if isinstance(watch.part, Child):
                watch.part.ask()
        for watch in reversed(self.watches):
            try:
                watch.part.stop()
            except OSError as error:
                self.say(f"{watch.part.name}: {error}")
        self.watches.clear()

    def run(self, *, each_tick: Sequence[Callable[[], None]]) -> None:
        """Tend the parts until a signal asks for the end."""
        while not self.ending.wait(TICK_SECONDS):
            self.tend()
            for chore in each_tick:
                chore()


@contextlib.contextmanager
def hold(data_dir: Path) -> Iterator[bool]:
    """Hold ``data_dir`` for one supervisor; yields whether the last one ended uncleanly. Raises ``StartError``."""
    path = data_dir / "up.lock"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "log").mkdir(mode=0o700, exist_ok=True)
        lock: IO[str] = path.open("a+")
    except OSError as error:
        raise StartError(explain(error, data_dir)) from error
    with lock:
        lock.seek(0)
        holder = lock.read().strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another `up` (process {holder or 'unknown'}) already runs on {data_dir};"
                " stop it, or choose another DATA_DIR and PORT"
            ) from None
        _rewrite(lock, str(os.getpid()))
        try:
            yield bool(holder)
        finally:
            _rewrite(lock, "")


def _rewrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def check_port(where: Address, *, wait: float = 0.0) -> None:
    """See that the address can be listened on. Raises ``StartError``.

    ``wait``: seconds to give processes that are just ending.
    """
    end = time.monotonic() + wait
    while True:
        try:
            family, kind, protocol, _, name = socket.getaddrinfo(
                where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(name)
                probe.listen()
            return
        except socket.gaierror as error:
            raise StartError(f"HOST={where.host} is no address of this machine ({error.strerror})") from error
        except PermissionError as error:
            raise StartError(f"port {where.port} needs root; choose one above 1023 with PORT") from error
        except OSError as error:
            if time.monotonic() < end:
                time.sleep(READY_POLL_SECONDS)
                continue
            taken = f"cannot listen on {where.netloc}: {error.strerror or error}"
            raise StartError(f"{taken}; choose another PORT or HOST") from error


def check_broker(url: str) -> None:
    """See that the person's broker answers. Raises ``StartError`` without showing its password."""
    try:
        with kombu.Connection(url, connect_timeout=BROKER_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
    except (KeyError, ValueError, ImportError, AttributeError) as error:
        shape = "CELERY_BROKER_URL should look like redis://:password@host:6379/0"
        raise StartError(f"{shape}; it is not an address ({type(error).__name__})") from error
    except (kombu.exceptions.OperationalError, OSError) as error:
        raise StartError(f"CELERY_BROKER_URL: no broker answers: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def keep_secret_key(data_dir: Path) -> None:
    """Make ``secret_key`` (mode 0600) at the first start, complete or not at all. Raises ``StartError``."""
    path = data_dir / "secret_key"
    try:
        if not path.exists() or not path.read_text().strip():
            write_private(path, secrets.token_urlsafe(48) + "\n")
    except OSError as error:
        raise StartError(explain(error, data_dir)) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, replacing it in one step. Raises ``OSError``."""
    # Its own, should another write the same file at the same time; one that a killed process left is written over.
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def product(*, data_dir: Path, environment: Mapping[str, str]) -> tuple[Child, list[Child]]:
    """The product's own processes: the web server, and those started once it answers.

    Raises ``core.env.BadSetting``.
    """
    capacity()
    logs = data_dir / "log"
    celery = [sys.executable, "-m", "celery", "-A", "core"]
    level = ["--loglevel", env.text("LOG_LEVEL", "INFO")]
    width = str(env.integer("WORKER_PROCESSES", 2, low=1, high=64))
    web = Child("web", [sys.executable, "-m", "core.web"], environment, logs / "web.log")
    # What is long never takes the place of what moves money.
    workers = [
        Child(
            f"worker_{queue}",
            [*celery, "worker", *level, "--queues", queue, "--hostname", f"{queue}@%h", "--concurrency", width,
                "--without-mingle", "--without-gossip"],
            environment,
            logs / f"worker_{queue}.log",
        )
        for queue in schedule.LIMITS
    ]  # fmt: skip
    beat = Child(
        "beat",
        [*celery, "beat", *level, "--pidfile", "", "--schedule", str(data_dir / "beat-schedule")],
        environment,
        logs / "beat.log",
    )
    return web, [*workers, beat]


class FakePayments(NamedTuple):
    """A fake Stripe for a person to walk through payments with (``STRIPE_FAKE=1``): its process and its address."""

    child: Child
    base_url: str


def fake_payments(
    where: Address, *, data_dir: Path, embedded: bool, environment: dict[str, str]
) -> FakePayments | None:
    """The fake Stripe if the person asked for one; adds to ``environment`` what leads the other processes to it.

    Raises ``StartError`` where real customers could meet it, ``core.env.BadSetting``.
    """
    if not env.flag("STRIPE_FAKE", False):
        return None
    if not embedded:
        raise StartError("STRIPE_FAKE=1 is for trying things out; it does not run with a DATABASE_URL")
    if env.text("STRIPE_API_KEY", ""):
        raise StartError("STRIPE_FAKE=1 and STRIPE_API_KEY exclude each other; leave one out")
    if not (ROOT / "tests" / "fakes" / "stripe").is_dir():
        raise StartError("STRIPE_FAKE=1 needs the checkout's tests; they are not here")
    with socket.socket() as probe:
        probe.bind((FAKE_HOST, 0))
        port = probe.getsockname()[1]
    # Of this run only: nobody else signs what we take for a payment.
    environment |= {
        "STRIPE_API_KEY": f"sk_test_fake_{secrets.token_hex(8)}",
        "STRIPE_API_BASE": f"http://{FAKE_HOST}:{port}",
        "STRIPE_WEBHOOK_SECRET": f"whsec_fake_{secrets.token_hex(16)}",
    }
    ours = Address(LOOPBACKS.get(where.host, where.host), where.port)
    command = [sys.executable, "-m", "tests.fakes.stripe", "--port", str(port)]
    command += ["--webhook", f"http://{ours.netloc}/v1/webhooks/stripe", "--keep", str(data_dir / "fake-stripe")]
    log_path = data_dir / "log" / "fake-stripe.log"
    return FakePayments(Child("fake-stripe", command, environment, log_path), environment["STRIPE_API_BASE"])


def follow_make(ending: threading.Event) -> Callable[[], None]:
    """End with the ``make`` that started us, also where it keeps its end to itself.

    Killed, it tells nobody. Interrupted alone, without the rest of its terminal's group, it
    drops its handler and waits for us in silence. Returns what to call now and then.
    """
    make = os.getppid()
    listened = processes.catches(make, signal.SIGINT)
    processes.end_with_parent(signal.SIGTERM)

    def look() -> None:
        if os.getppid() != make or (listened and not processes.catches(make, signal.SIGINT)):
            ending.set()

    return look


def up(*, data_dir: Path, embedded: bool, broker: str, prepare: Callable[[], None]) -> None:
    """Run the whole product on this machine until a signal asks for the end.

    ``embedded``: bring our own PostgreSQL; ``broker``: address of a broker of the person's own,
    or "" to bring our own Valkey. ``prepare``
    migrates and seeds, with the database running. Raises ``StartError``, ``EmbeddedError``,
    ``core.env.BadSetting`` and what ``prepare`` raises; then nothing is left running.
    """
    where = address()
    under_make = env.flag("TOLLBOOK_UNDER_MAKE", False)
    supervisor = Supervisor(say=lambda line: print(f"tollbook: {line}", file=sys.stderr, flush=True))  # noqa: T201
    processes.adopt_orphans()
    with contextlib.suppress(Interrupted), supervisor.signals(), hold(data_dir) as unclean:
        chores = [_log_keeper(data_dir), *([follow_make(supervisor.ending)] if under_make else [])]
        try:
            environment = _environment(where, data_dir=data_dir, embedded=embedded)
            fake = fake_payments(where, data_dir=data_dir, embedded=embedded, environment=environment)
            web, others = product(data_dir=data_dir, environment=environment)
            check_port(where, wait=PORT_WAIT_SECONDS if unclean else 0.0)
            for server in _servers(data_dir=data_dir, embedded=embedded, broker=broker):
                supervisor.start(server)
            prepare()
            if fake is not None:
                supervisor.start(fake.child)
            supervisor.start(web)
            _await_ready(web, where)
            for child in others:
                supervisor.start(child)
            if embedded and not env.text("EMAIL_HOST", ""):
                supervisor.say(f"no mail server is set (EMAIL_HOST), so mails are files in {data_dir / 'mail'}")
            if fake is not None:
                supervisor.say(f"payments are FAKE (STRIPE_FAKE=1): a stand-in for Stripe runs at {fake.base_url}")
            elif not env.text("STRIPE_API_KEY", ""):
                supervisor.say("payments are off: no STRIPE_API_KEY (STRIPE_FAKE=1 runs a stand-in for Stripe)")
            with contextlib.suppress(OSError):
                print(f"READY http://{where.netloc}", flush=True)  # noqa: T201 - the line others script against
            supervisor.interruptible = False
            supervisor.run(each_tick=chores)
        finally:
            supervisor.stop()


def _environment(where: Address, *, data_dir: Path, embedded: bool) -> dict[str, str]:
    """What the children need to know, unless the person said otherwise."""
    ours = {"PUBLIC_URL": env.text("PUBLIC_URL", f"http://{where.netloc}")} if embedded else {}
    host = f"[{where.host}]" if ":" in where.host else where.host
    names = ",".join(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", host]))
    return os.environ | {
        "DATA_DIR": str(data_dir),
        "HOST": where.host,
        "PORT": str(where.port),
        "ALLOWED_HOSTS": env.text("ALLOWED_HOSTS", names),
        "PYTHONUNBUFFERED": "1",
        **ours,
    }


def _servers(*, data_dir: Path, embedded: bool, broker: str) -> Iterator[Part]:
    """The servers that the person did not bring; a broker of their own is looked at instead."""
    if broker:
        check_broker(broker)
    if embedded:
        keep_secret_key(data_dir)
        yield Postgres(data_dir=data_dir)
    if not broker:
        yield Valkey(data_dir=data_dir)


def _await_ready(web: Child, where: Address) -> None:
    end = time.monotonic() + READY_SECONDS
    while not is_ready(where):
        if not web.alive():
            raise StartError(f"web did not start: {web.last_words()} (see {web.log_path})")
        if time.monotonic() > end:
            raise StartError(f"web did not become ready within {READY_SECONDS} s (see {web.log_path})")
        time.sleep(READY_POLL_SECONDS)


def _log_keeper(data_dir: Path) -> Callable[[], None]:
    """Every half minute, move logs that have grown too large out of the way."""
    due = time.monotonic() + LOG_CHECK_SECONDS

    def keep() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + LOG_CHECK_SECONDS
        for path in (data_dir / "log").glob("*.log"):
            rotate(path)

    return keep
