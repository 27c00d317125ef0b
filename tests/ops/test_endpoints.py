"""Endpoints: made, changed, rotated, disabled and deleted within their organization, ten at most."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.test import override_settings

from core import clock, errors, ids, sealing
from ops import endpoints, signatures
from ops.endpoints import FAILING_MAX
from ops.models import OutboxMessage, WebhookEndpoint
from orgs.models import AuditEntry, Organization
from tests.books import Books
from tests.clocks import Clock
from tests.ops import hooks
from tests.orgs import world


@pytest.fixture
def acme(db: None) -> Organization:
    return world.organization("acme")


def change(of: WebhookEndpoint, **what: Any) -> WebhookEndpoint:
    return endpoints.change(organization_id=of.organization_id, endpoint_id=of.pk, by=world.BY, **what)


def settle(of: WebhookEndpoint, *, at: Any, status: int | None = None) -> WebhookEndpoint:
    with transaction.atomic():
        endpoints.settle(endpoint_id=of.pk, status=status, taken=status == 200, at=at)
    return WebhookEndpoint.objects.get(pk=of.pk)


def test_an_endpoint_has_a_secret_that_is_shown_once_and_kept_sealed(acme: Organization) -> None:
    made = hooks.endpoint(acme, kinds=["wallet.low", "wallet.empty", "wallet.low"])
    row = WebhookEndpoint.objects.get()
    assert (row.url, row.kinds, row.enabled, row.slot) == (hooks.URL, ["wallet.empty", "wallet.low"], True, 0)
    assert str(row) == ids.show("we", row.pk)
    plain = signatures.key_of(made.secret)
    assert plain not in bytes(row.secret)
    assert endpoints.keys_of(row, at=clock.now()) == [plain]
    assert made.secret not in repr(made)
    note = AuditEntry.objects.get(verb="webhook_endpoint.created")
    assert (note.subject_id, note.organization_id) == (str(row), acme.pk)
    assert made.secret not in str(note.details)


def test_a_sealed_secret_survives_a_new_secret_key_beside_the_old_one(acme: Organization) -> None:
    made = hooks.endpoint(acme)
    old = settings.SECRET_KEY
    with override_settings(SECRET_KEY="x" * 40, SECRET_KEY_FALLBACKS=[old]):
        assert endpoints.keys_of(made.endpoint, at=clock.now()) == [signatures.key_of(made.secret)]
    with override_settings(SECRET_KEY="x" * 40), pytest.raises(sealing.Unreadable):
        endpoints.keys_of(made.endpoint, at=clock.now())


@pytest.mark.parametrize(
    ("url", "kinds", "param"),
    [
        ("http://hooks.example.com/", [], "url"),
        ("http://localhost:8000/", [], "url"),
        ("https://169.254.169.254/", [], "url"),
        ("", [], "url"),
        (hooks.URL, ["wallet.high"], "events"),
        (hooks.URL, ["ping"], "events"),
    ],
)
def test_what_cannot_be_is_refused_by_name(acme: Organization, url: str, kinds: list[str], param: str) -> None:
    with pytest.raises(errors.OutOfRange) as caught:
        hooks.endpoint(acme, url, kinds=kinds)
    assert caught.value.param == param
    made = hooks.endpoint(acme).endpoint
    with pytest.raises(errors.OutOfRange):
        change(made, url=url, kinds=kinds)
    assert WebhookEndpoint.objects.get().url == hooks.URL


@override_settings(WEBHOOKS_ALLOW_LOCAL=True)
def test_this_machine_can_be_tried_out_where_that_is_allowed(acme: Organization) -> None:
    assert hooks.endpoint(acme, "http://localhost:9000/in").endpoint.url == "http://localhost:9000/in"


def test_an_organization_has_ten_and_a_deleted_one_makes_room(acme: Organization) -> None:
    made = [hooks.endpoint(acme).endpoint for _ in range(10)]
    hooks.endpoint(world.organization("other"))
    with pytest.raises(endpoints.TooManyEndpoints):
        hooks.endpoint(acme)
    endpoints.delete(organization_id=acme.pk, endpoint_id=made[3].pk, by=world.BY)
    assert hooks.endpoint(acme).endpoint.slot == 3
    assert len(endpoints.of(acme.pk)) == 10
    with pytest.raises(IntegrityError, match="slot_once"), transaction.atomic():
        WebhookEndpoint.objects.filter(pk=made[0].pk).update(slot=1)
    with pytest.raises(IntegrityError, match="webhook_endpoint_slots"), transaction.atomic():
        WebhookEndpoint.objects.filter(pk=made[0].pk).update(slot=10)


def test_twelve_at_once_make_ten(books: Books) -> None:
    acme = world.organization("acme")

    def make() -> int:
        try:
            return hooks.endpoint(acme).endpoint.slot
        except endpoints.TooManyEndpoints:
            return -1

    assert sorted(books.together([make] * 12)) == [-1, -1, *range(10)]


def test_a_neighbours_endpoint_is_not_there(acme: Organization) -> None:
    theirs = hooks.endpoint(world.organization("other")).endpoint
    known: dict[str, Any] = {"organization_id": acme.pk, "endpoint_id": theirs.pk, "by": world.BY}
    for verb in (endpoints.change, endpoints.rotate, endpoints.delete):
        with pytest.raises(errors.NotFound):
            verb(**known)
    for shown in (str(theirs), ids.show("we", ids.new()), "we_x", ids.show("key", theirs.pk)):
        with pytest.raises(errors.NotFound):
            endpoints.find(organization_id=acme.pk, shown=shown)
    assert endpoints.of(acme.pk) == []
    assert endpoints.find(organization_id=theirs.organization_id, shown=str(theirs)) == theirs


def test_a_deleted_endpoint_is_gone_with_its_secrets(acme: Organization) -> None:
    made = hooks.endpoint(acme).endpoint
    endpoints.rotate(organization_id=acme.pk, endpoint_id=made.pk, by=world.BY)
    endpoints.delete(organization_id=acme.pk, endpoint_id=made.pk, by=world.BY)
    with pytest.raises(errors.NotFound):
        endpoints.find(organization_id=acme.pk, shown=str(made))
    with pytest.raises(errors.NotFound):
        endpoints.delete(organization_id=acme.pk, endpoint_id=made.pk, by=world.BY)
    row = WebhookEndpoint.objects.get()
    assert (bytes(row.secret), row.old_secret) == (b"", None)
    assert endpoints.wanting(organization_id=acme.pk, kind="wallet.low") == []


def test_both_secrets_sign_for_a_day_after_a_rotation(books: Books, fake_clock: Clock) -> None:
    first = hooks.endpoint(world.organization("acme"))
    row = first.endpoint
    second = endpoints.rotate(organization_id=row.organization_id, endpoint_id=row.pk, by=world.BY)
    assert second.secret != first.secret
    new, old = signatures.key_of(second.secret), signatures.key_of(first.secret)
    day = timedelta(hours=24)
    assert endpoints.keys_of(second.endpoint, at=fake_clock.at + day - timedelta(seconds=1)) == [new, old]
    assert endpoints.keys_of(second.endpoint, at=fake_clock.at + day) == [new]
    third = endpoints.rotate(organization_id=row.organization_id, endpoint_id=row.pk, by=world.BY)
    assert endpoints.keys_of(third.endpoint, at=fake_clock.at) == [signatures.key_of(third.secret), new]


def test_an_endpoint_wants_what_it_says_or_all_that_customers_are_told(acme: Organization) -> None:
    every, low = hooks.endpoint(acme).endpoint, hooks.endpoint(acme, kinds=["wallet.low"]).endpoint
    off = hooks.endpoint(acme).endpoint
    change(off, enabled=False)
    hooks.endpoint(world.organization("other"))

    def wanting(kind: str) -> list[UUID]:
        return endpoints.wanting(organization_id=acme.pk, kind=kind)

    assert wanting("wallet.low") == [every.pk, low.pk]
    assert wanting("wallet.empty") == [every.pk]
    assert wanting("something.internal") == []
    change(low, kinds=["wallet.empty"], url="https://elsewhere.example.com/")
    assert wanting("wallet.empty") == [every.pk, low.pk]
    assert WebhookEndpoint.objects.get(pk=low.pk).url == "https://elsewhere.example.com/"


def test_failing_for_five_days_without_a_success_disables_with_a_notice(acme: Organization) -> None:
    row, start = hooks.endpoint(acme).endpoint, clock.now()
    assert settle(row, at=start, status=500).failing_since == start
    assert settle(row, at=start + FAILING_MAX - timedelta(seconds=1)).enabled
    assert settle(row, at=start + FAILING_MAX, status=200).failing_since is None
    again = start + FAILING_MAX + timedelta(days=1)
    assert settle(row, at=again).enabled
    assert not OutboxMessage.objects.exists()
    ended = settle(row, at=again + FAILING_MAX)
    assert (ended.enabled, ended.disabled_reason) == (False, "it has failed for 5 days")
    (message,) = OutboxMessage.objects.all()
    assert (message.kind, message.organization_id) == ("webhook_endpoint.disabled", acme.pk)
    assert message.data == {"webhook_endpoint": str(row), "url": hooks.URL, "reason": "it has failed for 5 days"}
    # Whoever was still sending then says nothing new.
    settle(row, at=again + FAILING_MAX, status=410)
    assert OutboxMessage.objects.count() == 1
    assert change(row, enabled=True).failing_since is None


def test_an_endpoint_that_says_it_is_gone_is_disabled_at_once(acme: Organization) -> None:
    row = settle(hooks.endpoint(acme).endpoint, at=clock.now(), status=410)
    assert (row.enabled, row.disabled_reason) == (False, "it answered 410")
    assert OutboxMessage.objects.get().data["reason"] == "it answered 410"
    assert AuditEntry.objects.get(verb="webhook_endpoint.disabled").actor_kind == "system"


def test_an_endpoint_can_be_switched_off_and_on_by_hand_without_a_notice(acme: Organization) -> None:
    row = change(hooks.endpoint(acme).endpoint, enabled=False)
    assert (row.enabled, row.disabled_reason) == (False, "switched off")
    row = change(row, enabled=True)
    assert (row.enabled, row.disabled_at, row.disabled_reason) == (True, None, "")
    assert not OutboxMessage.objects.exists()
    with pytest.raises(IntegrityError, match="webhook_endpoint_disabled"), transaction.atomic():
        WebhookEndpoint.objects.update(enabled=False)


def test_verbs_that_join_say_so(books: Books) -> None:
    with pytest.raises(AssertionError):
        endpoints.take(lease=timedelta(seconds=1), calm=False)
    with pytest.raises(AssertionError):
        endpoints.settle(endpoint_id=ids.new(), status=None, taken=False, at=clock.now())
    assert not connection.in_atomic_block
