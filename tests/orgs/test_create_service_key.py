"""``manage.py create_service_key``."""

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from core import ids
from orgs import keys
from orgs.models import ApiKey, AuditEntry
from tests.orgs import world


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("create_service_key", *words, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_the_answer_in_json_is_the_secret_and_the_id_of_a_working_key() -> None:
    made = json.loads(run("gateway-1", "--scopes", "events:write", "authorizations:write", "--json"))
    assert set(made) == {"service_key", "api_key_id"}
    facts = keys.verify(made["service_key"])
    assert ids.show("key", facts.id) == made["api_key_id"]
    assert (facts.kind, facts.name) == ("service", "gateway-1")
    assert facts.scopes == {"events:write", "authorizations:write"}
    assert not facts.organizations
    assert not facts.trust_client_header
    row = AuditEntry.objects.get(verb="key.issued")
    assert (row.actor_kind, row.actor_label) == ("system", "create_service_key")


@pytest.mark.django_db
def test_limits_and_trust_are_kept() -> None:
    acme, other = world.organization("acme-labs"), world.organization("other")
    words = ("--scopes", "events:write", "--organizations", "acme-labs,other", "--trust-client-header", "--json")
    facts = keys.verify(json.loads(run("proxy", *words, "--cidrs", "10.0.0.0/8"))["service_key"])
    assert facts.organizations == {acme.pk, other.pk}
    assert facts.trust_client_header
    assert [str(each) for each in facts.networks] == ["10.0.0.0/8"]


@pytest.mark.django_db
def test_for_a_person_the_secret_stands_on_a_line_of_its_own() -> None:
    lines = run("gateway-1", "--scopes", "events:write,authorizations:write").splitlines()
    assert lines[0].startswith("key_")
    assert keys.verify(lines[1]).scopes == {"events:write", "authorizations:write"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x", "--scopes", "keys:manage"), "no scope 'keys:manage'"),
        (("x", "--scopes", "events:write", "--organizations", "nobody"), "no organization nobody"),
        (("x", "--scopes", "events:write", "--cidrs", "everywhere"), "cidrs"),
        (("", "--scopes", "events:write"), "name"),
        (("x",), "--scopes"),
    ],
)
def test_a_wrong_wish_is_one_line_that_says_what_is_wrong(words: Any, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(*words)
    assert not ApiKey.objects.exists()
