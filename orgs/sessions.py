"""Signing in, and how long that lasts: for staff at the desk, and for customers.

``authenticate`` is the one place that takes a password: tries are counted by e-mail address and network address
(django-axes), whoever they name, and people who do not exist are refused in the same words after the same work.
Tries of one pair wait for each other, so that many at once are no more tries than one after the other.

Staff: the password alone makes no session. It leaves word of itself for ten minutes (``begin``), and the code of a
device signs in (``finish``). A desk's session ends after 15 minutes without a page, and after 12 hours in any case.
Customers (``open_portal``) stay signed in until 14 days after their last visit. Every step has a new session key.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, cast

from axes.handlers.proxy import AxesProxyHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import auth
from django.contrib.sessions.backends.db import SessionStore
from django.db import Error, connection, transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.crypto import constant_time_compare
from django_otp import DEVICE_ID_SESSION_KEY

from core import clock, errors, ids
from core.transactions import LOCK_NOT_AVAILABLE, sqlstate
from orgs import audit, second_factor
from orgs.authentication import client_address
from orgs.models import User

STAFF_IDLE: Final = timedelta(minutes=15)
STAFF_MAX: Final = timedelta(hours=12)
PENDING_MAX: Final = timedelta(minutes=10)
# A visit is written down when the last one noted is older; staff's idle time may so be a minute less.
STAFF_NOTED: Final = timedelta(minutes=1)
CUSTOMER_NOTED: Final = timedelta(hours=1)
# Attempts mean nothing once the wait is over; they are kept so long for people to look at.
ATTEMPTS_KEPT: Final = timedelta(days=7)
EMAIL_LENGTH_MAX: Final = 254
PASSWORD_LENGTH_MAX: Final = 1024

_BACKEND: Final = "django.contrib.auth.backends.ModelBackend"
_ADVISORY_CLASS: Final = 0x7369676E
_SECOND: Final = timedelta(seconds=1)
_BUSY: Final = timedelta(seconds=5)
_TRIM_ROWS: Final = 10_000
# Keys of a session.
_PENDING: Final = "sign_in"
_SINCE: Final = "desk_since"
_SEEN: Final = "seen"


class SignInRefused(errors.PermissionDenied):
    """Not these words; it is the same answer for all that can be wrong."""

    code = "sign_in_refused"
    default = "This e-mail address and password do not belong together, or may not sign in here."


class SignInLocked(errors.RateLimited):
    """Too many failures from there with that address; ``until`` is when the next try counts."""

    code = "sign_in_locked"

    def __init__(self, until: datetime) -> None:
        # To the next whole minute: what is named must be late enough.
        self.until = until.replace(second=0, microsecond=0) + timedelta(minutes=1)
        wait = max(1, -((clock.now() - self.until) // timedelta(minutes=1)))
        super().__init__(
            f"Too many failed attempts. Try again after {self.until:%H:%M} UTC, in {wait} minute{'s'[: wait > 1]}.",
            headers={"Retry-After": str(wait * 60)},
        )


class CodeNeeded(errors.PermissionDenied):
    """The person has a second factor, so the password alone opens nothing."""

    code = "second_factor_needed"
    default = "This account has a second factor: its code is needed too."


class Step(Enum):
    """What comes next for somebody whose password was right."""

    CODE = "code"
    ENROL = "enrol"
    DONE = "done"


def authenticate(request: HttpRequest, *, email: str, password: str, staff: bool = False) -> User:
    """The active person of this e-mail address and password; for ``staff``, who may enter the desk.

    Raises ``SignInRefused`` or ``SignInLocked``. Nothing is signed in yet: see ``begin`` and ``open_portal``.
    """
    email = email.strip().lower()
    if not email or "\0" in email + password or len(email) > EMAIL_LENGTH_MAX or len(password) > PASSWORD_LENGTH_MAX:
        raise SignInRefused
    told: dict[str, Any] = {"username": email}
    try:
        with transaction.atomic():
            _take_turn(email, tried_from(request))
            person = auth.authenticate(request, password=password, **told)
            if person is not None and staff and not _may_enter(person):
                # A customer's own password is as wrong here as any other, and counts.
                AxesProxyHandler.user_login_failed(sender=__name__, credentials=told, request=request)
                person = None
    except Error as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        raise SignInLocked(clock.now() + _BUSY) from error
    if person is not None:
        return person
    if getattr(request, "axes_locked_out", False):
        raise SignInLocked(_locked_until(email, tried_from(request)))
    raise SignInRefused


def begin(request: HttpRequest, person: User) -> Step:
    """Remember that ``person``'s password was right, for ten minutes, and say what comes next.

    It is no session yet: nothing but ``pending`` knows of it. Where a second factor is not required, who has none is
    signed in at once.
    """
    enrolled = second_factor.is_enrolled(person)
    if not (enrolled or settings.ADMIN_TWO_FACTOR):
        _open_desk(request, person, device=None)
        return Step.DONE
    # Whoever was signed in here is not any more, and a key that somebody slipped in leads nowhere.
    request.session.flush()
    request.session[_PENDING] = {
        "person": ids.show("user", person.pk),
        "hash": person.get_session_auth_hash(),
        "at": clock.now().isoformat(),
        # Of this sign-in alone: an app that another one set up is not this one's.
        "secret": "" if enrolled else second_factor.new_secret(),
    }
    request.session.set_expiry(PENDING_MAX // _SECOND)
    return Step.CODE if enrolled else Step.ENROL


def pending(request: HttpRequest) -> User | None:
    """Whose password was right in this browser within ten minutes, if it still is theirs."""
    noted = request.session.get(_PENDING)
    if noted is None or clock.now() - datetime.fromisoformat(noted["at"]) > PENDING_MAX:
        return None
    person = User.objects.filter(pk=ids.read("user", noted["person"])).first()
    if person is None or not _may_enter(person):
        return None
    return person if constant_time_compare(noted["hash"], person.get_session_auth_hash()) else None


def secret(request: HttpRequest) -> str:
    """The secret that this sign-in may enrol an app with; empty if the person has one."""
    found: str = request.session[_PENDING]["secret"]
    return found


def finish(request: HttpRequest, *, code: str) -> User:
    """Sign in who is pending, by a code of a device of theirs.

    Raises ``SignInRefused`` if nobody is pending, ``WrongCode`` or ``CodeTooSoon``.
    """
    person = pending(request)
    if person is None:
        raise SignInRefused
    _open_desk(request, person, device=second_factor.verify(person=person, code=code))
    return person


def enrol(request: HttpRequest, *, code: str) -> list[str]:
    """Make the app that shows ``code`` the second factor of who is pending, and sign them in; the recovery codes.

    Raises ``SignInRefused``, ``EnrolledBefore`` or ``OutOfRange``.
    """
    person = pending(request)
    if person is None or not secret(request):
        raise SignInRefused
    device, codes = second_factor.confirm(person=person, secret=secret(request), code=code)
    _open_desk(request, person, device=device)
    return codes


def open_portal(request: HttpRequest, person: User) -> None:
    """Sign a customer in whose password was right. Raises ``CodeNeeded`` for one who has a second factor."""
    if second_factor.is_enrolled(person):
        raise CodeNeeded
    _sign_in(request, person, device=None)
    request.session[_SEEN] = clock.now().isoformat()
    request.session.set_expiry(settings.SESSION_COOKIE_AGE)


def close(request: HttpRequest) -> None:
    """Sign out: the session is gone."""
    auth.logout(request)


def is_admitted(request: HttpRequest) -> bool:
    """Whether the session of this request was opened at the desk, with a device unless the setting lets it be."""
    if _SINCE not in request.session:
        return False
    person = cast(User, request.user)
    if getattr(person, "otp_device", None) is not None:
        return True
    return not (settings.ADMIN_TWO_FACTOR or second_factor.is_enrolled(person))


class Lifetimes:
    """Middleware, before anything asks who is signed in: ends sessions whose time is over, and notes visits."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, for whoever is still signed in."""
        if settings.SESSION_COOKIE_NAME in request.COOKIES:
            keep(request)
        return self.get_response(request)


def keep(request: HttpRequest) -> None:
    """End the session if its time is over, else note the visit."""
    session = request.session
    if _SEEN not in session:
        return
    now, seen = clock.now(), datetime.fromisoformat(session[_SEEN])
    at_desk = _SINCE in session
    if at_desk and (now - seen >= STAFF_IDLE or now - datetime.fromisoformat(session[_SINCE]) >= STAFF_MAX):
        session.flush()
    elif now - seen >= (STAFF_NOTED if at_desk else CUSTOMER_NOTED):
        session[_SEEN] = now.isoformat()


def trim() -> str:
    """Forget sessions that are over and attempts nobody waits for any more; how many, in words."""
    over = SessionStore.get_model_class().objects.filter(expire_date__lt=clock.now())
    old = AccessAttempt.objects.filter(attempt_time__lt=clock.now() - ATTEMPTS_KEPT)
    sessions, attempts = _delete(over), _delete(old)
    return f"forgot {sessions} sessions, {attempts} attempts"


def tried_name(_request: HttpRequest, credentials: Mapping[str, Any] | None = None) -> str:
    """The name that django-axes counts a try under: however it was typed, one name."""
    named = (credentials or {}).get("username") or ""
    return str(named).strip().lower()[:EMAIL_LENGTH_MAX]


def tried_from(request: HttpRequest) -> str | None:
    """The network address that django-axes counts a try under: our own proxies' word, never the client's."""
    address = client_address(request)
    return None if address is None else str(address)


def answer_locked_out(_request: HttpRequest, answer: HttpResponseBase, _credentials: object) -> HttpResponseBase:
    """The page that says until when, as the view made it, with the status for that."""
    answer.status_code = SignInLocked.status
    return answer


def _take_turn(email: str, address: str | None) -> None:
    """Wait until nobody else tries this pair; until the transaction ends others wait for us."""
    pair = hashlib.sha256(f"{email}\0{address}".encode()).digest()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, %s)",
            [_ADVISORY_CLASS, int.from_bytes(pair[:4], "big", signed=True)],
        )


def _locked_until(email: str, address: str | None) -> datetime:
    """When the failures of this pair stop counting: a wait after the last of them."""
    tries = AccessAttempt.objects.filter(username=email, ip_address=address).order_by("-attempt_time")
    last = tries.values_list("attempt_time", flat=True).first()
    return (last or clock.now()) + settings.SIGN_IN_WAIT


def _may_enter(person: Any) -> bool:
    return bool(person.is_active and person.is_staff)


def _open_desk(request: HttpRequest, person: User, *, device: Any) -> None:
    _sign_in(request, person, device=device)
    request.session[_SINCE] = request.session[_SEEN] = clock.now().isoformat()
    request.session.set_expiry(STAFF_IDLE // _SECOND)
    with transaction.atomic():
        audit.note(
            actor=audit.user(person),
            verb="desk.entered",
            subject=person,
            details={"from": tried_from(request), "by": getattr(device, "name", "password alone")},
        )


def _sign_in(request: HttpRequest, person: User, *, device: Any) -> None:
    """Django's login, which gives a new key and, by django-otp, notes the device."""
    for key in (_PENDING, _SINCE, _SEEN, DEVICE_ID_SESSION_KEY):
        request.session.pop(key, None)
    if device is not None:
        person.otp_device = device  # type: ignore[attr-defined]
    auth.login(request, person, backend=_BACKEND)


def _delete(rows: Any) -> int:
    """Delete so many that a job's run is bounded."""
    chosen = list(rows.order_by("pk").values_list("pk", flat=True)[:_TRIM_ROWS])
    gone: int = rows.filter(pk__in=chosen).order_by().delete()[0]
    return gone
