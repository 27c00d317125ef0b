"""`up`: one command starts everything, keeps it alive, and leaves nothing behind."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from unittest import mock

import psycopg
import pytest
import stripe

from core import supervisor
from core.embedded import EmbeddedError, Postgres, Valkey
from core.supervisor import StartError, Supervisor
from core.web import Address
from tests.core.running import (
    NOBODY,
    Up,
    as_root,
    as_user,
    children,
    environment,
    folder,
    inside,
    wait_until_gone,
)
from tests.database import ROOT
from tests.server import HOST, free_port

# Long enough for a crash recovery on a busy machine.
BACK_SECONDS = 90
SECRET = "s" * 40
BROKER = f"redis://{HOST}:1/0"
PAYMENTS_OFF = "tollbook: payments are off: no STRIPE_API_KEY (STRIPE_FAKE=1 runs a stand-in for Stripe)"


def eventually(fact: Callable[[], bool], *, seconds: float = BACK_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class FakePart:
    """A part that does as it is told and notes what is asked of it."""

    def __init__(self, name: str, story: list[str]) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.story = story
        self.up = False
        self.fails = 0

    def start(self) -> None:
        self.story.append(f"start {self.name}")
        if self.fails:
            self.fails -= 1
            raise EmbeddedError("not now")
        self.up = True

    def alive(self) -> bool:
        return self.up

    def stop(self) -> None:
        self.story.append(f"stop {self.name}")
        self.up = False


class TestTending:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr("core.supervisor.time.monotonic", lambda: now[0])
        return now

    def test_parts_stop_in_the_reverse_of_their_order(self) -> None:
        story: list[str] = []
        boss = Supervisor(say=story.append)
        for name in ("postgres", "web", "worker"):
            boss.start(FakePart(name, story))
        boss.stop()
        assert story[3:] == ["stop worker", "stop web", "stop postgres"]

    def test_one_that_cannot_be_stopped_does_not_keep_the_others(self) -> None:
        story: list[str] = []
        boss = Supervisor(say=story.append)
        parts = [FakePart(name, story) for name in ("postgres", "web")]
        for part in parts:
            boss.start(part)

        def refuse() -> None:
            raise OSError("it does not listen")

        parts[1].stop = refuse  # type: ignore[method-assign]
        boss.stop()
        assert story[-2:] == ["web: it does not listen", "stop postgres"]

    def test_a_dead_part_is_cleared_away_and_started_again_at_once(self, clock: list[float]) -> None:
        story: list[str] = []
        boss = Supervisor(say=story.append)
        web = FakePart("web", story)
        boss.start(web)
        boss.tend()
        web.up = False
        boss.tend()
        assert story == ["start web", "web ended unexpectedly; starting it again", "stop web", "start web"]

    def test_one_that_keeps_dying_is_started_less_and_less_often(self, clock: list[float]) -> None:
        story: list[str] = []
        boss = Supervisor(say=lambda line: None)
        web = FakePart("web", story)
        boss.start(web)
        starts = []
        for tick in range(4000):
            clock[0] = 1000 + tick / 10
            if web.up:
                starts.append(tick / 10)
                web.up = False
            boss.tend()
        waits = [round(after - before, 1) for before, after in itertools.pairwise(starts)]
        assert waits[:3] == sorted(waits[:3])
        assert max(waits) <= supervisor.BACKOFF_MAX_SECONDS + 0.2
        assert waits[-1] >= supervisor.BACKOFF_MAX_SECONDS
        assert len(starts) < 25

    def test_one_that_ran_well_for_a_while_starts_over_at_once(self, clock: list[float]) -> None:
        story: list[str] = []
        boss = Supervisor(say=story.append)
        web = FakePart("web", story)
        boss.start(web)
        for _ in range(6):
            clock[0] += supervisor.BACKOFF_MAX_SECONDS + 1
            web.up = False
            boss.tend()
            clock[0] += supervisor.BACKOFF_MAX_SECONDS + 1
            boss.tend()
            clock[0] += supervisor.STEADY_SECONDS + 1
            boss.tend()
        assert [line for line in story if " in " in line] == []

    def test_one_that_cannot_start_is_tried_again(self, clock: list[float]) -> None:
        story: list[str] = []
        boss = Supervisor(say=story.append)
        postgres = FakePart("postgres", story)
        boss.start(postgres)
        postgres.up, postgres.fails = False, 2
        for _ in range(60):
            clock[0] += 0.1
            boss.tend()
        assert story.count("postgres: not now") == 2
        assert postgres.up

    def test_a_killed_childs_whole_group_is_gone_before_it_is_started_again(self, tmp_path: Path) -> None:
        family = f"{sys.executable} -c 'import time; time.sleep(60)' & echo $!; wait"
        child = supervisor.Child("web", ["/bin/sh", "-c", family], os.environ, tmp_path / "web.log")
        child.start()
        assert eventually(lambda: child.log_path.read_text().endswith("\n"))
        grandchild = int(child.last_words())
        os.kill(child.pid, signal.SIGKILL)
        assert eventually(lambda: not child.alive())
        assert children(child.pid) == []
        child.stop()
        with contextlib.suppress(OSError):
            assert (Path(f"/proc/{grandchild}/stat").read_text()).rpartition(")")[2].split()[0] in "ZX"

    def test_a_child_that_ignores_the_request_to_end_is_killed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
        program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
        child = supervisor.Child("worker", [sys.executable, "-c", program], os.environ, tmp_path / "worker.log")
        child.start()
        assert eventually(lambda: child.last_words() == "deaf")
        process = child.process
        child.stop()
        assert process is not None
        assert process.returncode == -signal.SIGKILL


class TestChecks:
    def test_a_taken_port_is_told_with_what_to_do(self) -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(
                StartError, match=rf"^cannot listen on {HOST}:{port}: Address already in use; choose another PORT"
            ):
                supervisor.check_port(Address(HOST, port))

    def test_a_port_that_is_being_freed_is_waited_for(self) -> None:
        taken = socket.socket()
        taken.bind((HOST, 0))
        taken.listen()
        timer = threading.Timer(0.3, taken.close)
        timer.start()
        supervisor.check_port(Address(HOST, taken.getsockname()[1]), wait=30)
        timer.join()
        taken.close()

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("nowhere.invalid", "^HOST=nowhere.invalid is no address of this machine"),
            ("192.0.2.1", "^cannot listen on 192.0.2.1:8000: .*HOST"),
        ],
    )
    def test_a_host_that_is_not_ours_is_told(self, host: str, message: str) -> None:
        with pytest.raises(StartError, match=message):
            supervisor.check_port(Address(host, 8000))

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (BROKER, "^CELERY_BROKER_URL: no broker answers: .*refused"),
            ("carrier-pigeon://loft", "^CELERY_BROKER_URL should look like redis://"),
            ("redis://host:port/0", "^CELERY_BROKER_URL should look like redis://"),
        ],
    )
    def test_a_broken_broker_address_is_told_without_its_password(self, url: str, message: str) -> None:
        with pytest.raises(StartError, match=message) as caught:
            supervisor.check_broker(url.replace("//", "//:hunter2@"))
        assert "hunter2" not in str(caught.value)

    def test_a_working_broker_passes(self) -> None:
        with folder() as data, Valkey(data_dir=data, durable=False) as broker:
            supervisor.check_broker(broker.url())

    def test_the_secret_key_is_made_once_and_private(self, tmp_path: Path) -> None:
        supervisor.keep_secret_key(tmp_path)
        path = tmp_path / "secret_key"
        first = path.read_text()
        supervisor.keep_secret_key(tmp_path)
        assert len(first.strip()) >= 60
        assert path.read_text() == first
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_text("")
        supervisor.keep_secret_key(tmp_path)
        assert path.read_text() not in {"", first}

    def test_a_data_directory_has_one_holder_and_remembers_an_unclean_end(self, tmp_path: Path) -> None:
        with (
            supervisor.hold(tmp_path) as unclean,
            pytest.raises(StartError, match=rf"another `up` \(process {os.getpid()}\) already runs on {tmp_path}"),
            supervisor.hold(tmp_path),
        ):
            pytest.fail("held twice")
        assert unclean is False
        (tmp_path / "up.lock").write_text("4242")
        with supervisor.hold(tmp_path) as unclean:
            assert unclean is True
        with supervisor.hold(tmp_path) as unclean:
            assert unclean is False


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    """A product at its first start. Tests that use it leave it running."""
    with folder() as data, Up(data) as up:
        yield up.wait_ready()


@pytest.fixture(scope="module")
def lived_in() -> Iterator[Path]:
    """A data directory that was started and stopped once. A first start takes many times as long as a later one."""
    with folder() as data:
        with Up(data) as up:
            up.wait_ready()
            assert up.stop() == 0
        yield data


@contextlib.contextmanager
def copy_of(lived_in: Path, *, name: str = "data") -> Iterator[Path]:
    """A data directory of the test's own that was started before."""
    with folder(name=name) as data:
        subprocess.run(["cp", "-a", f"{lived_in}/.", str(data)], check=True)
        # What its first life said is not this one's.
        shutil.rmtree(data / "log")
        yield data


def demo(up: Up) -> dict[str, str]:
    found: dict[str, str] = json.loads((up.data_dir / "demo.json").read_text())
    return found


class TestRunning:
    def test_the_first_start_makes_a_demo_prints_it_once_and_is_ready(self, running: Up) -> None:
        assert running.lines[-1] == f"READY {running.base_url}"
        assert [line for line in running.lines if line.startswith("READY")] == running.lines[-1:]
        made = demo(running)
        assert set(made) == {
            *("base_url", "service_key", "customer_key", "organization"),
            *("admin_url", "admin_user", "admin_password"),
        }
        assert made["base_url"] == running.base_url
        assert (running.data_dir / "demo.json").stat().st_mode & 0o777 == 0o600
        assert (running.data_dir / "secret_key").stat().st_mode & 0o777 == 0o600
        printed = "\n".join(running.lines)
        assert [printed.count(made[name]) for name in ("service_key", "customer_key", "admin_password")] == [1, 1, 1]
        assert running.get("/readyz") == (200, {"status": "ok", "checks": {"database": "ok", "broker": "ok"}})

    def test_the_demos_customer_key_opens_a_wallet_of_a_hundred_dollars(self, running: Up) -> None:
        status, wallet = running.get("/v1/wallet", Authorization=f"Bearer {demo(running)['customer_key']}")
        assert status == 200
        assert wallet["balance_usd"] == 100

    def test_the_demos_operator_can_sign_in(self, running: Up) -> None:
        made = demo(running)
        connection = http.client.HTTPConnection(HOST, running.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/admin/login/")
            answer = connection.getresponse()
            cookie = (answer.headers["Set-Cookie"] or "").split(";")[0]
            token = cookie.partition("=")[2]
            answer.read()
            form = f"username={made['admin_user']}&password={made['admin_password']}&csrfmiddlewaretoken={token}"
            headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/admin/login/?next=/admin/", form, headers)
            assert connection.getresponse().status == 302

    def test_five_parts_run_and_serve_the_admins_own_files(self, running: Up) -> None:
        assert set(running.parts()) == {"postgres", "valkey", "web", "worker_money", "worker_bulk", "beat"}
        connection = http.client.HTTPConnection(HOST, running.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/static/admin/css/base.css")
            assert connection.getresponse().status == 200

    def test_a_second_one_on_the_same_data_is_refused_in_one_line(self, running: Up) -> None:
        with Up(running.data_dir) as second:
            assert second.wait_end() == 1
            assert second.lines == [
                f"tollbook: another `up` (process {running.supervisor}) already runs on {running.data_dir};"
                " stop it, or choose another DATA_DIR and PORT"
            ]
        assert running.ready()

    def test_one_on_the_same_port_is_refused_before_it_starts_anything(self, running: Up) -> None:
        with folder() as data, Up(data, port=running.port) as second:
            assert second.wait_end() == 1
            assert len(second.lines) == 1
            assert f"cannot listen on {HOST}:{running.port}: Address already in use" in second.lines[0]
            assert not (data / "postgres").exists()
        assert running.ready()

    @pytest.mark.parametrize("name", ["postgres", "valkey", "web", "worker_money", "worker_bulk", "beat"])
    def test_a_part_that_is_killed_comes_back(self, running: Up, name: str) -> None:
        before, said = running.parts(), len(running.read())
        os.kill(before[name], signal.SIGKILL)
        assert eventually(lambda: len(running.read()) > said)
        assert running.lines[said:] == [f"tollbook: {name} ended unexpectedly; starting it again"]
        assert eventually(lambda: running.parts().get(name, before[name]) != before[name])
        assert eventually(running.ready)
        after = running.parts()
        assert {part: pid for part, pid in after.items() if part != name} == {
            part: pid for part, pid in before.items() if part != name
        }
        # Nobody of the old one is left beside the new one, such as web workers that keep the port.
        strangers = set(inside(running.data_dir)) - family(running.supervisor)
        assert eventually(lambda: not strangers & set(inside(running.data_dir))), strangers

    def test_a_web_worker_that_is_killed_comes_back_without_the_rest(self, running: Up) -> None:
        web = running.parts()["web"]
        workers = children(web)
        os.kill(workers[0], signal.SIGKILL)
        assert eventually(lambda: len(children(web)) == len(workers) and workers[0] not in children(web))
        assert eventually(running.ready)
        assert running.parts()["web"] == web


def family(pid: int) -> set[int]:
    """A process and everybody below it."""
    return {pid}.union(*(family(child) for child in children(pid)))


class TestEnds:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_ends_it_cleanly_and_the_next_start_keeps_the_data(
        self, lived_in: Path, number: signal.Signals
    ) -> None:
        with copy_of(lived_in) as data:
            with Up(data) as first:
                first.wait_ready()
                made = demo(first)
                first.process.send_signal(number)
                assert first.wait_end() == 0
                assert first.lines[-1].startswith("READY")
                assert inside(data) == {}
                assert (data / "up.lock").read_text() == ""
            assert "database system is shut down" in (data / "log" / "postgres.log").read_text()
            with Up(data) as second:
                second.wait_ready()
                mails = f"tollbook: no mail server is set (EMAIL_HOST), so mails are files in {data / 'mail'}"
                assert second.lines == [mails, PAYMENTS_OFF, f"READY {second.base_url}"]
                # The keys stay, the address follows the port.
                assert demo(second) == {
                    **made,
                    "base_url": second.base_url,
                    "admin_url": made["admin_url"].replace(first.base_url, second.base_url),
                }
                assert second.get("/v1/wallet", Authorization=f"Bearer {made['customer_key']}")[0] == 200
                assert second.stop() == 0

    def test_killed_outright_it_leaves_nobody_and_the_next_start_works_at_once(self, lived_in: Path) -> None:
        with copy_of(lived_in) as data, Up(data) as first:
            first.wait_ready()
            assert eventually(lambda: len(children(first.parts()["worker_money"])) == 2)
            os.kill(first.supervisor, signal.SIGKILL)
            assert first.wait_end() == -signal.SIGKILL
            with Up(data, port=first.port) as second:
                second.wait_ready()
                assert set(inside(data)) == family(second.supervisor)
                os.kill(second.supervisor, signal.SIGKILL)
                second.wait_end()
            assert wait_until_gone(data) == {}

    def test_a_worker_in_the_middle_of_a_task_goes_with_it(self, tmp_path: Path) -> None:
        program = (
            "import subprocess, sys, time\nfrom core import processes\n"
            "command = [sys.executable, '-m', 'celery', '-A', 'tests.core.busy', 'worker', '--concurrency', '1']\n"
            "child = subprocess.Popen(command, start_new_session=True, preexec_fn=processes.before_exec())\n"
            "time.sleep(60)\n"
        )
        with folder() as data, Valkey(data_dir=data, durable=False) as broker:
            settings = environment(DATA_DIR=str(data), CELERY_BROKER_URL=broker.url())
            parent = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env=settings,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with parent:
                try:
                    queue = [sys.executable, "-m", "celery", "-A", "tests.core.busy", "call", "tests.core.busy.wait"]
                    subprocess.run(queue, cwd=ROOT, env=settings, check=True, capture_output=True, timeout=120)
                    assert eventually(lambda: (data / "busy").exists())
                    busy = int((data / "busy").read_text())
                    assert busy in inside(data)
                finally:
                    parent.kill()
            assert eventually(lambda: busy not in inside(data))

    def test_a_signal_during_the_start_ends_it_cleanly(self) -> None:
        with folder() as data, Up(data) as up:
            assert eventually(lambda: (data / "postgres" / "postmaster.pid").exists())
            assert up.stop() == 0
            assert not any(line.startswith("READY") for line in up.lines)
            assert inside(data) == {}


MAKEFILE = """
up:
	@exec env TOLLBOOK_UNDER_MAKE=1 {python} manage.py up
"""


class TestUnderMake:
    @pytest.fixture
    def under_make(self, lived_in: Path, tmp_path: Path) -> Iterator[Up]:
        makefile = tmp_path / "Makefile"
        makefile.write_text(MAKEFILE.format(python=sys.executable))
        with copy_of(lived_in) as data, Up(data, command=["make", "--file", str(makefile), "up"]) as up:
            yield up.wait_ready()

    def test_the_makefile_says_so(self) -> None:
        seen = subprocess.run(["make", "-n", "up"], cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert "TOLLBOOK_UNDER_MAKE=1" in seen.stdout

    def test_it_ends_when_make_alone_is_interrupted(self, under_make: Up) -> None:
        # Not to the group, as a terminal does it: make keeps such a signal to itself.
        under_make.process.send_signal(signal.SIGINT)
        under_make.wait_end()
        assert inside(under_make.data_dir) == {}
        assert (under_make.data_dir / "up.lock").read_text() == ""

    def test_it_ends_when_make_is_killed(self, under_make: Up) -> None:
        under_make.process.kill()
        assert wait_until_gone(under_make.data_dir) == {}
        assert (under_make.data_dir / "up.lock").read_text() == ""


class TestOwnServers:
    def test_a_database_and_a_broker_of_ones_own_replace_the_embedded_ones(self) -> None:
        with (
            folder() as theirs,
            folder() as data,
            Postgres(data_dir=theirs, durable=False) as database,
            Valkey(data_dir=theirs, durable=False) as broker,
        ):
            settings = {
                "DATABASE_URL": database.url(),
                "CELERY_BROKER_URL": broker.url(),
                "SECRET_KEY": SECRET,
            }
            with Up(data, settings=settings) as up:
                up.wait_ready()
                assert up.lines == [PAYMENTS_OFF, f"READY {up.base_url}"]
                assert set(up.parts()) == {"web", "worker_money", "worker_bulk", "beat"}
                assert up.ready()
                assert not {"postgres", "valkey", "demo.json", "secret_key"} & {path.name for path in data.iterdir()}
                with psycopg.connect(database.url()) as raw:
                    seeded = raw.execute(
                        "SELECT (SELECT count(*) FROM django_migrations) > 0,"
                        " (SELECT count(*) FROM model) > 0, (SELECT count(*) FROM organization)"
                    ).fetchone()
                assert seeded == (True, True, 0)
                assert up.stop() == 0
            assert database.alive()
            assert broker.alive()


class TestFakePayments:
    def test_a_stand_in_for_stripe_runs_beside_the_rest_and_remembers(self, lived_in: Path) -> None:
        with copy_of(lived_in) as data, Up(data, settings={"STRIPE_FAKE": "1"}) as up:
            up.wait_ready()
            assert up.lines[-2].startswith(
                "tollbook: payments are FAKE (STRIPE_FAKE=1): a stand-in for Stripe runs at "
            )
            base = up.lines[-2].rpartition(" ")[2]
            assert base.startswith(f"http://{HOST}:")
            pid = up.parts()["fake-stripe"]
            # What the web server was told is what the stand-in takes.
            told = dict(
                line.partition("=")[::2]
                for line in Path(f"/proc/{up.parts()['web']}/environ").read_bytes().decode().split("\0")
            )
            assert told["STRIPE_API_BASE"] == base
            assert told["STRIPE_WEBHOOK_SECRET"].startswith("whsec_fake_")
            assert told["PUBLIC_URL"] == up.base_url
            client = stripe.StripeClient(told["STRIPE_API_KEY"], base_addresses={"api": base})
            made = client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "one"})
            os.kill(pid, signal.SIGKILL)
            assert eventually(lambda: up.parts().get("fake-stripe", pid) != pid)
            assert eventually(lambda: listens(base))
            assert client.v1.customers.retrieve(made.id).name == "Ada"
            assert topped_up(up, base) == 110
            assert up.stop() == 0
            assert inside(data) == {}

    def test_it_is_refused_where_it_could_be_taken_for_the_real_one(self) -> None:
        with folder() as data:
            where = Address(HOST, free_port())
            with (
                mock.patch.dict(os.environ, STRIPE_FAKE="1"),
                pytest.raises(StartError, match="does not run with a DATABASE_URL"),
            ):
                supervisor.fake_payments(where, data_dir=data, embedded=False, environment={})
            with (
                mock.patch.dict(os.environ, STRIPE_FAKE="1", STRIPE_API_KEY="sk_live_x"),
                pytest.raises(StartError, match="exclude each other"),
            ):
                supervisor.fake_payments(where, data_dir=data, embedded=True, environment={})

    def test_without_the_wish_there_is_none(self) -> None:
        told: dict[str, str] = {}
        with folder() as data:
            assert supervisor.fake_payments(Address(HOST, 1), data_dir=data, embedded=True, environment=told) is None
        assert told == {}


def topped_up(up: Up, stand_in: str) -> Decimal:
    """The demo customer's balance after ten dollars were paid on the page that a top-up leads to."""
    mine = {"Authorization": f"Bearer {demo(up)['customer_key']}", "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection(HOST, up.port, timeout=60)) as connection:
        connection.request("POST", "/v1/topups", '{"amount_usd": 10}', {**mine, "Idempotency-Key": "once"})
        answer = connection.getresponse()
        asked = json.loads(answer.read())
        assert answer.status in {200, 201}, asked
    page = asked["checkout_url"]
    assert page.startswith(stand_in)
    with contextlib.closing(http.client.HTTPConnection(stand_in.removeprefix("http://"), timeout=60)) as connection:
        connection.request("GET", page.removeprefix(stand_in))
        shown = connection.getresponse().read().decode()
        assert "This is a fake Stripe" in shown
        assert "$10.00" in shown
        connection.request("POST", page.removeprefix(stand_in), "act=pay&card=4242424242424242")
        assert connection.getresponse().status == 303

    def balance() -> Decimal:
        return Decimal(up.get("/v1/wallet", **mine)[1]["balance_usd"])

    # The event comes to the webhook, and a worker takes it up.
    assert eventually(lambda: balance() == 110)
    return balance()


def listens(url: str) -> bool:
    """Whether something answers there."""
    host, _, port = url.removeprefix("http://").partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
        return True
    return False


def refusal(data: Path, *, user: tuple[str, ...] = (), **settings: str) -> str:
    """The one line that a start with bad settings says."""
    with Up(data, user=user, settings=settings) as up:
        code = up.wait_end()
    assert code in {1, 2}, up.lines
    assert len(up.lines) == 1, up.lines
    assert up.lines[0].startswith("tollbook: ")
    assert inside(data) == {}
    return up.lines[0]


class TestBadStarts:
    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("nonsense", "DATABASE_URL should look like postgresql://user:password@host:5432/name"),
            ("postgresql://u:hunter2@host:port/x", "DATABASE_URL should look like postgresql://"),
            ("mysql://u:hunter2@localhost/x", "PostgreSQL 15 or later only"),
            ("postgresql://u:hunter2@localhost", "DATABASE_URL should look like postgresql://"),
            (f"postgresql://u:hunter2@{HOST}:1/x", "DATABASE_URL: connection to server .*Connection refused"),
            ("postgresql://u:hunter2@nowhere.invalid/x", "DATABASE_URL: failed to resolve host 'nowhere.invalid'"),
            (f"postgresql://u:hunter2@{HOST}/x?colour=red", 'DATABASE_URL: invalid connection option "colour"'),
        ],
    )
    def test_a_broken_database_url_is_told_without_its_password(self, url: str, message: str) -> None:
        with folder() as data:
            line = refusal(data, DATABASE_URL=url, CELERY_BROKER_URL=BROKER, SECRET_KEY=SECRET)
        assert "hunter2" not in line
        assert re.search(message, line)

    def test_a_wrong_password_or_database_is_told(self) -> None:
        with folder() as theirs, folder() as data, Postgres(data_dir=theirs, durable=False) as database:
            with psycopg.connect(database.url(), autocommit=True) as raw:
                raw.execute("CREATE ROLE app LOGIN PASSWORD 'right'")
                (database.home / "pg_hba.conf").write_text("local all postgres trust\nlocal all app scram-sha-256\n")
                raw.execute("SELECT pg_reload_conf()")
            url = database.url().replace("postgres@", "app:hunter2@")
            line = refusal(data, DATABASE_URL=url, CELERY_BROKER_URL=BROKER, SECRET_KEY=SECRET)
            assert re.search('DATABASE_URL: .*password authentication failed for user "app"', line)
            line = refusal(data, DATABASE_URL=database.url("missing"), CELERY_BROKER_URL=BROKER, SECRET_KEY=SECRET)
            assert re.search('DATABASE_URL: .*database "missing" does not exist', line)

    def test_a_missing_secret_or_a_wrong_number_is_told_by_name(self) -> None:
        with folder() as data:
            assert "SECRET_KEY must be set" in refusal(data, DATABASE_URL=f"postgresql://u@{HOST}:1/x")
            assert "PORT='web' is not a whole number" in refusal(data, PORT="web")
            assert "WEB_WORKERS=0 is outside 1 to 64" in refusal(data, WEB_WORKERS="0")
            assert "WORKER_PROCESSES=many" in refusal(data, WORKER_PROCESSES="many").replace("'", "")

    @as_root
    def test_a_data_directory_without_permission_is_told(self) -> None:
        with folder() as data:
            line = refusal(data, user=as_user())
            assert re.search(rf"{data}\b.*permission denied", line, re.IGNORECASE)
            assert "DATA_DIR" in line
            data.chmod(0o755)
            line = refusal(data, user=as_user())
            assert f"cannot write in {data}: permission denied; set DATA_DIR" in line

    def test_a_data_directory_that_is_a_file_is_told(self) -> None:
        with folder() as data:
            (data / "file").touch()
            assert "is not a folder" in refusal(data / "file")
            assert "is not a folder" in refusal(data / "file" / "below")

    @as_root
    def test_a_read_only_disk_is_told(self) -> None:
        with folder() as data:
            mount = f'mount -t tmpfs -o ro none "{data}" && exec "$@"'
            user = ("unshare", "--mount", "/bin/sh", "-c", mount, "sh")
            if subprocess.run([*user, "true"], capture_output=True).returncode != 0:
                pytest.skip("this machine lets nobody mount")
            line = refusal(data, user=user)
        assert f"cannot write in {data}: the file system is read-only; set DATA_DIR" in line

    @as_root
    def test_a_full_disk_is_told(self) -> None:
        with folder() as data:
            mount = f'mount -t tmpfs -o size=2m none "{data}" && exec "$@"'
            user = ("unshare", "--mount", "/bin/sh", "-c", mount, "sh")
            if subprocess.run([*user, "true"], capture_output=True).returncode != 0:
                pytest.skip("this machine lets nobody mount")
            assert "No space left on device" in refusal(data, user=user)

    @as_root
    def test_a_user_id_without_a_name_is_told(self) -> None:
        nameless = 54321
        with folder(owner=nameless) as data:
            line = refusal(data, user=as_user(nameless))
        assert f"user id {nameless} has no entry in the password file" in line
        assert "DATABASE_URL" in line


@as_root
def test_an_ordinary_user_runs_it_all_too() -> None:
    with folder(owner=NOBODY) as data, Up(data, user=as_user()) as up:
        up.wait_ready()
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in family(up.supervisor)} == {NOBODY}
        assert set(up.parts()) == {"postgres", "valkey", "web", "worker_money", "worker_bulk", "beat"}
        assert up.stop() == 0
        assert inside(data) == {}


def test_a_data_directory_with_a_long_and_odd_name_works() -> None:
    with folder(name="a long name, " * 10) as data, Up(data) as up:
        up.wait_ready()
        assert up.ready()
        assert up.stop() == 0


def test_it_listens_on_another_address_and_takes_requests_by_that_name(lived_in: Path) -> None:
    port = free_port()
    with copy_of(lived_in) as data, Up(data, port=port, settings={"HOST": "127.0.0.2"}) as up:
        up.wait_ready()
        assert up.lines[-1] == f"READY http://127.0.0.2:{port}"
        connection = http.client.HTTPConnection("127.0.0.2", port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            assert connection.getresponse().status == 200
        assert up.stop() == 0
