"""The second factor of staff. The only module that writes ``TOTPDevice``, ``StaticDevice`` and ``StaticToken``.

An authenticator app (RFC 6238), and ten recovery codes for the day the phone is gone; django-otp keeps both, counts
their failures and makes each next try wait twice as long. Of a recovery code only the digest is kept; an app's secret
is needed to work out its codes, so it lies sealed (``core.sealing``), bound to its person. A device is never
stored before its owner has shown a code of it: until then the secret belongs to one sign-in and to nobody else's.
"""

import contextlib
import hashlib
import logging
import secrets
from base64 import b32encode, b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from core import clock, errors, sealing
from orgs import audit
from orgs.audit import Actor
from orgs.models import User

log = logging.getLogger(__name__)

CODES: Final = 10
# 80 bits: what no search of digests finds.
CODE_BYTES: Final = 10
# What django-otp's column holds; 80 bits of a digest.
KEPT_CHARS: Final = 16
SECRET_BYTES: Final = 20
# Begins a secret that is sealed; one of before that is hexadecimal. Both fit the column's 80 characters.
SEALED: Final = "sealed:"
APP: Final = "authenticator app"
REASON_LENGTH_MAX: Final = 500


class WrongCode(errors.PermissionDenied):
    """No code of this person's, or one that was used."""

    code = "wrong_code"
    default = "This code is wrong, or was used before. Take the one that your app shows now."


class Unreadable(WrongCode):
    """The secret of a person's app was sealed under a key that is not here."""

    default = "The second factor of this account cannot be read here any more. A superuser resets it."


class CodeTooSoon(errors.RateLimited):
    """Codes were wrong before; ``until`` is when the next may be tried."""

    code = "code_too_soon"

    def __init__(self, until: datetime) -> None:
        # To the next whole second: what is named must be late enough.
        self.until = until + timedelta(seconds=1)
        super().__init__(f"Codes were wrong before. Try again after {self.until:%H:%M:%S} UTC.")


class EnrolledBefore(errors.Conflict):
    """The person has a device; only a superuser's reset makes room for another."""

    default = "This account has a second factor. Sign in with it."


class Standing(NamedTuple):
    """What a person has: apps that are confirmed, and recovery codes that are left."""

    apps: int
    codes: int


def standing(person: User) -> Standing:
    """What a person has."""
    return Standing(
        TOTPDevice.objects.filter(user=person, confirmed=True).count(),
        StaticToken.objects.filter(device__user=person).count(),
    )


def is_enrolled(person: User) -> bool:
    """Whether the password alone opens nothing for this person."""
    found: bool = TOTPDevice.objects.filter(user=person, confirmed=True).exists()
    return found


def new_secret() -> str:
    """A secret for an app, in hexadecimal."""
    return secrets.token_hex(SECRET_BYTES)


def written(secret: str) -> str:
    """A secret as a person types it into an app: base32 in groups of four."""
    return _grouped(b32encode(bytes.fromhex(secret)).decode())


def address(*, person: User, secret: str) -> str:
    """The ``otpauth://`` address that an app reads from a picture."""
    found: str = TOTPDevice(user=person, key=secret).config_url
    return found


def confirm(*, person: User, secret: str, code: str) -> tuple[TOTPDevice, list[str]]:
    """Keep the app that shows ``code``; the device, and the recovery codes, which nobody sees again.

    Raises ``EnrolledBefore`` or ``OutOfRange``.
    """
    with transaction.atomic():
        # One of two sign-ins enrols, the other finds it done.
        User.objects.select_for_update(no_key=True).get(pk=person.pk)
        if is_enrolled(person):
            raise EnrolledBefore
        device = TOTPDevice(user=person, name=APP, key=secret, confirmed=True)
        shown = TOTP(device.bin_key, device.step, device.t0, device.digits)
        shown.time = clock.now().timestamp()
        digits = _read(code)
        if not digits.isdecimal() or not shown.verify(int(digits), device.tolerance):
            raise errors.OutOfRange("This is not what the app shows now. Is the phone's clock right?", param="code")
        device.last_t, device.drift, device.last_used_at = shown.t(), shown.drift, clock.now()
        device.key = _sealed(person.pk, bytes.fromhex(secret))
        device.save()
        codes = _replace_codes(person)
        audit.note(
            actor=audit.user(person),
            verb="second_factor.enrolled",
            subject=person,
            details={"before": _told(Standing(0, 0)), "after": _told(Standing(1, len(codes)))},
        )
    return device, codes


def verify(*, person: User, code: str) -> Any:
    """The device of the person's that this is a code of; it is no code any more.

    Raises ``WrongCode``, ``Unreadable`` or ``CodeTooSoon``. A failure is counted, so it is committed.
    """
    said = _read(code)
    by_app = said.isdecimal() and len(said) <= 8
    model = TOTPDevice if by_app else StaticDevice
    with transaction.atomic():
        # Locked: of two who know the same code one gets in, and tries side by side wait for each other.
        device = model.objects.select_for_update(no_key=True).filter(user=person, confirmed=True).order_by("pk").first()
        if device is None:
            raise WrongCode
        allowed, why = device.verify_is_allowed()
        right = allowed and (_is_shown(device, said) if by_app else device.verify_token(_kept(said)))
        if right and not by_app:
            audit.note(
                actor=audit.user(person),
                verb="second_factor.recovery_code_used",
                subject=person,
                details={"left": standing(person).codes},
            )
    if not allowed:
        raise CodeTooSoon(why["locked_until"])
    if not right:
        raise WrongCode
    return device


def reset(*, person: User, by: User, reason: str) -> None:
    """Forget a person's devices, so that they enrol again at their next sign-in; what they have open closes.

    An act of superusers, about somebody else. Raises ``PermissionDenied`` or ``OutOfRange``.
    """
    reason = reason.strip()
    if not (by.is_active and by.is_superuser):
        raise errors.PermissionDenied("Only a superuser resets a second factor.")
    if by.pk == person.pk:
        raise errors.PermissionDenied("Nobody resets their own second factor; another superuser does.")
    if not reason or len(reason) > REASON_LENGTH_MAX:
        raise errors.OutOfRange(f"reason has 1 to {REASON_LENGTH_MAX} characters.", param="reason")
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=person.pk)
        before = standing(person)
        TOTPDevice.objects.filter(user=person).delete()
        StaticDevice.objects.filter(user=person).delete()
        audit.note(
            actor=audit.user(by),
            verb="second_factor.reset",
            subject=person,
            details={"reason": reason, "before": _told(before), "after": _told(Standing(0, 0))},
        )


class Resealed(NamedTuple):
    """How many secrets were sealed anew, and how many no key here opens: these are left as they are."""

    sealed: int
    unreadable: int


@transaction.atomic
def reseal(*, by: Actor) -> Resealed:
    """Seal under ``SECRET_KEY`` what lies under one of ``SECRET_KEY_FALLBACKS``, or readable, as it did once."""
    sealed = unreadable = 0
    for device in TOTPDevice.objects.select_for_update(no_key=True, of=("self",)).select_related("user").order_by("pk"):
        if device.key.startswith(SEALED):
            with contextlib.suppress(sealing.Unreadable):
                _opened(device, masters=[settings.SECRET_KEY])
                continue
        try:
            secret = _opened(device)
        except sealing.Unreadable:
            unreadable += 1
            continue
        device.key = _sealed(device.user_id, secret)
        device.save(update_fields=["key"])
        audit.note(actor=by, verb="second_factor.sealed", subject=device.user, details={})
        sealed += 1
    return Resealed(sealed, unreadable)


def _is_shown(device: TOTPDevice, digits: str) -> bool:
    """Whether the app shows this now, or shortly before or after. No code counts twice; after a failure the next waits.

    As django-otp's ``verify_token``, which reads a secret only as it lies there.
    """
    try:
        app = TOTP(_opened(device), device.step, device.t0, device.digits, device.drift)
    except sealing.Unreadable as error:
        log.warning("the second factor of %s was %s", device.user_id, error)
        raise Unreadable from error
    app.time = clock.now().timestamp()
    if not app.verify(int(digits), device.tolerance, device.last_t + 1):
        device.throttle_increment(commit=True)
        return False
    device.last_t, device.drift = app.t(), app.drift
    device.throttle_reset(commit=False)
    device.set_last_used_timestamp(commit=False)
    device.save()
    return True


def _sealed(person_id: UUID, secret: bytes) -> str:
    """A secret as it lies in the row."""
    hidden = sealing.seal(secret, context=person_id.bytes, master=settings.SECRET_KEY)
    return SEALED + b64encode(hidden).decode()


def _opened(device: TOTPDevice, *, masters: Sequence[str] | None = None) -> bytes:
    """The secret of a row. Raises ``sealing.Unreadable``."""
    if not device.key.startswith(SEALED):
        return bytes.fromhex(device.key)
    hidden = b64decode(device.key.removeprefix(SEALED))
    known = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS] if masters is None else masters
    return sealing.unseal(hidden, context=device.user_id.bytes, masters=known)


def _replace_codes(person: User) -> list[str]:
    """New recovery codes in place of all others."""
    StaticDevice.objects.filter(user=person).delete()
    device = StaticDevice.objects.create(user=person, name="recovery codes", confirmed=True)
    codes = [b32encode(secrets.token_bytes(CODE_BYTES)).decode() for _ in range(CODES)]
    StaticToken.objects.bulk_create(StaticToken(device=device, token=_kept(code)) for code in codes)
    return [_grouped(code).lower() for code in codes]


def _read(code: str) -> str:
    """A code as it is compared, however it was typed."""
    return "".join(code.replace("-", "").split()).upper()


def _kept(code: str) -> str:
    return b32encode(hashlib.sha256(code.encode()).digest()).decode()[:KEPT_CHARS]


def _grouped(text: str) -> str:
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def _told(found: Standing) -> dict[str, int]:
    return {"apps": found.apps, "recovery codes": found.codes}
