"""The guards of what proxies report, and of limits. Registered by ``tests.guards``."""

import importlib
from typing import Any

from tests.guards import Disabled, guard, patched


@guard("clients_of_a_proxy_are_members")
def _() -> Disabled:
    """The organization that a proxy's client names pays only for its own members."""
    return patched("metering.attribution._belongs", lambda client, who, memberships: client is not None)


@guard("clients_of_a_proxy_are_not_trusted")
def _() -> Disabled:
    """What a proxy's client names is believed only of a proxy that checks it."""
    decode = importlib.import_module("gateway.litellm").decode

    def trusting(raw: bytes, **options: Any) -> Any:
        return decode(raw, **{**options, "trusted": True})

    return patched("gateway.litellm.decode", trusting)


@guard("calls_of_a_proxy_are_told_apart")
def _() -> Disabled:
    """A call that a proxy reports under the id of another one takes an id of its own."""
    return patched("gateway.events._tell_apart", lambda items, given, *, record: given)


@guard("each_key_has_its_part_of_a_limit")
def _() -> Disabled:
    """The last half of an organization's limit is for keys that have had less than their even part."""
    return patched("gateway.limits.Drawn.has_had_its_part", lambda *_, **__: False)
