"""``manage.py prepare``: bring the database up to this version; run it before the processes start."""

import io
import json
import os
import secrets
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.db.utils import Error as AnyDatabaseError

from core.embedded import POSTGRES_MAJOR_MIN, explain
from core.supervisor import one_line, write_private

SEED = settings.BASE_DIR / "metering" / "seed" / "catalog.json"
ECHO = settings.BASE_DIR / "gateway" / "seed" / "echo.yaml"
# One deployment prepares at a time; the number only has to be ours alone.
PREPARE_LOCK = 0x746F6C6C
MIGRATION_LOCK_TIMEOUT_MS = 10_000

DEMO_GRANT_USD = "100"
DEMO_SERVICE_SCOPES = "events:write,authorizations:write"


class Command(BaseCommand):
    """Migrations, the price catalog, and for embedded mode's first start a demo organization."""

    help = "Migrate the database and load the price catalog. Safe to run again, and by several at once."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """``--demo``: also make the demo organization, once."""
        parser.add_argument("--demo", metavar="BASE_URL", help="make a demo organization and DATA_DIR/demo.json")

    def handle(self, *args: Any, **options: Any) -> None:
        """Connect, migrate, seed. Raises ``CommandError`` with one line."""
        # Among others, that the token tables are there: without them nothing should start.
        call_command("check", fail_level="ERROR", stdout=io.StringIO(), stderr=io.StringIO())
        connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = 0")
                cursor.execute("SET idle_in_transaction_session_timeout = 0")
                cursor.execute("SET lock_timeout = 0")
                cursor.execute("SELECT pg_advisory_lock(%s)", [PREPARE_LOCK])
                cursor.execute(f"SET lock_timeout = {MIGRATION_LOCK_TIMEOUT_MS}")
            call_command("migrate", interactive=False, verbosity=0)
            call_command("apply_staff_roles")
            call_command("reseal_second_factors", stdout=io.StringIO())
            call_command("load_prices", str(SEED), "--publish", "--skip-late", stdout=io.StringIO())
            if options["demo"]:
                self._demo(base_url=options["demo"])
        except DatabaseError as error:
            raise CommandError(f"the database could not be prepared: {one_line(error)}") from error
        finally:
            connection.close()

    def _demo(self, *, base_url: str) -> None:
        path = settings.DATA_DIR / "demo.json"
        try:
            if path.exists():
                _keep_address(path, base_url=base_url)
                return
            demo = {"base_url": base_url, "admin_url": f"{base_url}/admin/", **_make_demo()}
            write_private(path, json.dumps(demo, indent=2) + "\n")
        except OSError as error:
            raise CommandError(explain(error, settings.DATA_DIR)) from error
        lines = [f"  {name}: {value}" for name, value in demo.items()]
        title = f"First start: a demo organization with ${DEMO_GRANT_USD}, shown once and kept in {path}"
        self.stdout.write("\n".join([title, *lines]))
        self.stdout.flush()


def connect() -> None:
    """Reach a PostgreSQL that is new enough. Raises ``CommandError``."""
    source = "the embedded PostgreSQL" if settings.EMBEDDED else "DATABASE_URL"
    try:
        connection.ensure_connection()
    except AnyDatabaseError as error:
        raise CommandError(f"{source}: {one_line(error).removeprefix('connection failed: ')}") from error
    major = connection.connection.info.server_version // 10_000
    if major < POSTGRES_MAJOR_MIN:
        raise CommandError(f"{source} is PostgreSQL {major}; {POSTGRES_MAJOR_MIN} or later is needed")


def _keep_address(path: Path, *, base_url: str) -> None:
    """The demo file follows HOST and PORT."""
    demo = json.loads(path.read_text())
    if demo.get("base_url") != base_url:
        write_private(
            path, json.dumps({**demo, "base_url": base_url, "admin_url": f"{base_url}/admin/"}, indent=2) + "\n"
        )


def _make_demo() -> dict[str, str]:
    """The organization with its wallet and key, a gateway's service key and an operator, by the public commands."""
    mark = _free_mark()
    slug = f"demo{mark}"
    gateway = _answer("create_service_key", f"{slug}-gateway", "--scopes", DEMO_SERVICE_SCOPES, "--json")
    # A first model call is answered without any provider; a channel of one goes before it.
    call_command("load_channels", str(ECHO), stdout=io.StringIO())
    admin, password = f"admin{mark}@demo.example", secrets.token_urlsafe(18)
    os.environ["DJANGO_SUPERUSER_PASSWORD"] = password
    try:
        call_command("createsuperuser", "--noinput", "--email", admin, stdout=io.StringIO())
    finally:
        del os.environ["DJANGO_SUPERUSER_PASSWORD"]
    # The one person of the demo: finance in the admin, and the customer in the portal.
    owned = _answer("create_organization", slug, "--owner", admin, "--grant-usd", DEMO_GRANT_USD, "--json")
    return {
        "service_key": gateway["service_key"],
        "customer_key": owned["customer_key"],
        "organization": owned["organization"],
        "admin_user": admin,
        "admin_password": password,
    }


def _free_mark() -> str:
    """What makes the demo's names unique: nothing, unless an earlier first start was cut off.

    Then nobody knows the keys that it made.
    """
    taken = apps.get_model("orgs", "Organization")._default_manager.filter(slug="demo").exists()
    taken = taken or get_user_model()._default_manager.filter(email="admin@demo.example").exists()
    return f"-{secrets.token_hex(3)}" if taken else ""


def _answer(command: str, *arguments: str) -> dict[str, str]:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out)
    answer: dict[str, str] = json.loads(out.getvalue())
    return answer
