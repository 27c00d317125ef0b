"""Two organizations side by side, with people, keys, usage and money, made the way the product makes them."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from billing import grants
from billing.models import Hold, Invoice, PaymentCard, TopUp, Transfer
from core import ids
from metering.models import UsageRecord
from ops import deliveries, endpoints, outbox
from ops.models import OutboxMessage, WebhookDelivery, WebhookEndpoint
from orgs import projects
from orgs.keys import IssuedKey
from orgs.models import Member, Organization, Project, User
from tests import doors
from tests.billing import papers
from tests.orgs import world

MANAGING = ("billing:manage", "keys:manage", "webhooks:manage")
EVENTS = "/v1/events"
AUTHORIZATIONS = "/v1/authorizations"
# What an organization owns and answers name by id.
KINDS = ("key", "usage", "tr", "auth", "proj", "user", "inv", "we", "wd", "topup", "card")


@dataclass
class Caller:
    """Somebody with a key who calls the API, and the organization they name, if any."""

    name: str
    secret: str
    organization: str = ""
    client: Any = field(default_factory=doors.client)

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates every call."""
        headers = {"Authorization": f"Bearer {self.secret}"}
        return headers | ({"X-DeepToken-Org": self.organization} if self.organization else {})

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        raw: bytes | str | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer to one request; ``body`` goes as JSON, ``raw`` as it is."""
        text = raw if raw is not None else "" if body is None else json.dumps(body)
        return self.client.generic(
            method,
            path,
            text,
            content_type=content_type,
            query_params=dict(query or {}),
            headers={**self.headers, **(headers or {})},
        )

    def get(self, path: str, *, accept: str = "application/json", **query: Any) -> Any:
        """A read."""
        return self.call("GET", path, query=query, headers={"Accept": accept})

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """A write."""
        return self.call("POST", path, body=body, **options)


def event(event_id: str, **told: Any) -> dict[str, Any]:
    """A finished request: 1,000 tokens in, 200 out, a minute ago."""
    return {
        "event_id": event_id,
        "model": "deepseek-chat",
        "occurred_at": int(time.time()) - 60,
        "input_tokens": 1000,
        "output_tokens": 200,
        **told,
    }


def payload(call_id: str, **told: Any) -> dict[str, Any]:
    """The same as a LiteLLM proxy logs it."""
    return {
        "litellm_call_id": call_id,
        "model_group": "deepseek-chat",
        "startTime": int(time.time()) - 60,
        "status": "success",
        "metadata": {"usage_object": {"prompt_tokens": 1000, "completion_tokens": 200}},
        **told,
    }


@dataclass
class House:
    """An organization with its people, their keys, its usage and its statement."""

    slug: str
    organization: Organization
    owner: User
    plain: Member
    viewer: Member
    keys: dict[str, IssuedKey]
    callers: dict[str, Caller]
    gateway: Caller
    project: Project

    @property
    def records(self) -> list[UsageRecord]:
        """Its usage, oldest first."""
        return list(UsageRecord.objects.filter(organization=self.organization).order_by("id"))

    @property
    def transfers(self) -> list[Transfer]:
        """Its statement, oldest first."""
        return list(Transfer.objects.filter(organization=self.organization).order_by("id"))

    def shown(self, kind: str) -> list[str]:
        """The ids on the wire of what it owns."""
        if kind == "event":
            return [record.event_id for record in self.records]
        owned: Mapping[str, Iterable[UUID]] = {
            "key": (issued.key.pk for issued in self.keys.values()),
            "usage": (record.pk for record in self.records),
            "tr": (transfer.pk for transfer in self.transfers),
            "auth": Hold.objects.filter(organization=self.organization).order_by("id").values_list("pk", flat=True),
            "proj": (self.project.pk,),
            "inv": Invoice.objects.filter(organization=self.organization).order_by("id").values_list("pk", flat=True),
            "we": WebhookEndpoint.objects.for_org(self.organization.pk).order_by("id").values_list("pk", flat=True),
            "wd": WebhookDelivery.objects.for_org(self.organization.pk).order_by("id").values_list("pk", flat=True),
            "user": (self.owner.pk, self.plain.user_id, self.viewer.user_id),
            "topup": TopUp.objects.filter(organization=self.organization).values_list("pk", flat=True),
            "card": PaymentCard.objects.filter(organization=self.organization, removed_at__isnull=True)
            .order_by("id")
            .values_list("pk", flat=True),
        }
        return [ids.show(kind, each) for each in owned[kind]]

    @property
    def markers(self) -> list[str]:
        """Texts that occur in an answer only if it shows something of this organization."""
        people = [self.owner, self.plain.user, self.viewer.user]
        return [
            self.slug,
            ids.show("org", self.organization.pk),
            *(str(each.pk) for each in (self.organization, *people)),
            *(person.email for person in people),
            *(text for kind in KINDS for text in self.shown(kind)),
            *(issued.secret for issued in self.keys.values()),
            *(record.event_id for record in self.records),
        ]


def house(slug: str, *, documented: bool = True) -> House:
    """An organization whose usage was reported by a gateway that may report for no other.

    ``documented``: with documents of months that never were, which no check of the books believes.
    """
    owner = world.person(f"owner@{slug}.example")
    organization = world.organization(slug, owner=owner)
    plain = world.member(organization, f"plain@{slug}.example", "member")
    viewer = world.member(organization, f"viewer@{slug}.example", "viewer")
    keys = {
        "organization": world.organization_key(organization, name=f"key of {slug}", scopes=MANAGING),
        "owner": world.personal_key(owner, name=f"owner of {slug}", scopes=MANAGING),
        "plain": world.personal_key(plain.user, name=f"member of {slug}", scopes=MANAGING),
        "viewer": world.personal_key(viewer.user, name=f"viewer of {slug}", scopes=MANAGING),
        "service": world.service_key(name=f"gateway of {slug}", organizations=[organization.pk]),
    }
    callers = {
        "organization": Caller("organization", keys["organization"].secret),
        "owner": Caller("owner", keys["owner"].secret, slug),
        "alone": Caller("alone", keys["owner"].secret),
        "plain": Caller("plain", keys["plain"].secret, slug),
        "viewer": Caller("viewer", keys["viewer"].secret, slug),
        "service": Caller("service", keys["service"].secret),
    }
    gateway = Caller("gateway", keys["service"].secret, slug)
    project = projects.create(organization=organization, name=f"project of {slug}", by=world.BY)
    built = House(slug, organization, owner, plain, viewer, keys, callers, gateway, project)
    give(organization, "10")
    for name in ("organization", "owner", "plain"):
        report(built, key=name)
    authorize(built)
    if documented:
        papers.invoice(organization)
        papers.statement(organization)
        papers.draft(organization)
    for number in range(2):
        listen(built, number=number)
    tell(built)
    pay(built)
    return built


def listen(of: House, *, number: int) -> str:
    """The id of a fresh webhook endpoint."""
    url = f"https://hooks.{of.slug}.example/{number}"
    made = endpoints.create(organization_id=of.organization.pk, url=url, by=world.BY)
    return str(made.endpoint)


def tell(of: House) -> None:
    """A message on its way to each endpoint."""
    with transaction.atomic():
        made = outbox.post_handed_on(
            kind="wallet.low", organization_id=of.organization.pk, key=str(ids.new()), data={"house": of.slug}
        )
        deliveries.derive(OutboxMessage.objects.get(pk=made))


def pay(of: House) -> None:
    """A saved card, and a top-up that was declined."""
    card = PaymentCard.objects.create(
        organization=of.organization, stripe_id=f"pm_{of.slug}", brand="visa", last_four="4242", is_default=True
    )
    assert card.organization_id == of.organization.pk
    TopUp.objects.create(
        organization=of.organization, amount_usd=Decimal(10), automatic=False, state="failed", failure="card_declined",
        settled_at=card.created_at,
    )  # fmt: skip


def give(organization: Organization, usd: str, *, reason: str = "welcome") -> None:
    """Promotional credit."""
    with transaction.atomic():
        grants.promote(
            organization_id=organization.pk,
            amount_usd=Decimal(usd),
            reference=ids.show("req", ids.new()),
            actor="tests",
            reason=reason,
        )


def authorization(of: House, **told: Any) -> dict[str, Any]:
    """What a gateway asks before a request of the organization's key; to a free model, so nothing is set aside."""
    key = ids.show("key", of.keys["organization"].key.pk)
    return {"api_key_id": key, "model": "gemma-4-31b-it", "input_tokens": 10, "max_output_tokens": 10, **told}


def authorize(of: House) -> str:
    """The id of a fresh hold."""
    answer = of.gateway.post(AUTHORIZATIONS, authorization(of))
    assert answer.status_code == 201, answer.content
    made: str = answer.json()["id"]
    return made


def report(of: House, *, key: str, count: int = 2, **told: Any) -> None:
    """Events of one of its keys, each in a transaction and a transfer of its own."""
    shown = ids.show("key", of.keys[key].key.pk)
    for number in range(count):
        event_id = f"{of.slug}-{key}-{number}-{ids.new()}"
        told = {"end_user": f"user of {of.slug}", "metadata": {"house": of.slug}, **told}
        answer = of.gateway.post(EVENTS, event(event_id, api_key_id=shown, **told))
        assert answer.status_code == 201, answer.content
