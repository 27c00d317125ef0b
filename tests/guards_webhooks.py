"""Guards of what we send to others: webhooks and mails (see ``tests.guards``)."""

import importlib
import re
from typing import Any

from tests.guards import Disabled, guard, patched


@guard("resolved_addresses_are_checked")
def _() -> Disabled:
    """Every address that a name resolves to must be public, or nothing is sent."""
    return patched("ops.egress.is_public", lambda address: True)


@guard("the_checked_address_is_dialled")
def _() -> Disabled:
    """The connection goes to the address that was checked; the name is not resolved again."""
    egress = importlib.import_module("ops.egress")
    dial = egress._dial

    def again(address: Any, port: int, seconds: float) -> Any:
        """What a library does that is given the name."""
        found = egress.socket.getaddrinfo("rebinding.example.com", port)
        return dial(found[0][4][0], port, seconds)

    return patched("ops.egress._dial", again)


@guard("numbers_are_no_names")
def _() -> Disabled:
    """A host is a name with a dot that ends in letters, so no spelling of a number is resolved."""
    return patched("ops.egress._NAME", re.compile(r".+"))
