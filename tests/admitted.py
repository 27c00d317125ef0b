"""Staff at the desk with their second factor, for tests that are about something else.

``Client.force_login`` leaves the sign-in out; for staff it leaves the code out as well: it gives them a device and
a session as ``orgs.sessions`` leaves it. What the door does is tested in tests/orgs/test_door.py, by requests alone.
"""

from typing import Any

from django.test import Client

NEVER_OVER = "9999-01-01T00:00:00+00:00"
_force_login = Client.force_login


def force_login(client: Client, user: Any, backend: str | None = None) -> None:
    """Django's, with the second factor of staff."""
    from django_otp import DEVICE_ID_SESSION_KEY
    from django_otp.plugins.otp_totp.models import TOTPDevice

    _force_login(client, user, backend)
    if user.is_staff:
        device, _ = TOTPDevice.objects.get_or_create(user=user, defaults={"name": "test"})
        session = client.session
        session[DEVICE_ID_SESSION_KEY] = device.persistent_id
        # However far the clock of a test goes ahead.
        session["desk_since"] = session["seen"] = NEVER_OVER
        session.save()


def install() -> None:
    """For the whole run."""
    Client.force_login = force_login  # type: ignore[method-assign,assignment]
