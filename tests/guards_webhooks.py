"""Guards of what we send to others: webhooks and mails (see ``tests.guards``)."""

import importlib
import re
from typing import Any

from tests.guards import Disabled, all_of, guard, patched, rewritten, without_constraint


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


@guard("messages_commit_with_their_cause")
def _() -> Disabled:
    """A message is a row of the transaction that made it true."""
    outbox, charges = importlib.import_module("ops.outbox"), importlib.import_module("billing.charges")
    transaction = importlib.import_module("django.db").transaction
    post_many, record = outbox.post_many, charges.record
    kept: list[Any] = []

    def keep(messages: Any) -> list[bool]:
        kept.extend(messages)
        return [True] * len(messages)

    def record_and_tell(*told: Any, **options: Any) -> Any:
        """What a caller does who tells after the commit."""
        done = record(*told, **options)
        with transaction.atomic():
            post_many(kept)
        kept.clear()
        return done

    return all_of(patched("ops.outbox.post_many", keep), patched("billing.charges.record", record_and_tell))


@guard("doubtful_mails_wait_for_a_person")
def _() -> Disabled:
    """A mail whose sender died while the mail server had it is not sent again by itself."""
    return rewritten(
        "SET state = 'doubtful', leased_until = NULL,",
        "SET state = 'pending', next_attempt_at = clock_timestamp(), leased_until = NULL,",
    )


@guard("mails_are_unique")
def _() -> Disabled:
    """One mail for each kind, key and recipient."""
    return without_constraint("mail", "mail_once")


@guard("the_time_is_signed")
def _() -> Disabled:
    """The signature covers the id and the time, so an old message cannot be given a new time."""
    return patched("ops.signatures.signed_content", lambda *, message_id, timestamp, body: body)


@guard("messages_are_signed_with_the_endpoints_secret")
def _() -> Disabled:
    """Only the endpoint's own secrets sign what it is sent."""
    return patched("ops.endpoints.keys_of", lambda endpoint, at: [b"everybody knows this"])


@guard("endpoints_are_read_within_the_organization")
def _() -> Disabled:
    """An endpoint is looked for within the caller's organization."""
    models = importlib.import_module("ops.models")
    one = importlib.import_module("ops.endpoints")._one

    def anywhere(organization_id: Any, endpoint_id: Any) -> Any:
        return one(models.WebhookEndpoint.objects.filter(pk=endpoint_id))

    return patched("ops.endpoints._get", anywhere)


@guard("deliveries_are_read_within_their_endpoint")
def _() -> Disabled:
    """A delivery is looked for among those to the endpoint that the path names."""
    models = importlib.import_module("ops.models")
    errors = importlib.import_module("core.errors")
    read = importlib.import_module("core.ids").read

    def anywhere(*, endpoint: Any, shown: str) -> Any:
        found = models.WebhookDelivery.objects.filter(pk=read("wd", shown)).first()
        if found is None:
            raise errors.NotFound
        return found

    return patched("ops.deliveries.find", anywhere)
