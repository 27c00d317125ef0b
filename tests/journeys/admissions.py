"""Gateways that ask for more than there is, side by side, against the real server: exactly what fits is admitted."""

import json
from collections import Counter
from contextlib import closing
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction

from billing import budgets, grants
from core import ids
from orgs import keyring, projects
from orgs.keyring import Wish
from orgs.models import Organization
from tests.books import Books
from tests.journeys.traffic import Caller, Reply, verify
from tests.orgs import world
from tests.orgs.test_keyring import manager
from tests.server import WebServer

PATH = "/v1/authorizations"
CONNECTIONS = 16
REQUESTS = 200
FITTING = 37
SECONDS = 60
# 1,000 tokens of deepseek-chat in at 0.27 and at most 200 out at 1.10 USD a million.
COST = Decimal("0.00049")
ASKED = {"model": "deepseek-chat", "input_tokens": 1000, "max_output_tokens": 200}


class Place(NamedTuple):
    """An organization whose key may make ``FITTING`` requests at once, and the refusal of the next."""

    organization: Organization
    key: str
    refusal: tuple[int, str]


def limited_by_wallet(slug: str) -> Place:
    """The wallet covers so many."""
    made = world.organization(slug)
    _give(made, FITTING * COST)
    return Place(made, world.organization_key(made).secret, (402, "org_wallet_empty"))


def limited_by_key(slug: str) -> Place:
    """The wallet has plenty, a ceiling of the key does not."""
    made = world.organization(slug)
    _give(made, Decimal(1000))
    issued = world.organization_key(made)
    _ceiling(made, "key", issued.key.pk)
    return Place(made, issued.secret, (403, "budget_limit_exceeded"))


def limited_by_project(slug: str) -> Place:
    """The wallet has plenty, a ceiling of the key's project does not."""
    made = world.organization(slug)
    _give(made, Decimal(1000))
    project = projects.create(organization=made, name="apollo", by=world.BY)
    issued = keyring.issue(principal=manager(made), wish=Wish(name="of apollo", project=ids.show("proj", project.pk)))
    _ceiling(made, "project", project.pk)
    return Place(made, issued.secret, (403, "budget_limit_exceeded"))


def _give(to: Organization, usd: Decimal) -> None:
    with transaction.atomic():
        grants.promote(organization_id=to.pk, amount_usd=usd, reference="given", actor="tests", reason="given")


def _ceiling(of: Organization, subject: str, subject_id: UUID) -> None:
    budgets.set_ceiling(
        organization_id=of.pk, subject=subject, subject_id=subject_id, window="1d", unit="usd",
        ceiling=FITTING * COST, by=world.BY,
    )  # fmt: skip


def race(books: Books, server: WebServer, place: Place, *, gateway: str) -> None:
    """Ask ``REQUESTS`` times over ``CONNECTIONS``, all at once. Raises ``AssertionError`` unless what fits passes."""
    shares = [len(range(REQUESTS)[number::CONNECTIONS]) for number in range(CONNECTIONS)]
    calls = [partial(_ask, server, gateway, {**ASKED, "key": place.key}, times) for times in shares]
    replies = [reply for part in books.together(calls, seconds=SECONDS) for reply in part]
    told = Counter((reply.status, reply.body.get("error", reply.body).get("code")) for reply in replies)
    assert told == {(201, None): FITTING, place.refusal: REQUESTS - FITTING}
    assert {reply.body["amount_usd"] for reply in replies if reply.status == 201} == {COST}
    with books.connect() as own:
        row = own.execute(
            "SELECT held_usd, (SELECT count(*) FROM hold h WHERE h.organization_id = w.organization_id"
            " AND state = 'open'), (SELECT sum(held) FROM budget b WHERE b.organization_id = w.organization_id)"
            " FROM wallet w WHERE organization_id = %s",
            [place.organization.pk],
        ).fetchone()
    counted = None if place.refusal[0] == 402 else FITTING * COST
    assert row == (FITTING * COST, FITTING, counted)
    verify()


def _ask(server: WebServer, gateway: str, body: dict[str, Any], times: int) -> list[Reply]:
    replies = []
    with closing(Caller(port=server.port, key=gateway)) as caller:
        for _ in range(times):
            caller.send("POST", PATH, json.dumps(body).encode())
            replies.append(caller.read())
    return replies
