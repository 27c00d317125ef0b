"""Keys: their form, their life, and that their secrets are nowhere."""

import logging
import secrets
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from core import clock, logs
from core.errors import Conflict, InvalidApiKey, NotFound, OutOfRange
from orgs import keys, organizations
from orgs.models import ApiKey, AuditEntry, Kind, Organization
from tests.books import Books
from tests.orgs import world
from tests.proofs import proves

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def decode(text: str) -> int:
    """Base62 read the other way."""
    number = 0
    for letter in text:
        number = number * 62 + BASE62.index(letter)
    return number


def test_a_secret_is_a_prefix_32_random_bytes_and_a_checksum_over_both() -> None:
    secret = keys.new_secret()
    assert secret.startswith("dtk_")
    assert len(secret) == 4 + 43 + 6
    assert decode(secret[4:47]) < 1 << 256
    assert decode(secret[47:]) == zlib.crc32(secret[:47].encode())


def test_no_two_secrets_are_alike() -> None:
    assert len({keys.new_secret() for _ in range(1000)}) == 1000


def test_a_small_random_number_is_padded_to_the_full_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda length: bytes(length - 1) + b"\x07")
    secret = keys.new_secret()
    assert secret[4:47] == "0" * 42 + "7"
    assert keys.well_formed(secret)


@given(place=st.integers(0, 52), letter=st.sampled_from(BASE62))
def test_one_wrong_character_is_noticed_without_asking_anybody(place: int, letter: str) -> None:
    secret = keys.new_secret()
    changed = secret[:place] + letter + secret[place + 1 :]
    assert keys.well_formed(changed) == (changed == secret)


@pytest.mark.parametrize(
    "change", [str.upper, lambda s: s + " ", lambda s: s[:-1], lambda s: s + "0", lambda s: "\n" + s]
)
def test_a_secret_in_another_shape_is_not_well_formed(change: Any) -> None:
    assert not keys.well_formed(change(keys.new_secret()))


def test_the_log_filter_knows_the_shape() -> None:
    secret = keys.new_secret()
    assert logs.redact(f"key {secret}, twice {secret}") == "key dtk_[redacted], twice dtk_[redacted]"


@pytest.mark.django_db
@proves("A07", guard="checksums_are_checked_first")
@pytest.mark.parametrize("secret", ["", "dtk_", "sk-abc", "dtk_" + "0" * 49, "ключ", "dtk_" + "\x00" * 49])
def test_a_malformed_secret_is_refused_before_anything_is_looked_up(
    secret: str, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0), pytest.raises(InvalidApiKey):
        keys.verify(secret)


@pytest.mark.django_db
def test_a_well_formed_secret_that_nobody_issued_is_refused() -> None:
    with pytest.raises(InvalidApiKey):
        keys.verify(keys.new_secret())


@proves("A07", guard="only_the_digest_is_stored")
def test_how_near_a_guess_comes_shows_in_nothing_that_is_compared(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes(range(1, count + 1)))
    issued = world.organization_key(world.organization())
    stored = keys.digest(issued.secret)
    for place in range(len(keys.PREFIX), len(keys.PREFIX) + keys.BODY_LENGTH):
        body = issued.secret[: -keys.CHECK_LENGTH]
        near = body[:place] + ("a" if body[place] != "a" else "b") + body[place + 1 :]
        guess = near + keys._checksum(near)
        assert keys.well_formed(guess)
        with CaptureQueriesContext(connection) as asked, pytest.raises(InvalidApiKey):
            keys.verify(guess)
        # One look-up of the guess as a whole, whichever character is wrong.
        looked_up = [query["sql"] for query in asked.captured_queries if "api_key" in query["sql"]]
        assert len(looked_up) == 1
        assert f"\\x{keys.digest(guess).hex()}" in looked_up[0]
        # What is compared begins as differently as any two digests do.
        assert keys.digest(guess)[:2] != stored[:2], place
    assert keys.verify(issued.secret).id == issued.key.pk


@pytest.mark.django_db
def test_a_key_is_found_by_its_secret_with_all_its_facts() -> None:
    acme = world.organization()
    issued = world.organization_key(
        acme, scopes=["keys:manage"], models=["gpt-5", "deepai-chat"], cidrs=["203.0.113.0/24", "2001:db8::/32"]
    )
    facts = keys.verify(issued.secret)
    assert (facts.id, facts.kind, facts.organization_id) == (issued.key.pk, Kind.ORGANIZATION, acme.pk)
    assert facts.scopes == {"keys:manage"}
    assert facts.models == {"gpt-5", "deepai-chat"}
    assert [str(each) for each in facts.networks] == ["203.0.113.0/24", "2001:db8::/32"]
    assert not facts.revoked


def test_a_known_key_is_verified_without_a_query(books: Books, django_assert_num_queries: Any) -> None:
    issued = world.organization_key(world.organization())
    keys.verify(issued.secret)
    with django_assert_num_queries(0):
        for _ in range(20):
            keys.verify(issued.secret)


def test_a_revoked_key_is_refused_at_once_in_the_process_that_revoked_it(books: Books) -> None:
    issued = world.organization_key(world.organization())
    keys.verify(issued.secret)
    keys.revoke(key_id=issued.key.pk, by=world.BY)
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)


@proves("A08", guard="revocation_reaches_every_process")
def test_a_revoked_key_stops_within_a_second_in_every_other_process(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = world.organization_key(world.organization())
    keys.verify(issued.secret)
    # What this process does not hear of itself is what another process would hear.
    monkeypatch.setattr(transaction, "on_commit", lambda *_, **__: None)
    keys.revoke(key_id=issued.key.pk, by=world.BY)
    revoked = clock.now()
    end = revoked + timedelta(seconds=1)
    last = revoked
    while clock.now() < end:
        try:
            keys.verify(issued.secret)
            last = clock.now()
        except InvalidApiKey:
            break
    assert last - revoked < timedelta(seconds=1)
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)


@pytest.mark.django_db
def test_a_key_expires_by_the_clock_although_it_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    end = clock.now() + timedelta(minutes=5)
    issued = world.organization_key(world.organization(), expires_at=end)
    keys.verify(issued.secret)
    monkeypatch.setattr(clock, "now", lambda: end - timedelta(microseconds=1))
    keys.verify(issued.secret)
    monkeypatch.setattr(clock, "now", lambda: end)
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)


@pytest.mark.django_db
def test_rotation_replaces_the_secret_and_nothing_else() -> None:
    issued = world.organization_key(world.organization(), scopes=["keys:manage"], models=["gpt-5"])
    keys.verify(issued.secret)
    rotated = keys.rotate(key_id=issued.key.pk, by=world.BY)
    assert rotated.secret != issued.secret
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)
    facts = keys.verify(rotated.secret)
    assert facts.id == issued.key.pk
    assert facts.scopes == {"keys:manage"}
    assert facts.models == {"gpt-5"}
    assert ApiKey.objects.get(pk=issued.key.pk).last_four == rotated.secret[-4:]


@pytest.mark.django_db
def test_a_revoked_key_cannot_be_rotated_back_to_life() -> None:
    issued = world.organization_key(world.organization())
    keys.revoke(key_id=issued.key.pk, by=world.BY)
    with pytest.raises(Conflict):
        keys.rotate(key_id=issued.key.pk, by=world.BY)


@pytest.mark.django_db
def test_revoking_twice_is_revoking_once() -> None:
    issued = world.organization_key(world.organization())
    first = keys.revoke(key_id=issued.key.pk, by=world.BY)
    second = keys.revoke(key_id=issued.key.pk, by=world.BY)
    assert first.revoked_at == second.revoked_at
    assert AuditEntry.objects.filter(verb="key.revoked").count() == 1


@pytest.mark.django_db
def test_a_deleted_key_is_out_of_reach_and_its_row_stays_for_its_usage() -> None:
    issued = world.organization_key(world.organization())
    keys.delete(key_id=issued.key.pk, by=world.BY)
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)
    for verb in (keys.delete, keys.rotate, keys.revoke):
        with pytest.raises(NotFound):
            verb(key_id=issued.key.pk, by=world.BY)
    facts = keys.find([issued.key.pk])[issued.key.pk]
    assert facts.revoked
    assert facts.organization_id == issued.key.organization_id


@pytest.mark.django_db
def test_keys_are_found_by_id_in_one_query_and_made_up_ids_are_left_out(django_assert_num_queries: Any) -> None:
    acme = world.organization()
    issued = [world.organization_key(acme).key.pk for _ in range(5)]
    with django_assert_num_queries(1):
        found = keys.find([*issued, UUID(int=0)])
    assert set(found) == set(issued)


@pytest.mark.django_db
def test_a_person_made_inactive_loses_their_keys() -> None:
    ada = world.person()
    issued = world.personal_key(ada)
    keys.verify(issued.secret)
    ada.is_active = False
    organizations.keep_user(ada, by=world.BY, changed=["is_active"], new=False)
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)


@pytest.mark.django_db
def test_a_closed_organization_has_no_keys_that_work() -> None:
    acme = world.organization()
    issued = world.organization_key(acme)
    Organization.objects.filter(pk=acme.pk).update(closed_at=clock.now())
    with pytest.raises(InvalidApiKey):
        keys.verify(issued.secret)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "nul\x00"}, "name"),
        ({"name": f"my {keys.new_secret()}"}, "name"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": ["events:write"]}, "scopes"),
        ({"models": [""]}, "models"),
        ({"models": ["x" * 201]}, "models"),
        ({"models": ["nul\x00"]}, "models"),
        ({"models": [f"m{number}" for number in range(101)]}, "models"),
        ({"cidrs": ["203.0.113.7/24"]}, "cidrs"),
        ({"cidrs": ["everywhere"]}, "cidrs"),
        ({"cidrs": ["1" * 65]}, "cidrs"),
        ({"cidrs": ["10.0.0.0/8"] * 101}, "cidrs"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
    ],
)
def test_a_key_with_a_value_that_is_not_allowed_is_not_made(options: dict[str, Any], param: str) -> None:
    acme = world.organization()
    with pytest.raises(OutOfRange) as refusal:
        world.organization_key(acme, **options)
    assert refusal.value.param == param
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_a_service_key_takes_a_gateways_scopes_and_no_customers() -> None:
    world.service_key("events:write")
    with pytest.raises(OutOfRange):
        world.service_key("keys:manage")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        {"kind": "service"},
        {"kind": "personal"},
        {"kind": "other"},
        {"organization_id": None},
        {"trust_client_header": True},
        {"organizations": [UUID(int=1)]},
        {"deleted_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"digest": b"short"},
    ],
)
def test_the_database_refuses_a_key_whose_columns_contradict_its_kind(change: dict[str, Any]) -> None:
    issued = world.organization_key(world.organization())
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=issued.key.pk).update(**change)


@pytest.mark.django_db
def test_every_change_of_a_key_leaves_an_audit_row() -> None:
    acme = world.organization()
    issued = world.organization_key(acme, scopes=["keys:manage"])
    keys.rotate(key_id=issued.key.pk, by=world.BY)
    keys.revoke(key_id=issued.key.pk, by=world.BY)
    keys.delete(key_id=issued.key.pk, by=world.BY)
    rows = AuditEntry.objects.for_org(acme.pk).filter(subject_type="api_key").order_by("at")
    assert [row.verb for row in rows] == ["key.issued", "key.rotated", "key.revoked", "key.deleted"]
    assert rows[0].details["scopes"] == ["keys:manage"]


def test_issuing_is_undone_with_the_transaction_it_joined(books: Books) -> None:
    acme = world.organization()
    issued: list[str] = []

    def issue_and_fail() -> None:
        with transaction.atomic():
            issued.append(world.organization_key(acme).secret)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        issue_and_fail()
    with pytest.raises(InvalidApiKey):
        keys.verify(issued[0])
    assert not AuditEntry.objects.filter(verb="key.issued").exists()


@proves("A06", guard="only_the_digest_is_stored")
def test_no_table_holds_a_secret_or_the_random_part_of_one(books: Books) -> None:
    ada = world.person()
    acme = world.organization(owner=ada)
    issued = [
        world.organization_key(acme, name="ours"),
        world.personal_key(ada),
        world.service_key(organizations=[acme.pk]),
        keys.rotate(key_id=world.organization_key(acme).key.pk, by=world.BY),
    ]
    dump = everything(books)
    assert ada.email in dump, "the dump is not the whole database"
    for each in issued:
        # A part that is long enough to be no accident.
        assert each.secret[4:24] not in dump
        assert each.key.name in dump


@proves("A06", guard="secrets_are_cut_from_logs")
def test_a_secret_that_is_logged_or_raised_is_cut_out(books: Books, capfd: pytest.CaptureFixture[str]) -> None:
    issued = world.organization_key(world.organization())
    handler = logging.StreamHandler()
    handler.addFilter(logs.Redact())
    log = logging.getLogger("tests.secrets")
    log.addHandler(handler)
    try:
        log.error("key %s", issued.secret)
        log.error("issued %r", issued)
        try:
            raise ValueError(f"bad {issued.secret}")
        except ValueError:
            log.exception("failed")
    finally:
        log.removeHandler(handler)
    written = capfd.readouterr().err
    assert "failed" in written
    assert issued.secret not in written
    assert issued.secret[4:47] not in written


def test_the_secret_is_not_in_the_representation_of_what_was_issued() -> None:
    secret = keys.new_secret()
    assert secret not in repr(keys.IssuedKey(key=ApiKey(name="x", last_four="abcd"), secret=secret))


def everything(books: Books) -> str:
    """All rows of all tables as text, bytes in hexadecimal and as characters."""
    parts = []
    with books.connect() as own:
        tables = own.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        for (table,) in tables:
            rows = own.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall()
            parts += [row for (row,) in rows]
            parts += _bytes(own, table)
    return "\n".join(parts)


def _bytes(own: psycopg.Connection, table: str) -> list[str]:
    """Binary columns read as characters, in case text was stored in them."""
    columns = own.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND atttypid = 'bytea'::regtype AND attnum > 0",
        (table,),
    ).fetchall()
    found = []
    for (column,) in columns:
        query = sql.SQL("SELECT encode({0}, 'escape') FROM {1} WHERE {0} IS NOT NULL").format(
            sql.Identifier(column), sql.Identifier(table)
        )
        found += [text for (text,) in own.execute(query).fetchall()]
    return found


def test_the_search_for_secrets_finds_what_is_there(books: Books) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE leak (digest bytea, note text)")
        cursor.execute("INSERT INTO leak VALUES ('dtk_inbytes', 'dtk_intext')")
    assert "dtk_inbytes" in everything(books)
    assert "dtk_intext" in everything(books)
