"""``POST /v1/events/{event_id}/void`` through HTTP (contract 16.4)."""

import json
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from billing.models import Correction, Transfer, Wallet
from core import ids
from metering.models import Quarantine, UsageRecord
from orgs.models import AuditEntry
from tests.billing import world as billing
from tests.books import Books
from tests.journeys import neighbours
from tests.journeys.neighbours import EVENTS, Caller, House
from tests.orgs import world
from tests.proofs import proves
from tests.server import WebServer

WHY = {"reason": "sent by mistake"}


@pytest.fixture
def acme(books: Books) -> House:
    """An organization with 9.99706 USD left of 10 and a gateway that may report for no other."""
    return neighbours.house("acme-labs", documented=False)


@pytest.fixture
def gateway(acme: House) -> Caller:
    """The gateway, which names its organization in the header."""
    return acme.gateway


@pytest.fixture
def anyone(acme: House) -> Caller:
    """A gateway that may report for everybody and names nobody."""
    return Caller("anyone", world.service_key(name="anyone").secret)


def report(by: Caller, event_id: str, *, status: int = 201, **told: Any) -> Any:
    """The answer to an event."""
    answer = by.post(EVENTS, neighbours.event(event_id, **told))
    assert answer.status_code == status, answer.content
    return answer.json()


def void(by: Caller, event_id: str, body: Any = WHY, **options: Any) -> Any:
    """The answer to a void."""
    return by.post(f"{EVENTS}/{quote(event_id, safe='')}/void", body, **options)


def refusal(answer: Any) -> tuple[int, str, str | None, str]:
    """Status, code, parameter and message of a refusal."""
    assert answer.status_code >= 400, answer.content
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"], error["message"]


UNKNOWN = (404, "not_found", "event_id", "No event with that id was accepted for this organization.")


def balance(of: House) -> Decimal:
    """What the wallet has."""
    wallet = Wallet.objects.get(pk=of.organization.pk)
    return Decimal(wallet.posted_usd - wallet.overdraft_usd)


def test_a_void_takes_the_charge_back_and_the_first_record_stays(acme: House, gateway: Caller) -> None:
    made = report(gateway, "gw-1", cached_input_tokens=640)
    assert balance(acme) == Decimal("9.996698")
    first = UsageRecord.objects.get(event_id="gw-1")
    answer = void(gateway, "gw-1")
    assert answer.status_code == 201
    told = json.loads(answer.content, parse_float=Decimal)
    back = told.pop("usage_record_id")
    assert told == {
        "object": "event_void", "event_id": "gw-1", "status": "voided", "corrects": made["usage_record_id"],
        "cost_usd": Decimal("-0.000362"),
        "wallet": {"organization": "acme-labs", "balance_usd": Decimal("9.99706"), "status": "active"},
    }  # fmt: skip
    record = UsageRecord.objects.get(pk=ids.read("usage", back))
    assert (record.corrects_id, record.cost_usd) == (first.pk, Decimal("-0.000362"))
    assert (record.input_tokens, record.cached_input_tokens, record.output_tokens) == (-1000, -640, -200)
    assert record.transfer_id is not None
    returned = Transfer.objects.get(pk=record.transfer_id)
    assert (returned.kind, returned.amount_usd, returned.reason) == ("void", Decimal("0.000362"), "sent by mistake")
    again = UsageRecord.objects.get(pk=first.pk)
    assert vars(again) | {"_state": None} == vars(first) | {"_state": None}
    entry = AuditEntry.objects.get(verb="usage.voided")
    assert entry.actor_id == ids.show("key", acme.keys["service"].key.pk)
    assert entry.details == {"event_id": "gw-1", "reason": "sent by mistake", "cost_usd": "-0.000362"}
    listed = acme.callers["organization"].get("/v1/usage", limit="2").json()["data"]
    assert [(each["id"], each["cost_usd"]) for each in listed] == [
        (back, -Decimal("0.000362")), (made["usage_record_id"], Decimal("0.000362")),
    ]  # fmt: skip
    billing.assert_sound()


def test_voiding_again_is_the_first_answer_with_200(acme: House, gateway: Caller) -> None:
    report(gateway, "gw-1")
    first, second = void(gateway, "gw-1"), void(gateway, "gw-1", {"reason": "another reason"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert Correction.objects.get().reason == "sent by mistake"
    assert balance(acme) == Decimal("9.99706")
    billing.assert_sound()


def test_voids_side_by_side_are_one(books: Books, acme: House, gateway: Caller) -> None:
    report(gateway, "gw-1")
    answers = books.together([lambda: void(Caller("same", gateway.secret, "acme-labs"), "gw-1") for _ in range(8)])
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["usage_record_id"] for answer in answers}) == 1
    assert Correction.objects.count() == 1
    assert balance(acme) == Decimal("9.99706")


def test_a_voided_event_sent_again_is_a_duplicate_and_costs_nothing(acme: House, gateway: Caller) -> None:
    sent = neighbours.event("gw-1")
    gateway.post(EVENTS, sent)
    void(gateway, "gw-1")
    answer = gateway.post(EVENTS, sent)
    assert (answer.status_code, answer.json()["status"]) == (200, "duplicate")
    assert answer.json()["wallet"]["balance_usd"] == Decimal("9.99706")


@pytest.mark.parametrize("event_id", ["gw-never", "x" * 128, "x" * 129, "two words", "naïve", "\x00", "😀", "gw-1 "])
def test_an_event_that_nobody_accepted_is_a_404_that_names_the_parameter(
    acme: House, gateway: Caller, event_id: str
) -> None:
    report(gateway, "gw-1")
    assert refusal(void(gateway, event_id)) == UNKNOWN
    assert Correction.objects.count() == 0


def test_a_quarantined_event_is_withdrawn_and_nothing_was_charged(acme: House, gateway: Caller) -> None:
    report(gateway, "gw-1", status=202, model="not-in-the-catalog")
    assert Quarantine.objects.get().resolved_at is None
    answers = [void(gateway, "gw-1"), void(gateway, "gw-1")]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json() == {
        "object": "event_void", "event_id": "gw-1", "status": "voided", "usage_record_id": None, "corrects": None,
        "cost_usd": 0, "wallet": {"organization": "acme-labs", "balance_usd": Decimal("9.99706"), "status": "active"},
    }  # fmt: skip
    assert Quarantine.objects.get().resolved_at is not None
    assert Correction.objects.count() == 0


def test_an_event_that_waits_for_an_unknown_key_is_withdrawn_too(acme: House, anyone: Caller) -> None:
    unknown = ids.show("key", ids.new())
    report(anyone, "gw-1", status=202, organization="acme-labs", api_key_id=unknown)
    named = {**WHY, "organization": "acme-labs"}
    assert [void(anyone, "gw-1", named).status_code for _ in range(2)] == [201, 200]
    assert Quarantine.objects.get().resolved_at is not None


def test_a_failure_that_cost_nothing_has_nothing_to_take_back(acme: House, gateway: Caller) -> None:
    report(gateway, "gw-1", input_tokens=0, output_tokens=0)
    failed = {"event_id": "gw-2", "model": "gpt-4o", "occurred_at": neighbours.event("")["occurred_at"], "status": 500}
    assert gateway.post(EVENTS, failed).status_code == 201
    free, logged = void(gateway, "gw-1"), void(gateway, "gw-2")
    assert (free.status_code, free.json()["cost_usd"]) == (201, 0)
    assert free.json()["usage_record_id"].startswith("usage_")
    assert (logged.status_code, logged.json()["cost_usd"], logged.json()["usage_record_id"]) == (200, 0, None)
    assert void(gateway, "gw-1").status_code == 200
    assert balance(acme) == Decimal("9.99706")
    billing.assert_sound()


def test_the_organization_is_the_bodys_else_the_headers(acme: House, anyone: Caller) -> None:
    neighbours.house("other-inc", documented=False)
    in_other = Caller("in other", anyone.secret, "other-inc")
    for number, (by, body) in enumerate(
        [
            (anyone, {**WHY, "organization": "acme-labs"}),
            (anyone, {**WHY, "organization": " ACME-Labs "}),
            (in_other, {**WHY, "organization": "acme-labs"}),
            (Caller("in acme", anyone.secret, "Acme-Labs"), WHY),
            (Caller("in acme", anyone.secret, "acme-labs"), {**WHY, "organization": None}),
            (Caller("in acme", anyone.secret, "acme-labs"), {**WHY, "organization": ""}),
        ]
    ):
        # The same id exists in both, and only the one that is named is voided.
        report(anyone, f"gw-{number}", organization="acme-labs")
        report(anyone, f"gw-{number}", organization="other-inc")
        answer = void(by, f"gw-{number}", body)
        assert (answer.status_code, answer.json()["wallet"]["organization"]) == (201, "acme-labs"), number
    assert set(Correction.objects.values_list("organization_id", flat=True)) == {acme.organization.pk}
    assert balance(acme) == Decimal("9.99706")


@pytest.mark.parametrize(
    ("body", "header", "said"),
    [
        ({}, "", (400, "missing_required_parameter", "reason", "reason is required.")),
        ({"reason": None}, "", (400, "missing_required_parameter", "reason", "reason is required.")),
        ({"reason": 7}, "acme-labs", (400, "invalid_type", "reason", "reason must be a string.")),
        (
            {"reason": " "}, "acme-labs",
            (422, "value_out_of_range", "reason", "reason says why, in 1 to 500 characters."),
        ),
        (
            {"reason": "x" * 501}, "acme-labs",
            (422, "value_out_of_range", "reason", "reason says why, in 1 to 500 characters."),
        ),
        (
            {"reason": "a\x00b"}, "acme-labs",
            (422, "value_out_of_range", "reason", "reason says why, in 1 to 500 characters."),
        ),
        (
            WHY, "",
            (
                400, "missing_required_parameter", "organization",
                "organization is required, or X-DeepToken-Org.",
            ),
        ),
        ({**WHY, "organization": 7}, "", (400, "invalid_type", "organization", "organization must be a string.")),
        (
            {**WHY, "organization": "no-such"}, "",
            (403, "org_access_denied", "organization", "No organization with that slug is open to this key."),
        ),
        (
            WHY, "no-such",
            (403, "org_access_denied", "X-DeepToken-Org", "No organization with that slug is open to this key."),
        ),
        (
            WHY, "a,b",
            (403, "org_access_denied", "X-DeepToken-Org", "No organization with that slug is open to this key."),
        ),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_by_the_name_of_its_field(
    anyone: Caller, body: Any, header: str, said: tuple[int, str, str, str]
) -> None:
    report(anyone, "gw-1", organization="acme-labs")
    by = Caller("anyone", anyone.secret, header)
    assert refusal(void(by, "gw-1", body)) == said
    assert Correction.objects.count() == 0


@proves("A01", guard="limited_gateways_void_their_own")
def test_a_gateway_voids_only_for_the_organizations_that_its_key_is_limited_to(acme: House, gateway: Caller) -> None:
    theirs = neighbours.house("other-inc", documented=False)
    event_id = theirs.shown("event")[0]
    before = balance(theirs)
    denied = "No organization with that slug is open to this key."
    for slug in ("other-inc", "no-such-organization"):
        said = refusal(void(gateway, event_id, {**WHY, "organization": slug}))
        assert said == (403, "org_access_denied", "organization", denied)
        said = refusal(void(Caller("named", gateway.secret, slug), event_id))
        assert said == (403, "org_access_denied", "X-DeepToken-Org", denied)
    # Within its own organization the neighbour's event does not exist.
    assert refusal(void(gateway, event_id)) == UNKNOWN
    assert (balance(theirs), Correction.objects.count()) == (before, 0)


def test_it_takes_a_service_key_that_may_write_events(acme: House) -> None:
    event_id = acme.shown("event")[0]
    for name in ("organization", "owner", "plain", "viewer"):
        answer = void(acme.callers[name], event_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    other = Caller("other", world.service_key("authorizations:write").secret, "acme-labs")
    answer = void(other, event_id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")
    assert Correction.objects.count() == 0


ODD = [
    "a/b", "/a", "a/", "//a//b//", "void", "a/void", "/void", "a/void/void", "litellm", "../../etc", "./a", "..",
    "a%2Fb", "%41", "%", "%%", "100%25", "a?b=c", "a#b", "a;b=c", "a&b", "a+b", "a=b:c@d", "~!$'()*,", '"<>[]^`{|}\\',
]  # fmt: skip


@pytest.mark.parametrize("event_id", ODD)
def test_an_id_of_any_visible_characters_is_voided_under_that_id(acme: House, gateway: Caller, event_id: str) -> None:
    report(gateway, event_id)
    answer = void(gateway, event_id)
    assert (answer.status_code, answer.json()["event_id"]) == (201, event_id)
    assert balance(acme) == Decimal("9.99706")


def test_odd_ids_arrive_whole_through_the_real_server(acme: House, gateway: Caller, server: WebServer) -> None:
    with httpx.Client(base_url=server.base_url, headers=gateway.headers, timeout=30) as client:
        for event_id in ODD:
            made = client.post(EVENTS, json=neighbours.event(event_id))
            assert made.status_code == 201, made.text
            escaped = quote(event_id, safe="").replace(".", "%2E")
            answer = client.post(f"{EVENTS}/{escaped}/void", json=WHY)
            assert (answer.status_code, answer.json().get("event_id")) == (201, event_id), answer.text
            assert answer.json()["corrects"] == made.json()["usage_record_id"]
        # A slash need not be escaped.
        client.post(EVENTS, json=neighbours.event("plain/slashes/here"))
        answer = client.post(f"{EVENTS}/plain/slashes/here/void", json=WHY)
        assert (answer.status_code, answer.json()["event_id"]) == (201, "plain/slashes/here")
        assert answer.json(parse_float=Decimal)["wallet"]["balance_usd"] == Decimal("9.99706")
