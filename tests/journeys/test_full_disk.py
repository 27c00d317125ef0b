"""A disk that fills up: what was answered is there, what was not is not there in part, and it goes on by itself."""

import ctypes
import io
import os
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from django.core.management import call_command

from core import ids, processes
from core.embedded import Postgres
from orgs import caches
from tests.billing import world
from tests.books import Books
from tests.database import FOLDER_PREFIX
from tests.journeys.kills import SEED, _led_to
from tests.journeys.neighbours import EVENTS, Caller
from tests.metering.world import COST, told
from tests.orgs import world as people
from tests.proofs import proves

MIB = 1024 * 1024
DISK_BYTES = 96 * MIB
# What is left when it gets tight.
LEFT_BYTES = 2 * MIB
BATCH = 100
TRIES = 300
NOTE = "x" * 400
_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


class Cramped(Postgres):
    """A PostgreSQL with a second disk, small and its own: nobody else sees what is mounted there."""

    @property
    def disk(self) -> Path:
        """Where it is mounted, as the server sees it."""
        return self.data_dir / "disk"

    @property
    def seen(self) -> Path:
        """The same from here."""
        return Path(f"/proc/{self.pid}/root{self.disk}")

    def _spawn(self, command: list[str], *, identity: processes.Identity | None = None) -> None:
        assert identity is not None
        self.disk.mkdir()
        place, size = str(self.disk).encode(), b"size=%d,mode=0777" % DISK_BYTES

        def enter() -> None:
            identity.enter()
            for done in (_libc.unshare(_CLONE_NEWNS), _libc.mount(b"tmpfs", place, b"tmpfs", 0, size)):
                if done != 0:
                    raise OSError(ctypes.get_errno(), "no file system of its own")

        super()._spawn(command, identity=processes.Identity(identity.owner, enter))


@pytest.fixture(scope="module")
def cramped(django_db_blocker: Any) -> Iterator[Cramped]:
    """It, with empty books for a template."""
    try:
        subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no file system of its own may be mounted here: {error}")
    with TemporaryDirectory(prefix=FOLDER_PREFIX) as folder, Cramped(data_dir=Path(folder), durable=False) as own:
        with django_db_blocker.unblock(), _led_to(own.url()):
            call_command("migrate", verbosity=0, interactive=False)
            call_command("load_prices", str(SEED), "--publish", verbosity=0, stdout=io.StringIO())
        with psycopg.connect(own.url("postgres"), autocommit=True) as admin:
            (own.seen / "books").mkdir(mode=0o777)
            (own.seen / "books").chmod(0o777)
            admin.execute(f"CREATE TABLESPACE small LOCATION '{own.disk}/books'".encode())
        yield own


@pytest.fixture
def books(cramped: Cramped, django_db_blocker: Any) -> Iterator[Books]:
    """Books on the small disk."""
    with psycopg.connect(cramped.url("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE small TEMPLATE tollbook TABLESPACE small STRATEGY FILE_COPY")
        with django_db_blocker.unblock(), _led_to(cramped.url("small")):
            caches.forget_all()
            yield Books(name="small", url=cramped.url("small"))
        admin.execute("DROP DATABASE small WITH (FORCE)")


def fill(disk: Path) -> Path:
    """Leave little of a disk; the file that takes the rest."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - LEFT_BYTES))
    return ballast


@proves("D03", guard="claim_and_debit_commit_together")
@proves("D03", guard="passing_failures_are_put_off")
def test_while_the_disk_is_full_nothing_is_answered_that_was_not_written_and_then_it_goes_on(
    cramped: Cramped, books: Books
) -> None:
    acme = world.organization("acme", usd="10")
    gateway = Caller("gateway", people.service_key().secret)
    customer = Caller("customer", people.organization_key(acme, scopes=["keys:manage"]).secret)
    written: dict[str, str] = {}
    refused: list[dict[str, Any]] = []

    def post(*events: dict[str, Any]) -> set[str]:
        """A batch; what was written of it is noted, and what was not."""
        verdicts = gateway.post(EVENTS, list(events)).json()["data"]
        for sent, verdict in zip(events, verdicts, strict=True):
            if verdict["status"] == "created":
                written[sent["event_id"]] = verdict["usage_record_id"]
            else:
                refused.append(sent)
        return {verdict["status"] for verdict in verdicts}

    def some() -> list[dict[str, Any]]:
        return [told(organization="acme", metadata={"note": NOTE}) for _ in range(BATCH)]

    assert post(*some()) == {"created"}
    ballast = fill(cramped.seen)
    # What one that failed had taken from the disk is room for the next.
    failures = 0
    for _ in range(TRIES):
        failures += post(*some()) == {"failed"}
        if failures == 3:
            break
    assert failures == 3
    for _ in range(TRIES):
        # One alone may still fit where there is room in a page.
        alone = told(organization="acme", metadata={"note": NOTE})
        answer = gateway.post(EVENTS, alone)
        if answer.status_code != 201:
            break
        written[alone["event_id"]] = answer.json()["usage_record_id"]
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1")
    for _ in range(TRIES):
        answer = customer.post(
            "/v1/keys", {"name": NOTE[:100], "cidrs": [f"2001:db8:ffff:{n:x}::/64" for n in range(100)]}
        )
        if answer.status_code != 201:
            break
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "1")
    # What is there can be read, and PostgreSQL stands.
    assert customer.get("/v1/wallet").status_code == 200
    ballast.unlink()
    again, refused = refused, []
    for at in range(0, len(again), BATCH):
        assert post(*again[at : at + BATCH]) == {"created"}
    assert refused == []
    found = world.rows("SELECT event_id, id FROM usage_record")
    assert {event_id: ids.show("usage", record_id) for event_id, record_id in found} == written
    assert world.standing(acme).spent == len(written) * Decimal(COST)
    world.assert_sound()
