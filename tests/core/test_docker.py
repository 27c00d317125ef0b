"""The image cannot be built in a test, so its files are read and its commands run as they are written."""

import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import yaml

from core import supervisor
from core.embedded import Postgres, Valkey
from tests.core.running import environment, folder
from tests.database import ROOT
from tests.server import HOST, free_port

DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
READY_SECONDS = 180
STOP_SECONDS = 120


class Instruction(NamedTuple):
    """One line of a Dockerfile: FROM, COPY, ... and what follows."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """What follows as an exec-form list, or split as a shell would."""
        if self.text.startswith("["):
            found: list[str] = json.loads(self.text)
            return found
        return shlex.split(self.text)


def stages() -> list[list[Instruction]]:
    """The stages of the Dockerfile, each beginning with its FROM."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            if name == "FROM":
                found.append([])
            if found:
                found[-1].append(Instruction(name, rest.strip()))
    return found


def last(name: str) -> Instruction:
    """The instruction of that name that holds in the finished image."""
    return [instruction for instruction in stages()[-1] if instruction.name == name][-1]


def image_environment() -> dict[str, str]:
    """What ENV sets."""
    return dict(pair.split("=", 1) for i in stages()[-1] if i.name == "ENV" for pair in i.words)


def compose() -> dict[str, Any]:
    """compose.yaml with its variables filled in by their defaults or by "filled"."""

    def fill(match: re.Match[str]) -> str:
        return match[3] if match[2] == ":-" else "filled" * 6

    text = re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", fill, COMPOSE.read_text())
    assert "${" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def command(service: str) -> list[str]:
    """The command line of a service, its own parts before the image's."""
    own = compose()["services"][service]
    entrypoint: list[str] = own.get("entrypoint", last("ENTRYPOINT").words)
    arguments: list[str] = own.get("command", last("CMD").words)
    return [*entrypoint, *arguments]


def test_the_image_is_built_in_two_stages_from_hashed_requirements() -> None:
    build, final = stages()
    assert any("--require-hashes" in i.text and "constraints.txt" in i.text for i in build if i.name == "RUN")
    assert not any("pip" in i.text for i in final if i.name == "RUN")


def test_the_image_runs_as_nobody_in_particular() -> None:
    user = last("USER").text
    assert user not in {"root", "0"}
    created = [i.text for i in stages()[-1] if i.name == "RUN" and "useradd" in i.text]
    assert any(text.split()[-1] == user or f" {user} " in f"{text} " for text in created)
    names = [i.name for i in stages()[-1]]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "COPY" not in names[names.index("USER") :]


def sources() -> list[str]:
    """What the Dockerfile copies from the repository."""
    copies = [i.words for stage in stages() for i in stage if i.name == "COPY" and "--from" not in i.text]
    return [source for words in copies for source in words[:-1]]


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert sources()
    for source in sources():
        assert (ROOT / source).exists(), source
    assert set(sources()) == allowed
    refused = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert any(fnmatch.fnmatch("core/__pycache__", rule) for rule in refused)


def test_every_app_is_in_the_image() -> None:
    from django.conf import settings

    ours = {name for name in settings.INSTALLED_APPS if (ROOT / name).is_dir()}
    assert len(ours) >= 6
    assert ours <= set(sources())


def test_the_services_wait_for_what_they_need() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "valkey", "migrate", "web", "worker_money", "worker_bulk", "beat"}
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["migrate"]["restart"] == "no"
    for name in ("web", "worker_money", "worker_bulk", "beat"):
        needs = {other: need["condition"] for other, need in services[name]["depends_on"].items()}
        assert needs == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "valkey": "service_healthy",
        }
    for name in ("postgres", "valkey"):
        assert services[name]["healthcheck"]["test"]
        assert services[name]["volumes"]
    # The image's check asks a web server; elsewhere it would always fail.
    disabled = {name for name, service in services.items() if service.get("healthcheck", {}).get("disable")}
    assert disabled == {"migrate", "worker_money", "worker_bulk", "beat"}


def test_secrets_have_no_default() -> None:
    text = COMPOSE.read_text()
    for name in ("POSTGRES_PASSWORD", "SECRET_KEY"):
        assert re.search(rf"\$\{{{name}:\?", text)
        assert not re.search(rf"\$\{{{name}(:-|\}})", text)


def test_what_the_file_does_not_name_comes_from_a_file_that_is_not_committed() -> None:
    services = compose()["services"]
    for name in ("migrate", "web", "worker_money", "worker_bulk", "beat"):
        assert services[name]["env_file"] == [{"path": "settings.env", "required": False}]
        # What is named there wins over the file: these are for the file.
        assert {"METRICS_TOKEN", "SECRET_KEY_FALLBACKS"}.isdisjoint(services[name]["environment"])
    assert {"docker/.env", "docker/settings.env"} <= set((ROOT / ".gitignore").read_text().splitlines())


def test_worker_and_beat_are_those_of_up(tmp_path: Path) -> None:
    _, children = supervisor.product(data_dir=tmp_path, environment={})
    for child in children:
        here = child.command[child.command.index("celery") :]
        there = command(child.name)
        folders = [word for word in there if word.endswith("beat-schedule")]
        assert [word for word in here if word != str(tmp_path / "beat-schedule")] == [
            word for word in there if word not in folders
        ]


def test_written_folders_are_writable_in_a_read_only_container() -> None:
    services = compose()["services"]
    for name in ("migrate", "web", "worker_money", "worker_bulk", "beat"):
        assert services[name]["read_only"] is True
    schedule = next(word for word in command("beat") if word.endswith("beat-schedule"))
    assert str(Path(schedule).parent) in services["beat"]["tmpfs"]
    settings = services["worker_bulk"]["environment"]
    heads, archive = settings["LEDGER_HEADS_DIR"], settings["ARCHIVE_DIR"]
    assert services["worker_bulk"]["volumes"] == [f"heads:{heads}", f"archive:{archive}"]
    assert f"--owner tollbook {heads} {archive}\n" in DOCKERFILE.read_text()


def in_container(service: str, words: list[str], *, settings: Mapping[str, str], tmp_path: Path) -> dict[str, Any]:
    """How to run a command line as the container would, with what the test must change.

    Programs come from this environment instead of the image's, addresses are those of the
    test's servers, and the listener stays on loopback.
    """
    here = Path(sys.executable).parent
    names = compose()["services"][service]["environment"]
    assert set(settings) - {"HOST", "PORT"} <= set(names), "the container would not know it"
    own = {name: str(value) for name, value in {**image_environment(), **names, **settings}.items()}
    own["PATH"] = own["PATH"].replace("/opt/venv/bin", str(here))
    mounts = compose()["services"][service]["tmpfs"]
    words = [
        str(tmp_path / Path(word).name) if any(word.startswith(f"{mount}/") for mount in mounts) else word
        for word in words
    ]
    program = here / words[0]
    assert program.exists(), f"{words[0]} is not among the installed programs"
    own["PYTHONDONTWRITEBYTECODE"] = "1"
    return {"args": [str(program), *words[1:]], "cwd": ROOT, "env": own}


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    with (
        folder() as data,
        Postgres(data_dir=data, durable=False) as database,
        Valkey(data_dir=data, durable=False) as broker,
    ):
        yield {
            "DATABASE_URL": database.url(),
            "CELERY_BROKER_URL": broker.url(),
            "HOST": HOST,
            "PORT": str(free_port()),
        }


def is_ready(log: Path) -> bool:
    return " ready." in log.read_text()


def eventually(fact: Callable[[], bool]) -> bool:
    end = time.monotonic() + READY_SECONDS
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_the_commands_run_as_written(settings: dict[str, str], tmp_path: Path) -> None:
    assert image_environment()["HOST"] == "0.0.0.0"
    migrate = in_container("migrate", command("migrate"), settings=settings, tmp_path=tmp_path)
    # Twice: compose runs it at every start.
    for _ in range(2):
        done = subprocess.run(**migrate, capture_output=True, text=True, timeout=READY_SECONDS)
        assert done.returncode == 0, done.stderr
    with psycopg.connect(settings["DATABASE_URL"]) as raw:
        row = raw.execute("SELECT count(*) FROM django_migrations").fetchone()
        assert row is not None
        assert row[0] > 0

    health = last("HEALTHCHECK").text.partition(" CMD ")[2]
    check = in_container("web", json.loads(health), settings=settings, tmp_path=tmp_path)
    assert subprocess.run(**check, timeout=READY_SECONDS).returncode == 1
    logs = {name: tmp_path / f"{name}.log" for name in ("web", "worker_money", "worker_bulk", "beat")}
    running = {}
    for name, log in logs.items():
        with log.open("wb") as output:
            running[name] = subprocess.Popen(
                **in_container(name, command(name), settings=settings, tmp_path=tmp_path),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    try:
        assert eventually(lambda: subprocess.run(**check, timeout=READY_SECONDS).returncode == 0), logs[
            "web"
        ].read_text()
        for name in ("worker_money", "worker_bulk"):
            assert eventually(partial(is_ready, logs[name])), logs[name].read_text()
        assert eventually(lambda: "beat: Starting" in logs["beat"].read_text()), logs["beat"].read_text()
        # As `docker stop` does it.
        for process in running.values():
            process.terminate()
        codes = {name: process.wait(STOP_SECONDS) for name, process in running.items()}
        assert codes == {"web": 0, "worker_money": 0, "worker_bulk": 0, "beat": 0}
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
    assert subprocess.run(**check, timeout=READY_SECONDS).returncode == 1


def test_a_container_without_settings_says_which(tmp_path: Path) -> None:
    words = command("web")
    bare = environment(DATABASE_URL=f"postgresql://u@{HOST}:1/x")
    program = Path(sys.executable).parent / words[0]
    done = subprocess.run([str(program), *words[1:]], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "tollbook: SECRET_KEY must be set to at least 32 random characters when DATABASE_URL is set."
    ]
