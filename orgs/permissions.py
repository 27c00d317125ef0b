"""What there is to be allowed, and the check that every view carries.

Permissions are constants here; roles (``orgs.models.Role``) are named sets of them. A key's
*scopes* widen what it may do: a customer's key reads and calls by default and manages only
what its scopes name; a service key does only what its scopes name.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from core.errors import InvalidApiKey, PermissionDenied, ScopeMissing
from orgs.models import Kind

if TYPE_CHECKING:
    from rest_framework.views import APIView

    from orgs.principals import Principal

CALLS_MAKE = "calls:make"
USAGE_READ_OWN = "usage:read_own"
USAGE_READ_ALL = "usage:read_all"
WALLET_READ = "wallet:read"
KEYS_MANAGE = "keys:manage"
MEMBERS_MANAGE = "members:manage"
BILLING_READ = "billing:read"
BILLING_MANAGE = "billing:manage"
WEBHOOKS_MANAGE = "webhooks:manage"
ORGANIZATION_MANAGE = "organization:manage"

# What every customer's key may do without being given a scope.
BASE = frozenset({CALLS_MAKE, USAGE_READ_OWN, USAGE_READ_ALL, WALLET_READ, BILLING_READ})
# What a customer's key may do only if its scopes say so.
MANAGE = frozenset({KEYS_MANAGE, BILLING_MANAGE, WEBHOOKS_MANAGE})
CUSTOMER_SCOPES = BASE | MANAGE
ALL = CUSTOMER_SCOPES | {MEMBERS_MANAGE, ORGANIZATION_MANAGE}

EVENTS_WRITE = "events:write"
AUTHORIZATIONS_WRITE = "authorizations:write"
SERVICE_SCOPES = frozenset({EVENTS_WRITE, AUTHORIZATIONS_WRITE})

CUSTOMER = frozenset({Kind.ORGANIZATION, Kind.PERSONAL})
SERVICE = frozenset({Kind.SERVICE})


def effective(*, scopes: Iterable[str], role: Iterable[str] | None) -> frozenset[str]:
    """What a customer's key may do: its default and its scopes, and never more than its owner's role.

    ``role`` is None for an organization's own key, which has no owner.
    """
    permissions = BASE | (MANAGE & set(scopes))
    return permissions if role is None else permissions & of_role(role)


def of_role(granted: Iterable[str]) -> frozenset[str]:
    """What a role allows: who may read all usage may read their own."""
    allowed = frozenset(granted)
    return allowed | {USAGE_READ_OWN} if USAGE_READ_ALL in allowed else allowed


class Allowed(BasePermission):
    """Admits a principal to a view by the view's own words.

    * ``kinds``: which kinds of key (default: a customer's).
    * ``needs``: a permission that a customer's key must have (default: none).
    * ``scope``: a scope that a service key must have (default: none).

    Raises ``InvalidApiKey`` without a key, ``PermissionDenied`` for the wrong kind and
    ``ScopeMissing`` for the rest. A view open to the public says ``permission_classes = ()``.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """True, or raises the refusal."""
        principal: Principal | None = request.auth  # type: ignore[assignment]
        if principal is None:
            raise InvalidApiKey
        check(
            principal,
            kinds=getattr(view, "kinds", CUSTOMER),
            needs=getattr(view, "needs", None),
            scope=getattr(view, "scope", None),
        )
        return True


def check(principal: "Principal", *, kinds: frozenset[Kind], needs: str | None, scope: str | None) -> None:
    """Admit or refuse; the same rule for doors that are not Django views."""
    if principal.kind not in kinds:
        takes = "a gateway's service key" if kinds == SERVICE else "an organization's or a personal key"
        raise PermissionDenied(f"This path takes {takes}.")
    if principal.kind == Kind.SERVICE:
        if scope is not None and scope not in principal.scopes:
            raise ScopeMissing(f"This key lacks the scope {scope}.")
    elif needs is not None and needs not in principal.permissions:
        raise ScopeMissing(f"This key lacks {needs}: a scope of the key, or a permission of its owner's role.")
