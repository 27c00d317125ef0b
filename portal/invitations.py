"""Letters by which people come in: new here, invited, or without their password. One way for all three.

Nobody is told whether an address is known: the answer is the same, and the letter goes to the address. A link is
good for a day and for one password; its secret is made as the letter is sent and is stored nowhere.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.crypto import salted_hmac

from core import clock, errors
from ops import mails
from ops.models import Mail
from orgs import members, organizations
from orgs.audit import Actor
from orgs.models import Member, Organization, User

KIND: Final = "account.welcome"
LINK: Final = "password_link"
LIFE: Final = timedelta(days=1)
# One letter to an address in such a stretch of time, however often somebody asks.
PAUSE: Final = timedelta(minutes=5)
# Letters to people without an account, in an hour of the whole installation.
STRANGERS_MAX: Final = 200
# Letters of one organization in an hour.
INVITED_MAX: Final = 100
_SALT: Final = "portal.invitations"


class LinkSpent(errors.InvalidRequest):
    """A link that is too old, was used, or was never ours."""

    default = "This link has been used or is more than a day old. Ask for a new one."


@transaction.atomic(durable=True)
def ask(*, email: str) -> None:
    """Write to an address that somebody has typed in at the door. Raises ``OutOfRange`` for what is no address.

    Where people cannot sign up, only those whom we know are written to.
    """
    email = checked(email)
    known = User.objects.filter(email=email).only("is_active").first()
    if known is None and not (settings.SIGN_UP and _strangers() < STRANGERS_MAX):
        return
    if known is None or known.is_active:
        _write(email, said="Choose a password for Tollbook", more="Somebody, probably you, asked for this letter.")


@transaction.atomic(durable=True)
def bring_in(*, organization: Organization, email: str, role: str, acting: UUID, by: Actor) -> Member:
    """Make the person of an address, new or known, a member, and write to them; all of it or nothing.

    ``acting`` is the member who does so. Raises ``OutOfRange``, ``Conflict``, ``PermissionDenied`` and, after
    ``INVITED_MAX`` letters in an hour, ``RateLimited``.
    """
    since = clock.now() - timedelta(hours=1)
    letters = Mail.objects.filter(kind=KIND, organization=organization, created_at__gte=since)
    if letters[:INVITED_MAX].count() >= INVITED_MAX:
        raise errors.RateLimited("Enough people were invited in the last hour. Go on later.")
    user = organizations.ensure_user(email, by=by)
    joined = members.add(organization=organization, user=user, role=role, by=by, acting=acting)
    invite(organization=organization, user=user, by=by)
    return joined


@transaction.atomic
def invite(*, organization: Organization, user: User, by: Actor) -> None:
    """Tell a person who was made a member, in the caller's transaction; without a password they can choose one."""
    said = f"You are now a member of {organization.name}"
    _write(user.email, said=said, more=f"{by.label} has added you.", organization=organization)


def checked(email: str) -> str:
    """An address in the spelling that we keep. Raises ``OutOfRange``."""
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError as error:
        raise errors.OutOfRange("email must be an e-mail address.", param="email") from error
    return email


def token(email: str) -> str:
    """The secret of a link for an address; choosing a password spends it."""
    return signing.dumps({"email": email, "state": _state(email)}, salt=_SALT, compress=True)


def read(secret: str) -> str:
    """The address that a link's secret was made for. Raises ``LinkSpent``."""
    try:
        told: Mapping[str, Any] = signing.loads(secret, salt=_SALT, max_age=LIFE)
    except signing.BadSignature as error:
        raise LinkSpent from error
    if told["state"] != _state(told["email"]):
        raise LinkSpent
    return str(told["email"])


@transaction.atomic(durable=True)
def accept(*, secret: str, password: str) -> User:
    """Give the person of a link a password; they are made if they are new.

    Raises ``LinkSpent``, and ``OutOfRange`` for a password that is too easy.
    """
    email = read(secret)
    return organizations.choose_password(email=email, password=password)


def link(email: str) -> str:
    """What ``LINK`` becomes in a letter to that address."""
    return f"{settings.PUBLIC_URL}{reverse('portal:welcome', args=[token(email)])}"


def _state(email: str) -> str:
    """Changes with the person's password and with signing in, so that a link works once."""
    person = User.objects.filter(email=email).first()
    told = "" if person is None else f"{person.pk}{person.password}{person.last_login}{person.is_active}"
    return salted_hmac(_SALT, told).hexdigest()[:32]


def _strangers() -> int:
    since = clock.now() - timedelta(hours=1)
    return Mail.objects.filter(kind=KIND, organization=None, created_at__gte=since)[:STRANGERS_MAX].count()


def _write(email: str, *, said: str, more: str, organization: Organization | None = None) -> None:
    told = {"said": said, "more": more, "link": mails.place_of(LINK)}
    stretch = int(clock.now().timestamp()) // int(PAUSE.total_seconds())
    mails.post(
        kind=KIND,
        organization_id=organization.pk if organization else None,
        key=f"{organization.pk if organization else 'door'}:{stretch}",
        to=[email],
        subject=said,
        text=render_to_string("portal/letter.txt", told),
        attachments=[{"kind": LINK, "key": email}],
    )
