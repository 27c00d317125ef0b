"""The second factor of staff. The only module that writes ``TOTPDevice``, ``StaticDevice`` and ``StaticToken``.

An authenticator app (RFC 6238), and ten recovery codes for the day the phone is gone; django-otp keeps both, counts
their failures and makes each next try wait twice as long. Of a recovery code only the digest is kept. A device is never
stored before its owner has shown a code of it: until then the secret belongs to one sign-in and to nobody else's.
"""

import hashlib
import secrets
from base64 import b32encode
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import transaction
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from core import clock, errors
from orgs import audit
from orgs.models import User

CODES: Final = 10
# 80 bits: what no search of digests finds.
CODE_BYTES: Final = 10
# What django-otp's column holds; 80 bits of a digest.
KEPT_CHARS: Final = 16
SECRET_BYTES: Final = 20
APP: Final = "authenticator app"
REASON_LENGTH_MAX: Final = 500


class WrongCode(errors.PermissionDenied):
    """No code of this person's, or one that was used."""

    code = "wrong_code"
    default = "This code is wrong, or was used before. Take the one that your app shows now."


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

    Raises ``WrongCode`` or ``CodeTooSoon``. A failure is counted, so it is committed.
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
        right = allowed and device.verify_token(said if by_app else _kept(said))
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
