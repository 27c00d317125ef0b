"""Settings as a production has them: Django's own checks, cookies, redirects, and nothing of the inside on a page."""

import json
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands

from tests.core.running import environment
from tests.database import ROOT
from tests.proofs import proves

PRODUCTION = {
    "DATABASE_URL": "postgresql://tollbook:secret@db.example:5432/tollbook",
    "CELERY_BROKER_URL": "redis://broker.example:6379/0",
    "SECRET_KEY": secrets.token_urlsafe(50),
    "ALLOWED_HOSTS": "tollbook.example",
    "CSRF_TRUSTED_ORIGINS": "https://tollbook.example",
    "HTTPS": "1",
    "TRUSTED_PROXIES": "1",
}
# Asked in a process of its own: settings are read once.
ASK = """
import json, sys
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
get_wsgi_application()
from django.conf import settings
from django.core.management.base import SystemCheckError
from django.test import Client
for change in json.loads(sys.argv[1]).items():
    setattr(settings, *change)
told = {"debug": settings.DEBUG, "secure": [settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE,
        settings.SESSION_COOKIE_HTTPONLY], "answers": {}}
try:
    call_command("check", deploy=True, fail_level="INFO")
    told["complaints"] = ""
except SystemCheckError as error:
    told["complaints"] = str(error)
for scheme, path in (("http", "/healthz"), ("http", "/v1/usage"), ("https", "/v1/usage"), ("https", "/nowhere"),
                     ("https", "/admin/nowhere"), ("https", "/v1/usage?after=x"), ("http", "/metrics")):
    answer = Client(raise_request_exception=False).get(path, headers={"Host": "tollbook.example",
        "X-Forwarded-Proto": scheme, "Authorization": "Bearer dtk_x"})
    told["answers"][f"{scheme} {path}"] = [answer.status_code, dict(answer.headers), answer.content.decode()]
print(json.dumps(told))
"""


def ask(changed: dict[str, object] | None = None, **chosen: str) -> dict[str, object]:
    """What such an installation says of itself."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(changed or {})],
        cwd=ROOT,
        env=environment(**{**PRODUCTION, "DJANGO_SETTINGS_MODULE": "core.settings", **chosen}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


@proves("A19", guard="no_page_shows_the_inside")
def test_a_production_passes_djangos_checks_and_its_answers_show_nothing_of_the_inside(
    disabled_guard: str | None,
) -> None:
    told = ask({"DEBUG": True} if disabled_guard else None)
    assert told["complaints"] == ""
    assert told["debug"] is False
    assert told["secure"] == [True, True, True]
    answers = told["answers"]
    assert isinstance(answers, dict)
    assert answers["http /healthz"][0] == 200
    # Asked for past the proxy it is not sent to HTTPS; that it is not this machine who asks is another matter.
    assert answers["http /metrics"][0] == 403
    status, headers, _ = answers["http /v1/usage"]
    assert (status, headers["Location"]) == (301, "https://tollbook.example/v1/usage")
    for _, headers, text in answers.values():
        for inside in ("Traceback", "django.", "db.example", "SELECT", str(ROOT), PRODUCTION["SECRET_KEY"], "secret@"):
            assert inside not in text + str(headers), text
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert answers["https /v1/usage"][1]["Strict-Transport-Security"].startswith("max-age=31536000")
    assert answers["https /v1/usage"][0] == 401
    assert answers["https /nowhere"][0] == 404


@pytest.mark.parametrize("missing", ["SECRET_KEY", "CELERY_BROKER_URL"])
def test_what_a_production_must_set_stops_the_start_with_its_name(missing: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import core.settings"],
        cwd=ROOT,
        env={name: value for name, value in environment(**PRODUCTION).items() if name != missing},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"{missing} must be set" in done.stderr


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"USAGE_KEEP_MONTHS": "23"}, "USAGE_KEEP_MONTHS=23 is outside 24 to 1200"),
        ({"USAGE_KEEP_MONTHS": "0"}, "USAGE_KEEP_MONTHS=0 is outside 24 to 1200"),
        ({"CLAIM_KEEP_DAYS": "36"}, "CLAIM_KEEP_DAYS=36 is outside 37 to 36500"),
        ({"CLAIM_KEEP_DAYS": "300", "EVENT_AGE_MAX_DAYS": "299"}, "CLAIM_KEEP_DAYS=300 is outside 301 to 36500"),
    ],
)
def test_keeping_less_than_is_safe_stops_the_start_with_the_settings_name(chosen: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import core.settings"],
        cwd=ROOT,
        env=environment(**PRODUCTION, **chosen),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr


def told_in_the_readme() -> set[str]:
    """The names in the first column of the README's table of settings."""
    table = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for first in firsts for name in re.findall(r"`([A-Z_]+)`", first)}


def test_a_command_that_finds_no_database_says_so_in_two_lines(tmp_path: Path) -> None:
    done = run("verify", DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    what, what_to_do = done.stderr.splitlines()
    assert what.startswith("tollbook: the database cannot be had: ")
    assert str(tmp_path) in what
    assert "DATABASE_URL" in what_to_do


def test_who_asks_for_the_traceback_gets_it(tmp_path: Path) -> None:
    done = run("verify", "--traceback", DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr


def run(*command: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """A command of ``manage.py`` in an environment of its own."""
    return subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env=environment(**chosen),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_readme_lists_every_setting_and_none_that_does_nothing() -> None:
    asks = re.compile(r"""(?:env\.(?:text|integer|flag|choice|words|folder|sender)|environ\.get)\(\s*"([A-Z_]+)\"""")
    asked = {name for path in (ROOT / "core").glob("*.py") for name in asks.findall(path.read_text())}
    # What `make` tells its child, and what only tests set.
    assert asked - {"TOLLBOOK_UNDER_MAKE", "FAILPOINT"} == told_in_the_readme()


def test_every_command_that_the_documentation_names_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"manage\.py ([a-z_]+)", page.read_text())}
    assert len(named) > 15
    assert named <= set(get_commands())


def read(**chosen: str) -> tuple[int, str]:
    """Whether such an environment is one that the product starts in, and what it says."""
    names = "EMAIL_BACKEND EMAIL_PORT EMAIL_USE_TLS EMAIL_USE_SSL DEFAULT_FROM_EMAIL WEBHOOKS_ALLOW_LOCAL"
    code = f"import core.settings as s; print(*(getattr(s, name) for name in {names.split()!r}), sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(**chosen), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip() or done.stderr.strip().splitlines()[-1]


BACKENDS = "django.core.mail.backends"
SERVER = {"EMAIL_HOST": "mail.example", "DEFAULT_FROM_EMAIL": "Bills <bills@tollbook.example>"}


@pytest.mark.parametrize(
    ("chosen", "code", "said"),
    [
        (PRODUCTION, 0, f"{BACKENDS}.dummy.EmailBackend|587|True|False|Tollbook <billing@localhost>|False"),
        (
            {**PRODUCTION, **SERVER}, 0,
            f"{BACKENDS}.smtp.EmailBackend|587|True|False|Bills <bills@tollbook.example>|False",
        ),
        (
            {**PRODUCTION, **SERVER, "EMAIL_SECURITY": "tls"}, 0,
            f"{BACKENDS}.smtp.EmailBackend|465|False|True|Bills <bills@tollbook.example>|False",
        ),
        ({**PRODUCTION, "EMAIL_HOST": "mail.example"}, 1, "DEFAULT_FROM_EMAIL='' should look like"),
        ({**PRODUCTION, **SERVER, "DEFAULT_FROM_EMAIL": "bills"}, 1, "DEFAULT_FROM_EMAIL='bills' should look like"),
        ({**PRODUCTION, **SERVER, "EMAIL_USER": "me"}, 1, "EMAIL_USER and EMAIL_PASSWORD belong together"),
        ({**PRODUCTION, **SERVER, "EMAIL_SECURITY": "ssl3"}, 1, "EMAIL_SECURITY='SSL3' is none of"),
        ({**PRODUCTION, "WEBHOOKS_ALLOW_LOCAL": "1"}, 1, "WEBHOOKS_ALLOW_LOCAL is for trying things out"),
        ({**PRODUCTION, "ADMIN_TWO_FACTOR": "off"}, 1, "ADMIN_TWO_FACTOR is for trying things out"),
        ({**PRODUCTION, "ADMIN_TWO_FACTOR": "0"}, 1, "ADMIN_TWO_FACTOR='0' is none of REQUIRED, OFF"),
        ({"DATABASE_URL": "", "WEBHOOKS_ALLOW_LOCAL": "1"}, 0,
         f"{BACKENDS}.filebased.EmailBackend|587|True|False|Tollbook <billing@localhost>|True"),
    ],
)  # fmt: skip
def test_mail_and_webhook_settings_are_right_or_say_what_is_wrong(chosen: dict[str, str], code: int, said: str) -> None:
    assert (found := read(**chosen))[0] == code
    assert said in found[1]
