"""The admin as a person at the desk meets it: pages read whole, and what they ask of the database."""

import json
import re
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import grants
from core import ids
from orgs import audit, caches
from orgs.models import Organization, User
from tests.orgs import world

PASSWORD = "correct horse battery staple"
WHY = "asked for on the phone"
MODEL = "deepseek-chat"
# Tables whose database key leads with the organization.
KEYED = re.compile(r"(usage_record|request_log|usage_claim|transfer|credit_grant|grant_use|hold)(_[0-9_]+)?")
_COUNT = re.compile(r"\bCOUNT\s*\(", re.IGNORECASE)


class Desk(Client):
    """Somebody at the desk. Whatever they do they say why, unless a test says otherwise."""

    def post(self, path: Any, data: Any = None, *args: Any, **more: Any) -> Any:
        """Send a form."""
        told = {"reason": WHY, **(data or {})} if data is None or isinstance(data, dict) else data
        return super().post(path, told, *args, **more)


class Page(NamedTuple):
    """A page as it was read, after redirects."""

    address: str
    text: str
    queries: list[str]
    context: Any

    @property
    def rows(self) -> list[Any]:
        """What a list shows."""
        return list(self.context["cl"].result_list)


def superuser(email: str = "root@example.com") -> Desk:
    """Somebody who may see everything, signed in."""
    client = Desk()
    client.force_login(User.objects.create_superuser(email, PASSWORD))
    return client


def come_back(client: Client, email: str = "root@example.com") -> None:
    """Sign in again, after so much time that a session at the desk has ended."""
    client.force_login(User.objects.get(email=email))


def clerk(*rights: str, email: str = "clerk@example.com") -> Desk:
    """Somebody at the desk with some rights, signed in."""
    person = User.objects.create_user(email, PASSWORD, is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Desk()
    client.force_login(person)
    return client


def read(client: Client, address: str, **query: str) -> Page:
    """Read a page. Whatever processes remember is asked again, so queries can be counted."""
    caches.forget_all()
    with CaptureQueriesContext(connection) as seen:
        answer = client.get(address, query, follow=True)
    assert answer.status_code == 200, (address, query, answer.content[:300])
    place = answer.redirect_chain[-1][0] if answer.redirect_chain else address
    return Page(place, answer.content.decode(), _asked(seen), answer.context)


def send(client: Client, address: str, **told: str) -> Page:
    """Press a button or send a form, and read where it leads."""
    with CaptureQueriesContext(connection) as seen:
        answer = client.post(address, told, follow=True)
    assert answer.status_code == 200, (address, told, answer.content[:300])
    place = answer.redirect_chain[-1][0] if answer.redirect_chain else address
    return Page(place, answer.content.decode(), _asked(seen), answer.context)


def _asked(seen: CaptureQueriesContext) -> list[str]:
    """What a page asked, but for how new the caches are: that is asked twice where a page takes half a second."""
    return [query["sql"] for query in seen if '"cache_epoch"' not in query["sql"]]


def actor(email: str = "root@example.com") -> audit.Actor:
    """A person at the desk, as verbs are told."""
    return audit.user(User.objects.get(email=email))


def said(shown: Page) -> list[str]:
    """The messages above a page, each with its kind, without markup."""
    found = re.findall(r'<li class="(success|warning|error|info)">(.*?)</li>', shown.text, re.DOTALL)
    return [f"{kind}: {re.sub('<[^>]*>', '', text).strip()}" for kind, text in found]


def buttons(shown: Page) -> list[str]:
    """What the buttons above a page say."""
    tools = re.search(r'<ul class="object-tools">(.*?)</ul>', shown.text, re.DOTALL)
    return [] if tools is None else re.findall(r"<a [^>]*>(.*?)</a>", tools[1])


def errors(shown: Page) -> list[str]:
    """What a form says is wrong with it."""
    lists = re.findall(r'<ul class="errorlist[^>]*>(.*?)</ul>', shown.text, re.DOTALL)
    return re.findall(r"<li>(.*?)</li>", "".join(lists))


def cells(text: str) -> list[list[str]]:
    """The lines of a page's tables, each cell without markup."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    return [
        [re.sub("<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)]
        for line in lines
    ]


def listing(model: type[Model]) -> str:
    """The address of a model's list."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def page(row: Model, kind: str = "change") -> str:
    """The address of a row's page; by organization and id where that is the database's key."""
    key: Any = row.pk
    if KEYED.fullmatch(row._meta.db_table):
        key = f"{ids.show('org', row.organization_id)}:{row}"  # type: ignore[attr-defined]
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{kind}", args=[key])


def counting(pages: Iterable[Page]) -> list[str]:
    """Statements that count rows."""
    return [query for each in pages for query in each.queries if _COUNT.search(query)]


def unkeyed(queries: Sequence[str]) -> list[str]:
    """Statements that read a keyed table other than by its organization, though an index could have been used."""
    found = []
    with transaction.atomic(), connection.cursor() as cursor:
        # The tables of a test are so small that reading them whole is the better plan.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            cursor.execute(f"SET LOCAL enable_{way} = off")
        for query in queries:
            if KEYED.search(query) and query.startswith("SELECT"):
                cursor.execute(f"EXPLAIN (FORMAT JSON) {query}")
                (plan,) = cursor.fetchone()
                plan = json.loads(plan) if isinstance(plan, str) else plan
                if not all(map(_by_organization, _nodes(plan[0]["Plan"]))):
                    found.append(query)
    return found


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in _nodes(part))]


def _by_organization(node: dict[str, Any]) -> bool:
    """Whether a step of a plan reads no keyed table, or a range of its key."""
    table = node.get("Relation Name", "")
    if not KEYED.fullmatch(table):
        return True
    # A part of the claims without a row costs nothing either way, so its condition may stand as a filter.
    places = ("Index Cond", "Recheck Cond", *(("Filter",) if table.startswith("usage_claim_") else ()))
    # Open holds are found by who pays for them.
    return any(key in node.get(place, "") for place in places for key in ("organization_id", "payer_id"))


def organization(slug: str, *, usd: str = "10") -> Organization:
    """An organization with promotional credit."""
    made = world.organization(slug)
    with transaction.atomic():
        grants.promote(
            organization_id=made.pk,
            amount_usd=Decimal(usd),
            reference=f"welcome:{slug}",
            actor="tests",
            reason="welcome",
        )
    return made


def event(event_id: str, **told: Any) -> dict[str, Any]:
    """A finished request, a minute ago."""
    return {
        "event_id": event_id,
        "model": MODEL,
        "occurred_at": int(time.time()) - 60,
        "input_tokens": 1200,
        "output_tokens": 34,
        **told,
    }


def report(to: Organization, events: Sequence[dict[str, Any]]) -> None:
    """Post events as a gateway does, in one batch."""
    gateway = world.service_key()
    answer = Client().post(
        "/v1/events",
        json.dumps(events),
        content_type="application/json",
        headers={"Authorization": f"Bearer {gateway.secret}", "X-DeepToken-Org": to.slug},
    )
    assert answer.status_code == 200, answer.content


def use(by: Organization, count: int, *, charges: int = 1) -> None:
    """Records under that many charges, and as many failed requests and events without a price."""
    key = ids.show("key", world.organization_key(by, name=f"key of {by.slug}").key.pk)
    used = [
        event(f"evt_{number}", api_key_id=key, end_user="ada", metadata={"team": "<b>search</b>"})
        for number in range(count)
    ]
    for start in range(charges):
        report(by, used[start::charges])
    failed = [event(f"failed_{number}", status=429, output_tokens=0) for number in range(count)]
    unpriced = [event(f"unpriced_{number}", model="<script>alert(1)</script>") for number in range(count)]
    report(by, failed + unpriced)
