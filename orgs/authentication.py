"""The credential at the door: ``Authorization: Bearer <key>`` and ``X-DeepToken-Org``."""

from django.conf import settings
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from core.errors import InvalidApiKey
from orgs import addresses, principals
from orgs.principals import ORGANIZATION_HEADER, Principal


class BearerKey(BaseAuthentication):
    """Finds the principal; a request without the header has none and is refused by the permission.

    A view with ``organization_is_default = True`` resolves a service key's header itself. The slug
    charged is left on the request as ``tollbook_organization`` for the response header.
    """

    def authenticate(self, request: Request) -> tuple[Principal, Principal] | None:
        """The principal, as user and as credential. Raises ``InvalidApiKey`` and 403s of the tree."""
        authorization = request.headers.get("Authorization")
        if authorization is None:
            return None
        view = request.parser_context.get("view") if request.parser_context else None
        principal = principals.identify(
            secret=bearer(authorization),
            header=request.headers.get(ORGANIZATION_HEADER),
            address=client_address(request._request),
            default_only=getattr(view, "organization_is_default", False),
        )
        request._request.tollbook_organization = principal.organization_slug  # type: ignore[attr-defined]
        return principal, principal

    def authenticate_header(self, request: Request) -> str:
        """What a 401 asks for."""
        return "Bearer"


def bearer(authorization: str) -> str:
    """The secret in the header. Raises ``InvalidApiKey`` for another scheme or shape."""
    scheme, _, secret = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKey
    return secret.strip()


def client_address(request: HttpRequest) -> addresses.Address | None:
    """Who sent this, as far as our own proxies say (``TRUSTED_PROXIES``)."""
    return addresses.client(
        peer=request.META.get("REMOTE_ADDR", ""),
        forwarded=request.META.get("HTTP_X_FORWARDED_FOR", ""),
        proxies=settings.TRUSTED_PROXIES,
    )


def principal_of(request: Request) -> Principal:
    """The principal of a request that ``Allowed`` has admitted."""
    assert isinstance(request.auth, Principal)
    return request.auth
