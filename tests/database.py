"""The PostgreSQL of a test run, loaded with ``-p tests.database``.

pytest-django reads the settings before any conftest, so this plugin sets the environment earlier
still. The server itself starts when the first test needs it: a run of pure tests needs none.

Settings in the caller's environment never reach the tests, so a shell that points at real books is
harmless. ``TEST_<NAME>`` sets ``<NAME>`` for a run; ``TEST_DATABASE_URL`` names a server to use
instead of our own (its role must be allowed to create databases).

``TEST_CITUS=1`` says that ``TEST_DATABASE_URL`` names a database with the Citus extension, on the
coordinator of a cluster or on its only node. Every database of the run is then made on each node, with the
extension, migrated and distributed: a copy of a distributed database would find no shards of its own
on the workers. That takes seconds for each, so name the files to run. The role must be a
superuser, and reach every node by the names that ``pg_dist_node`` knows them by.
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, LiteralString, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from core.embedded import Postgres

ROOT = Path(__file__).resolve().parent.parent
_SETTING = re.compile(r"""\b(?:text|integer|flag|choice|words|sender|folder)\(\s*"([A-Z][A-Z0-9_]*)\"""")
# Nothing may change plans or hold the template open under a test; the log must not fill the memory.
_SETTINGS = {"autovacuum": "off", "min_wal_size": "80MB", "max_wal_size": "512MB"}
FOLDER_PREFIX = "tollbook-test-"
# Copying a database took 11 ms in memory and 50 to 400 ms on disks, the same files each time.
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_MIN = 2 * 1024**3


class Server:
    """One PostgreSQL and the databases a run makes in it; all names carry the run's own prefix."""

    def __init__(self, given: str | None) -> None:
        place = folder_for_files()
        sweep(place)
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=place))
        self._alive = hold(self.folder)
        self.prefix = f"tollbook_{os.getpid()}_"
        self.template = self.prefix + "template"
        self.main = self.prefix + "main"
        self._given = given
        self._own: Postgres | None = None
        self._admin: psycopg.Connection | None = None
        self._made: set[str] = set()

    def url(self, database: str) -> str:
        """The address of a database of this server; the server need not run yet."""
        if self._given:
            return urlsplit(self._given)._replace(path=f"/{database}").geturl()
        return self._postgres().url(database)

    def start(self) -> None:
        """Start our server if there is none; nothing when one is given or runs."""
        if self._admin is not None:
            return
        if not self._given:
            self._postgres().start()
        maintenance = self._given or self.url("postgres")
        self._admin = psycopg.connect(maintenance, autocommit=True, application_name="tollbook tests")

    def stop(self) -> None:
        """Drop what the run made, stop our server, remove its files."""
        if self._admin is not None:
            if self._given:
                for database in sorted(self._made):
                    self.drop(database)
            self._admin.close()
            self._admin = None
        if self._own is not None:
            self._own.stop()
            self._own = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self._alive.close()

    def create(self, database: str, *, template: str = "template1") -> float:
        """Make a database as a copy of another (which nobody may be using); seconds it took.

        FILE_COPY is the faster one (11 against 22 ms) where its two checkpoints cost nothing, which
        is not so on a server of somebody else's.
        """
        started = time.perf_counter()
        self.drop(database)
        if self._given:
            self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY WAL_LOG", database, template)
        else:
            self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", database, template)
        self._made.add(database)
        return time.perf_counter() - started

    def drop(self, database: str) -> None:
        """Drop a database and whoever is still connected to it."""
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", database)
        self._made.discard(database)

    def _postgres(self) -> "Postgres":
        if self._own is None:
            from core.embedded import Postgres

            self._own = Postgres(data_dir=self.folder, durable=False, settings=_SETTINGS)
        return self._own

    def _run(self, statement: LiteralString, *names: str) -> None:
        assert self._admin is not None, "the test server is not started"
        self._admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class Cluster(Server):
    """A Citus cluster by its coordinator: a database is made on every node, and filled instead of copied."""

    def __init__(self, given: str | None) -> None:
        if not given:
            raise pytest.UsageError("TEST_CITUS=1 needs TEST_DATABASE_URL, a database with the Citus extension")
        super().__init__(given)
        # Every node's address of the given database: the coordinator's first, then the workers'.
        self._nodes: list[str] = []
        self._joining: list[tuple[LiteralString, tuple[object, ...]]] = []
        # Migrates, seeds and distributes the database of that name; conftest knows how.
        self.fill: Callable[[str], None] = lambda _: None

    def start(self) -> None:
        """Look up the nodes. Raises ``pytest.UsageError`` for a database that is not a cluster's."""
        if self._nodes:
            return
        super().start()
        assert self._admin is not None
        assert self._given is not None
        (found,) = self._admin.execute("SELECT to_regclass('pg_dist_node') IS NOT NULL").fetchone() or (False,)
        if not found:
            raise pytest.UsageError("TEST_CITUS=1, but the database of TEST_DATABASE_URL has no Citus extension")
        nodes = self._admin.execute(
            "SELECT groupid = 0, nodename, nodeport FROM pg_dist_node ORDER BY groupid, nodename, nodeport"
        ).fetchall()
        workers = [(name, port) for is_coordinator, name, port in nodes if not is_coordinator]
        if workers and len(workers) == len(nodes):
            raise pytest.UsageError(
                "the coordinator of TEST_DATABASE_URL is no node: SELECT citus_set_coordinator_host"
            )
        self._nodes = [self._given, *(elsewhere(self._given, host=name, port=port) for name, port in workers)]
        if workers:
            place = next((name, port) for is_coordinator, name, port in nodes if is_coordinator)
            self._joining = [("SELECT citus_set_coordinator_host(%s, %s)", place)]
            self._joining += [("SELECT citus_add_node(%s, %s)", worker) for worker in workers]

    def create(self, database: str, *, template: str = "template1") -> float:
        """Make a database on every node; filled like any other if it would be a copy. Seconds it took."""
        started = time.perf_counter()
        self.drop(database)
        self._made.add(database)
        for node in self._nodes:
            with psycopg.connect(node, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            with psycopg.connect(urlsplit(node)._replace(path=f"/{database}").geturl(), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION citus")
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement, place in self._joining:
                connection.execute(statement, place)
        if template != "template1":
            self.fill(database)
        return time.perf_counter() - started

    def drop(self, database: str) -> None:
        """Drop a database on every node."""
        for node in self._nodes:
            with psycopg.connect(node, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        self._made.discard(database)


def elsewhere(url: str, *, host: str, port: int) -> str:
    """The same database of another server."""
    parts = urlsplit(url)
    who = parts.netloc.rpartition("@")[0]
    options = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"host", "port"}]
    place = f"{who}@{host}:{port}" if who else f"{host}:{port}"
    return parts._replace(netloc=place, query=urlencode(options)).geturl()


def on_cluster() -> bool:
    """Whether the run is on a Citus cluster. Raises ``pytest.UsageError`` for a flag that is none."""
    chosen = os.environ.get("TEST_CITUS", "")
    if chosen not in {"", "0", "1"}:
        raise pytest.UsageError(f"TEST_CITUS={chosen!r} should be 1 or absent")
    return chosen == "1"


def folder_for_files() -> Path:
    """Memory, if the machine has it to spare and the caller names no ``TMPDIR``; else the usual place."""
    usual = Path(tempfile.gettempdir())
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return usual
    return _MEMORY if shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES_MIN else usual


def hold(folder: Path) -> IO[str]:
    """A lock in the folder that ends with this process, however it ends."""
    making = folder / "alive.new"
    lock = making.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Under its name only once it is locked: nobody sees it free in between.
    making.rename(folder / "alive")
    return lock


def sweep(place: Path) -> None:
    """Remove the folders of runs that were killed."""
    for folder in place.glob(f"{FOLDER_PREFIX}*"):
        try:
            with (folder / "alive").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # Alive, somebody else's, or not yet locked.
            continue


server_key = pytest.StashKey[Server]()


def setting_names() -> set[str]:
    """Every environment variable that ``core`` reads as a setting."""
    return {name for module in (ROOT / "core").glob("*.py") for name in _SETTING.findall(module.read_text())}


def prepare(server: Server) -> None:
    """Make the environment that of a test run."""
    for name in setting_names():
        os.environ.pop(name, None)
        if chosen := os.environ.get(f"TEST_{name}"):
            os.environ[name] = chosen
    os.environ["DATABASE_URL"] = server.url(server.main)
    os.environ["DATA_DIR"] = str(server.folder)
    os.environ["CELERY_BROKER_URL"] = "memory://"
    os.environ["SECRET_KEY"] = "only for tests: not secret, long enough, the same in every run"
    os.environ["ALLOWED_HOSTS"] = "localhost,127.0.0.1,[::1],testserver"


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """A wrapper, so that it runs before pytest-django's own hook of that name."""
    given = os.environ.get("TEST_DATABASE_URL") or None
    server = Cluster(given) if on_cluster() else Server(given)
    early_config.stash[server_key] = server
    prepare(server)
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing running and nothing on disk."""
    server = config.stash.get(server_key, cast("Server | None", None))
    if server is not None:
        server.stop()
