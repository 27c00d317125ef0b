"""Django's settings. Environments differ by environment variables only; README lists them all.

Without ``DATABASE_URL`` the product is *embedded*: its PostgreSQL and Valkey live below
``DATA_DIR``, started by ``make up``, reached through sockets at fixed places.
"""

import secrets
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import dj_database_url
import django_stubs_ext
from csp import constants as csp

from core import env, schedule

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"
# The version of the wire, sent as ``deepailab-version``.
API_VERSION = "2026-11-01"

DATA_DIR = env.folder("DATA_DIR", str(BASE_DIR / ".data"))
EMBEDDED = not env.text("DATABASE_URL", "")
DEBUG = False


def _embedded_url() -> str:
    """The embedded PostgreSQL's address: a socket whose folder ``core.embedded`` chooses."""
    from core.embedded import socket_dir

    return f"postgresql://postgres@{quote(str(socket_dir(DATA_DIR)), safe='')}/tollbook"


def _embedded_broker() -> str:
    from core.embedded import socket_dir

    return f"redis+socket://{socket_dir(DATA_DIR)}/valkey.sock"


def _secret_key() -> str:
    """Embedded, the key that ``make up`` keeps beside the data; elsewhere the environment's."""
    if not EMBEDDED:
        key = env.text("SECRET_KEY", "")
        if len(key) < 32:
            raise env.BadSetting("SECRET_KEY must be set to at least 32 random characters when DATABASE_URL is set.")
        return key
    try:
        return (DATA_DIR / "secret_key").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return secrets.token_urlsafe(48)
    except OSError as error:
        raise env.BadSetting(f"DATA_DIR={DATA_DIR} should be a folder of this user: {error.strerror}.") from error


ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if EMBEDDED else "")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS", "")
# How many proxies in front add to X-Forwarded-For; 0 means the peer's address is the client's.
TRUSTED_PROXIES = env.integer("TRUSTED_PROXIES", 0, low=0, high=10)
HTTPS = env.flag("HTTPS", False)

INSTALLED_APPS = [
    # Before unfold, some of whose templates and files it replaces.
    "core",
    "unfold.apps.BasicAppConfig",
    "core.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "axes",
    "orgs",
    "ops",
    "metering",
    "billing",
    "gateway",
    "portal",
    "django_htmx",
]

MIDDLEWARE = [
    "core.http.Envelope",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "orgs.sessions.Lifetimes",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "core.urls"
WSGI_APPLICATION = "core.wsgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# The kind of process decides how long it may hold things up; see each entry point.
STATEMENT_TIMEOUT_MS = env.integer("STATEMENT_TIMEOUT_MS", 10_000, low=100, high=3_600_000)
LOCK_TIMEOUT_MS = env.integer("LOCK_TIMEOUT_MS", 2_000, low=10, high=600_000)
IDLE_IN_TRANSACTION_TIMEOUT_MS = env.integer("IDLE_IN_TRANSACTION_TIMEOUT_MS", 10_000, low=100, high=600_000)
DATABASE_POOL_MAX = env.integer("DATABASE_POOL_MAX", 0, low=0, high=500)
# Whether the busiest statements are prepared once a connection: not behind a pooler that lends one for a transaction.
DATABASE_PREPARE = env.flag("DATABASE_PREPARE", True)


def _database() -> dict[str, object]:
    url = env.text("DATABASE_URL", "") or _embedded_url()
    shape = "DATABASE_URL should look like postgresql://user:password@host:5432/name"
    try:
        parsed: dict[str, object] = dict(dj_database_url.parse(url))
    except (ValueError, KeyError) as error:
        raise env.BadSetting(f"{shape}; it is not an address ({type(error).__name__}).") from error
    if parsed.get("ENGINE") != "django.db.backends.postgresql" or not parsed.get("NAME"):
        raise env.BadSetting(f"{shape}; Tollbook keeps its books in PostgreSQL 15 or later only.")
    options = dict(parsed.get("OPTIONS") or {})  # type: ignore[call-overload]
    options["application_name"] = "tollbook"
    options.setdefault("connect_timeout", 5)
    options["options"] = (
        f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
        f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c synchronous_commit=on"
        # What is prepared is planned once, for values of any number.
        " -c plan_cache_mode=force_generic_plan"
    )
    # Celery closes connections after each task, which a pool does not survive: web processes only.
    if DATABASE_POOL_MAX:
        # A pool tries to reconnect ever more rarely; starting over each second, it is back soon after any outage.
        options["pool"] = {"min_size": 1, "max_size": DATABASE_POOL_MAX, "timeout": 2, "reconnect_timeout": 1}
    parsed["OPTIONS"] = options
    parsed["CONN_HEALTH_CHECKS"] = True
    parsed["CONN_MAX_AGE"] = 0 if DATABASE_POOL_MAX else 60
    return parsed


DATABASES = {"default": _database()}
SECRET_KEY = _secret_key()
# Keys of before, which still open what they sealed: sessions, and the secrets of webhook endpoints.
SECRET_KEY_FALLBACKS = env.words("SECRET_KEY_FALLBACKS", "")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "orgs.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
FORMAT_MODULE_PATH = "core.formats"
USE_TZ = True
STATIC_URL = "static/"
# Serves the admin's and Swagger's files straight from the installed packages: no collect step.
WHITENOISE_USE_FINDERS = True
# One byte more than a body of ours may have: our own check answers, not Django's HTML page.
DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024 * 1024 + 1

# Staff need a second factor (docs/adr/0023). Only what `make up` runs may do without.
ADMIN_TWO_FACTOR = env.choice("ADMIN_TWO_FACTOR", "OFF" if EMBEDDED else "REQUIRED", ("REQUIRED", "OFF")) == "REQUIRED"
if not ADMIN_TWO_FACTOR and not EMBEDDED:
    raise env.BadSetting("ADMIN_TWO_FACTOR is for trying things out; it cannot be off when DATABASE_URL is set.")
OTP_TOTP_ISSUER = "Tollbook"
# Who fails so often with one e-mail address from one network address waits so long, whoever they are.
SIGN_IN_TRIES = AXES_FAILURE_LIMIT = env.integer("SIGN_IN_TRIES", 5, low=1, high=100)
SIGN_IN_WAIT = AXES_COOLOFF_TIME = timedelta(minutes=env.integer("SIGN_IN_WAIT_MINUTES", 15, low=1, high=1440))
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_FORM_FIELD = "username"
AXES_USERNAME_CALLABLE = "orgs.sessions.tried_name"
AXES_CLIENT_IP_CALLABLE = "orgs.sessions.tried_from"
AXES_LOCKOUT_CALLABLE = "orgs.sessions.answer_locked_out"
AXES_SENSITIVE_PARAMETERS = ["username", "email", "ip_address", "csrfmiddlewaretoken"]
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
# Who signed in is in the audit trail.
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

# Customers stay signed in for so long after their last visit; staff by ``orgs.sessions``.
SESSION_COOKIE_AGE = 14 * 24 * 3600
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS and TRUSTED_PROXIES else None
# Asked for from inside, past the proxy.
SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$", "^metrics$"]
X_FRAME_OPTIONS = "DENY"
# What a page may load and do: our own files and nothing else, nothing inline, nothing made up at run time.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [csp.NONE],
        "script-src": [csp.SELF],
        "style-src": [csp.SELF],
        "img-src": [csp.SELF, "data:"],
        "font-src": [csp.SELF],
        "connect-src": [csp.SELF],
        "form-action": [csp.SELF],
        "frame-ancestors": [csp.NONE],
        "base-uri": [csp.NONE],
    }
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["orgs.authentication.BearerKey"],
    "DEFAULT_PERMISSION_CLASSES": ["orgs.permissions.Allowed"],
    "DEFAULT_RENDERER_CLASSES": ["core.http.JsonRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core.http.StrictJsonParser"],
    "DEFAULT_SCHEMA_CLASS": "core.openapi.Schema",
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "core.http.Negotiation",
    # OPTIONS is a 405 like any other method that a path does not take; the document describes the API.
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "core.http.answer_exception",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tollbook",
    "DESCRIPTION": "Usage metering and billing for an LLM gateway.",
    "VERSION": API_VERSION,
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": ["core.openapi.tidy", "gateway.surfaces.add_calls"],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
}

# The desk; its colours are in core/static/core/colors.css, what stands in its menu is in ``core.desk``.
UNFOLD = {
    "SITE_TITLE": "Tollbook",
    "SITE_HEADER": "Tollbook",
    "SITE_SUBHEADER": "The desk",
    "SITE_SYMBOL": "toll",
    # There is no site beside the API to view.
    "SITE_URL": "/admin/",
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": False,
    "DASHBOARD_CALLBACK": "billing.start_page.fill",
    "SIDEBAR": {"show_search": True, "command_search": True, "navigation": "core.desk.navigation"},
}

CELERY_BROKER_URL = env.text("CELERY_BROKER_URL", "") or (_embedded_broker() if EMBEDDED else "")
if not CELERY_BROKER_URL:
    raise env.BadSetting("CELERY_BROKER_URL must be set with DATABASE_URL, e.g. redis://localhost:6379/0.")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Beyond the longest task, which would else be handed out while it runs. Nothing waits for it: the sweep
    # sends anew what a dead worker left.
    "visibility_timeout": (schedule.longest() + timedelta(minutes=5)).total_seconds(),
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    # Whoever only wakes a worker does not wait for a broker that is gone; a worker's own patience is another setting.
    "socket_connect_timeout": 2,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
}

# What an event may be (contract 16).
EVENTS_MAX = env.integer("EVENTS_MAX", 1000, low=1, high=10_000)
BODY_BYTES_MAX = 8 * 1024 * 1024
EVENT_AGE_MAX_DAYS = env.integer("EVENT_AGE_MAX_DAYS", 35, low=1, high=365)
# For so long an event is told from a second one of its id, and can be voided: two days more than it is accepted.
CLAIM_KEEP_DAYS = env.integer("CLAIM_KEEP_DAYS", 400, low=EVENT_AGE_MAX_DAYS + 2, high=36_500)
EVENT_AHEAD_MAX_SECONDS = env.integer("EVENT_AHEAD_MAX_SECONDS", 300, low=0, high=3600)
# How long a process may answer from its caches, and how often it asks whether they still hold.
CACHE_SECONDS = env.integer("CACHE_SECONDS", 30, low=1, high=300)
CACHE_POLL_MS = env.integer("CACHE_POLL_MS", 500, low=0, high=10_000)
# Finance moves more than this only when a second person agrees; likewise a price, by percent.
MONEY_APPROVAL_USD = env.integer("MONEY_APPROVAL_USD", 500, low=0, high=1_000_000_000)
# A draft waits so long after its period's end for people to look at it. An invoice above the bound, or more than
# three times what the organization used before and above the floor, waits until one has.
INVOICE_GRACE_HOURS = env.integer("INVOICE_GRACE_HOURS", 24, low=0, high=24 * 27)
INVOICE_BOUND_USD = env.integer("INVOICE_BOUND_USD", 100_000, low=0, high=1_000_000_000)
INVOICE_JUMP_FLOOR_USD = env.integer("INVOICE_JUMP_FLOOR_USD", 1000, low=0, high=1_000_000_000)
PRICE_APPROVAL_PERCENT = env.integer("PRICE_APPROVAL_PERCENT", 10, low=0, high=1000)
# The cap that a hold assumes and answers where a request names none (contract 17).
OUTPUT_TOKENS_DEFAULT = env.integer("OUTPUT_TOKENS_DEFAULT", 4096, low=1, high=1_000_000)
# How long the hold of a model call of ours lasts unless it is renewed, which it is while the call runs.
CALL_HOLD_SECONDS = env.integer("CALL_HOLD_SECONDS", 180, low=10, high=3600)
# How long a call whose client has hung up is read on for the provider's counts (decisions 18).
CALL_DRAIN_SECONDS = env.integer("CALL_DRAIN_SECONDS", 120, low=1, high=3600)
# How long a stopping process lets calls go on before it cuts them off and bills what was produced.
CALL_STOP_SECONDS = env.integer("CALL_STOP_SECONDS", 12, low=0, high=3600)
# How long a client that waits for a stream is sent nothing, before comment lines.
CALL_KEEP_ALIVE_MS = env.integer("CALL_KEEP_ALIVE_MS", 10_000, low=10, high=600_000)
# Where the web processes of this machine share what keys and organizations have drawn from their limits, and how
# many machines serve, each with an even part of every limit.
LIMITS_FILE = env.folder("LIMITS_FILE", str(DATA_DIR / "limits"))
LIMIT_MACHINES = env.integer("LIMIT_MACHINES", 1, low=1, high=1000)
# How long a gateway may go by what POST /v1/keys/verify told it, and so how long a revoked key may live there.
KEY_CACHE_SECONDS = env.integer("KEY_CACHE_SECONDS", 5, low=0, high=3600)
# Usage that nobody could be charged for fails V12 of ``verify`` when it has waited for more than this.
QUARANTINE_ALERT_DAYS = env.integer("QUARANTINE_ALERT_DAYS", 7, low=0, high=365)
# Where the sealed heads of the ledger are exported (docs/adr/0009); without it they stay in the database only.
LEDGER_HEADS_DIR = (
    env.folder("LEDGER_HEADS_DIR", str(DATA_DIR / "heads")) if EMBEDDED or env.text("LEDGER_HEADS_DIR", "") else None
)
# Months of usage that stay in their tables, beside the present one; older ones are taken out to files (decisions 22).
# Without it none is.
USAGE_KEEP_MONTHS = (
    env.integer("USAGE_KEEP_MONTHS", 24, low=24, high=1200) if env.text("USAGE_KEEP_MONTHS", "") else None
)
ARCHIVE_DIR = env.folder("ARCHIVE_DIR", str(DATA_DIR / "archive"))
# What was done about it stays for ever; a mail that was sent and the body of an event of Stripe's that was handled do
# not. Longer than messages live, so that no mail is written anew, and than Stripe tells of its events.
MAIL_KEEP_DAYS = env.integer("MAIL_KEEP_DAYS", 400, low=60, high=36_500)
STRIPE_EVENT_KEEP_DAYS = env.integer("STRIPE_EVENT_KEEP_DAYS", 400, low=60, high=36_500)
# Payments by card. Without a key they are off: nothing is sold, nothing is asked of Stripe.
STRIPE_API_KEY = env.text("STRIPE_API_KEY", "")
# What proves Stripe's webhooks; several while one replaces another.
STRIPE_WEBHOOK_SECRETS = env.words("STRIPE_WEBHOOK_SECRET", "")
STRIPE_API_BASE = env.text("STRIPE_API_BASE", "https://api.stripe.com").rstrip("/")
# The account whose events are taken, where events name one.
STRIPE_ACCOUNT = env.text("STRIPE_ACCOUNT", "")
# Where customers' browsers reach us.
PUBLIC_URL = env.text("PUBLIC_URL", "http://localhost:8000" if EMBEDDED else "").rstrip("/")
if STRIPE_API_KEY and not PUBLIC_URL.startswith(("https://", "http://")):
    raise env.BadSetting("PUBLIC_URL must be set with STRIPE_API_KEY, e.g. https://billing.example.com.")
if STRIPE_API_KEY and not STRIPE_WEBHOOK_SECRETS:
    raise env.BadSetting("STRIPE_WEBHOOK_SECRET must be set with STRIPE_API_KEY; several are separated by commas.")
# Whether people may make themselves an account in the portal, or only those who are invited.
SIGN_UP = env.flag("SIGN_UP", EMBEDDED)
CATALOG_PUBLIC = env.flag("CATALOG_PUBLIC", False)
# Webhooks to http://localhost, for trying things out; they never go anywhere else that is not public.
WEBHOOKS_ALLOW_LOCAL = env.flag("WEBHOOKS_ALLOW_LOCAL", False)
if WEBHOOKS_ALLOW_LOCAL and not EMBEDDED:
    raise env.BadSetting("WEBHOOKS_ALLOW_LOCAL is for trying things out; it cannot be on when DATABASE_URL is set.")

# Without a mail server, mails are files below DATA_DIR (embedded) or wait in the database.
EMAIL_HOST = env.text("EMAIL_HOST", "")
_EMAIL_SECURITY = env.choice("EMAIL_SECURITY", "STARTTLS", ("STARTTLS", "TLS", "NONE"))
EMAIL_USE_TLS, EMAIL_USE_SSL = _EMAIL_SECURITY == "STARTTLS", _EMAIL_SECURITY == "TLS"
EMAIL_PORT = env.integer("EMAIL_PORT", {"STARTTLS": 587, "TLS": 465, "NONE": 25}[_EMAIL_SECURITY], low=1, high=65_535)
EMAIL_HOST_USER = env.text("EMAIL_USER", "")
EMAIL_HOST_PASSWORD = env.text("EMAIL_PASSWORD", "")
# A mail server may look at a mail for long before it answers, and until it does nobody knows whether it was taken.
EMAIL_TIMEOUT = env.integer("EMAIL_TIMEOUT_SECONDS", 60, low=1, high=600)
EMAIL_FILE_PATH = DATA_DIR / "mail"
DEFAULT_FROM_EMAIL = env.sender("DEFAULT_FROM_EMAIL", "" if EMAIL_HOST else "Tollbook <billing@localhost>")
if bool(EMAIL_HOST_USER) != bool(EMAIL_HOST_PASSWORD):
    raise env.BadSetting("EMAIL_USER and EMAIL_PASSWORD belong together: set both or neither.")
if EMAIL_HOST:
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
elif EMBEDDED:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
else:
    EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"

# Who may read /metrics from elsewhere; without it only this machine may.
METRICS_TOKEN = env.text("METRICS_TOKEN", "")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"redact": {"()": "core.logs.Redact"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "core.logs.Stderr", "formatter": "line", "filters": ["redact"]}},
    "root": {
        "handlers": ["stderr"],
        "level": env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    },
    "loggers": {
        "django.server": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "stripe": {"level": "WARNING"},
        # Names and addresses are masked in what it logs; the attempts themselves are in its table.
        "axes": {"level": "WARNING"},
    },
}
