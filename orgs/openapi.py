"""How the OpenAPI document describes the credential."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class BearerKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """``Authorization: Bearer dtk_…``."""

    target_class = "orgs.authentication.BearerKey"
    name = "bearerKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """The security scheme object."""
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A key that starts with dtk_: an organization's, a person's or a gateway's.",
        }
