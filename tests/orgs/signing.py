"""People who sign in by requests alone, as a browser does: nothing is left out."""

import re
from typing import Any

from django.test import Client
from django_otp.oath import TOTP
from django_otp.plugins.otp_totp.models import TOTPDevice

from core import clock
from orgs.models import User

PASSWORD = "correct horse battery staple"
SIGN_IN, CODE, ENROL, START = "/admin/login/", "/admin/sign-in/code/", "/admin/sign-in/enrol/", "/admin/"


def staff(email: str = "ada@example.com", **fields: Any) -> User:
    """Somebody of the staff, with a password and no device."""
    return User.objects.create_user(email, PASSWORD, is_staff=True, **{"is_superuser": True, **fields})


def code(secret: str, *, steps: int = 0) -> str:
    """What an app shows now, or so many half minutes later."""
    app = TOTP(bytes.fromhex(secret))
    app.time = clock.now().timestamp() + 30 * steps
    return f"{app.token():06}"


def enrolled(person: User) -> str:
    """Give a person an app; its secret."""
    return str(TOTPDevice.objects.create(user=person, name="phone", confirmed=True).key)


def send_password(client: Client, email: str = "ada@example.com", password: str = PASSWORD, **meta: Any) -> Any:
    """Post the first page."""
    return client.post(SIGN_IN, {"username": email, "password": password}, **meta)


def offered_secret(client: Client) -> str:
    """The secret that the enrolment page shows, as an app keeps it."""
    page = client.get(ENROL).content.decode()
    found = re.search(r"<code[^>]*>([A-Z2-7 ]+)</code>", page)
    assert found is not None, page
    from base64 import b32decode

    return b32decode(found[1].replace(" ", "")).hex()


def signed_in(email: str = "ada@example.com") -> tuple[Client, str]:
    """A browser of a person of the staff who has just enrolled, and the secret of the app."""
    client = Client()
    assert send_password(client, email).status_code == 302
    secret = offered_secret(client)
    assert client.post(ENROL, {"code": code(secret)}).status_code == 200
    return client, secret


def reaches(client: Client, address: str = START) -> bool:
    """Whether a page of the desk opens. Raises ``AssertionError`` for an answer that is neither yes nor no."""
    answer = client.get(address)
    if answer.status_code == 200:
        return True
    assert answer.status_code == 302, answer.status_code
    assert answer["Location"].startswith(SIGN_IN), answer["Location"]
    return False
