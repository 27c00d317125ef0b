"""Limits of keys and organizations: who sets them, and what is kept."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from core import ids
from core.errors import OutOfRange
from orgs import ratelimits
from orgs.models import AuditEntry, RateLimit
from orgs.ratelimits import Limits
from tests import desk
from tests.orgs import world

pytestmark = pytest.mark.django_db


def put(subject: Any, **told: int) -> RateLimit:
    return ratelimits.put(subject=subject, limits=Limits(**told), by=world.BY)


def test_a_subject_has_one_row_and_its_changes_are_in_the_trail() -> None:
    acme = world.organization()
    key = world.organization_key(acme).key
    put(acme, requests=2, tokens=10)
    put(acme, concurrency=3)
    put(key, requests=5)
    assert ratelimits.find((acme.pk, key.pk)) == {acme.pk: Limits(concurrency=3), key.pk: Limits(requests=5)}
    assert ratelimits.stored((acme.pk, key.pk)) == ratelimits.find((acme.pk, key.pk))
    assert RateLimit.objects.count() == 2
    trail = AuditEntry.objects.filter(verb="rate_limit.changed", organization=acme).order_by("id")
    assert [each.details for each in trail] == [
        {"before": None, "after": [2, 10, None]},
        {"before": [2, 10, None], "after": [None, None, 3]},
        {"before": None, "after": [5, None, None]},
    ]


def test_limits_that_make_no_sense_are_refused() -> None:
    acme = world.organization()
    for told in ({"requests": 0}, {"tokens": -1}, {"concurrency": 2**31}):
        with pytest.raises(OutOfRange) as refused:
            put(acme, **told)
        assert [refused.value.param] == list(told)
    with pytest.raises(OutOfRange):
        put(world.service_key().key, requests=1)
    for wrong in (RateLimit(), RateLimit(organization=acme, requests_per_minute=0)):
        with pytest.raises(IntegrityError), transaction.atomic():
            wrong.save(force_insert=True)


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("limit_calls", *words, stdout=out)
    return out.getvalue()


def test_the_command_sets_all_three() -> None:
    acme = world.organization()
    key = world.organization_key(acme).key
    assert run("--organization", "Acme-Labs", "--requests", "600") == (
        "acme-labs: requests 600, tokens any, concurrency any\n"
    )
    run("--key", ids.show("key", key.pk), "--tokens", "7", "--concurrency", "1")
    assert ratelimits.find((acme.pk, key.pk)) == {acme.pk: Limits(600), key.pk: Limits(None, 7, 1)}
    for words, said in (
        (("--organization", "nobody"), "no such organization"), (("--key", "key_x"), "no such api_key"),
        (("--organization", "acme-labs", "--tokens", "0"), "tokens lies between"),
    ):  # fmt: skip
        with pytest.raises(CommandError, match=said):
            run(*words)


def test_the_desk_sets_them() -> None:
    acme = world.organization()
    client = desk.superuser()
    place = "/admin/orgs/ratelimit/set/"
    desk.send(client, place, organization="acme-labs", api_key="", requests="9", tokens="", concurrency="")
    assert ratelimits.find((acme.pk,)) == {acme.pk: Limits(requests=9)}
    refused = desk.send(client, place, organization="", api_key="", requests="9", tokens="", concurrency="")
    assert desk.errors(refused) == ["Name an organization or a key."]
    assert "acme-labs" in desk.read(client, desk.listing(RateLimit)).text
