"""Requests that may be sent again: one effect, one answer, or a refusal that leaves no trace."""

import hashlib
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from django.db import Error, IntegrityError, OperationalError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from core import errors, ids, wire
from ops import idempotency, outbox
from ops.idempotency import Saved, canonical, fingerprint, read_key
from ops.models import IdempotencyKey, OutboxMessage
from orgs.models import Organization
from tests import desk
from tests.books import Books

BODY = {"amount_usd": 5}
SECONDS = 30


def organization(slug: str = "acme") -> Organization:
    return Organization.objects.create(slug=slug, name=slug)


def effect() -> Saved:
    """Something that must happen once; what it answers differs each time it happens."""
    made = ids.new()
    outbox.post(kind="effect", organization_id=None, key=str(made), data={})
    return Saved(201, wire.encode({"id": made}))


def effects() -> int:
    return OutboxMessage.objects.filter(kind="effect").count()


def kept() -> int:
    return IdempotencyKey.objects.count()


def ask(of: Organization, work: Callable[[], Saved] = effect, **request: Any) -> Saved:
    chosen: dict[str, Any] = {"slug": of.slug, "method": "POST", "path": "/v1/topups", "key": "k", "body": BODY}
    chosen.update(request)
    return idempotency.once(organization_id=of.pk, organization_slug=chosen.pop("slug"), work=work, **chosen)


def test_a_repeat_gets_the_first_answer_byte_for_byte_and_nothing_happens(books: Books) -> None:
    acme = organization()
    first = ask(acme, lambda: effect()._replace(content_type="application/json; v=1"))
    again = [ask(acme) for _ in range(3)]
    assert not first.replayed
    assert again == [first._replace(replayed=True)] * 3
    assert first.content_type == "application/json; v=1"
    assert effects() == kept() == 1


def test_an_answer_may_be_any_bytes(books: Books) -> None:
    acme = organization()
    for key, body in (("empty", b""), ("odd", bytes(range(256)))):
        ask(acme, lambda body=body: Saved(202, body, "application/octet-stream"), key=key)  # type: ignore[misc]
        assert ask(acme, key=key) == Saved(202, body, "application/octet-stream", replayed=True)


def test_the_key_of_another_body_or_slug_is_refused_and_still_stands_for_the_first(books: Books) -> None:
    acme = organization()
    first = ask(acme)
    for other in ({"body": {"amount_usd": 6}}, {"body": None}, {"slug": "acme-labs"}):
        with pytest.raises(errors.IdempotencyKeyReused):
            ask(acme, **other)
    assert ask(acme) == first._replace(replayed=True)
    assert effects() == 1


@pytest.mark.parametrize("other", [{"method": "PUT"}, {"path": "/v1/refunds"}, {"path": "/v1/TOPUPS"}, {"key": "K"}])
def test_a_key_stands_for_one_method_and_path(books: Books, other: Mapping[str, Any]) -> None:
    acme = organization()
    assert not ask(acme).replayed
    assert not ask(acme, **other).replayed
    assert ask(acme).replayed
    assert ask(acme, **other).replayed
    assert effects() == kept() == 2


def test_the_same_key_of_two_organizations_is_two_keys(books: Books) -> None:
    acme, umbrella = organization("acme"), organization("umbrella")
    first, other = ask(acme), ask(umbrella)
    assert first.body != other.body
    assert ask(acme) == first._replace(replayed=True)
    assert ask(umbrella) == other._replace(replayed=True)


def test_without_a_key_it_happens_each_time_and_as_a_whole(books: Books) -> None:
    acme = organization()
    assert not ask(acme, key=None).replayed
    assert not ask(acme, key=None).replayed
    with pytest.raises(errors.OrgWalletEmpty):
        ask(acme, refusing(errors.OrgWalletEmpty), key=None)
    assert (effects(), kept()) == (2, 0)


def refusing(refusal: type[BaseException]) -> Callable[[], Saved]:
    """Work that has had its effect when it refuses."""

    def work() -> Saved:
        effect()
        raise refusal

    return work


@pytest.mark.parametrize(
    "refusal",
    [
        errors.InvalidRequest, errors.InvalidApiKey, errors.OrgWalletEmpty, errors.PermissionDenied, errors.NotFound,
        errors.Conflict, errors.RequestTooLarge, errors.OutOfRange, errors.InternalError, errors.Unavailable,
        AssertionError, SystemExit, KeyboardInterrupt,
    ],
)  # fmt: skip
def test_whatever_is_raised_leaves_neither_effect_nor_key(books: Books, refusal: type[BaseException]) -> None:
    acme = organization()
    with pytest.raises(refusal):
        ask(acme, refusing(refusal))
    assert (effects(), kept()) == (0, 0)
    # Free for anything: also for another request, by another connection.
    (answer,) = books.together([lambda: ask(acme, body={"amount_usd": 6})])
    assert not answer.replayed
    assert (effects(), kept()) == (1, 1)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429])
def test_a_refusal_that_is_returned_keeps_its_effect_but_no_answer(books: Books, status: int) -> None:
    acme = organization()
    assert ask(acme, lambda: effect()._replace(status=status)).status == status
    assert (effects(), kept()) == (1, 0)
    assert not ask(acme).replayed
    assert ask(acme).replayed
    assert effects() == 2


@pytest.mark.parametrize("key", ["k", None])
def test_a_fault_that_is_returned_is_a_bug_and_leaves_nothing(books: Books, key: str | None) -> None:
    acme = organization()
    with pytest.raises(AssertionError, match="a fault is raised"):
        ask(acme, lambda: effect()._replace(status=500), key=key)
    assert (effects(), kept()) == (0, 0)


def test_a_connection_that_dies_before_the_commit_leaves_nothing_and_blocks_nobody(books: Books) -> None:
    acme = organization()

    def cut() -> Saved:
        answer = effect()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (backend,) = cursor.fetchone()
        with books.connect() as other:
            # Waits until it is gone.
            assert other.execute("SELECT pg_terminate_backend(%s, 30000)", [backend]).fetchone() == (True,)
        return answer

    with pytest.raises(OperationalError):
        ask(acme, cut)
    connection.close()
    assert (effects(), kept()) == (0, 0)
    assert not ask(acme).replayed
    assert (effects(), kept()) == (1, 1)


def test_of_eight_side_by_side_one_works_and_seven_are_refused_at_once(books: Books) -> None:
    acme = organization()
    refused = threading.Semaphore(0)

    def slow() -> Saved:
        answer = effect()
        # Ends only after everybody else has been answered, so nobody can have waited for it.
        assert all(refused.acquire(timeout=SECONDS) for _ in range(7))
        return answer

    def request(place: int) -> Saved | None:
        try:
            # While the first is running, nobody knows what its key will stand for.
            return ask(acme, slow, body=BODY if place % 2 else {"amount_usd": 6})
        except errors.IdempotencyKeyInUse:
            refused.release()
            return None

    answers = books.together([lambda place=place: request(place) for place in range(8)])  # type: ignore[misc]
    assert len([answer for answer in answers if answer is not None]) == 1
    assert effects() == kept() == 1


def test_eight_who_come_back_until_they_are_answered_get_one_answer(books: Books) -> None:
    acme = organization()

    def persist() -> Saved:
        while True:
            try:
                return ask(acme)
            except errors.IdempotencyKeyInUse:
                continue

    for _ in range(5):
        answers = books.together([persist] * 8)
        assert len({answer.body for answer in answers}) == 1
        assert sum(not answer.replayed for answer in answers) == 1
        assert effects() == kept() == 1
        # All together on a key that stands: nobody is refused.
        assert {answer.replayed for answer in books.together([lambda: ask(acme)] * 8)} == {True}
        OutboxMessage.objects.all().delete()
        IdempotencyKey.objects.all().delete()


def test_keys_of_their_own_do_not_meet(books: Books) -> None:
    acme = organization()
    inside = threading.Barrier(8, timeout=SECONDS)

    def work() -> Saved:
        inside.wait()
        return effect()

    answers = books.together([lambda key=key: ask(acme, work, key=key) for key in "abcdefgh"])  # type: ignore[misc]
    assert [answer.replayed for answer in answers] == [False] * 8
    assert effects() == kept() == 8


def test_should_the_lock_not_hold_the_key_itself_takes_the_second_effect_back(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = organization()
    at = idempotency._now()
    monkeypatch.setattr(idempotency, "_enter", lambda scope: (True, at))

    def overtaken() -> Saved:
        answer = effect()
        assert not books.together([lambda: ask(acme)])[0].replayed
        return answer

    with pytest.raises(errors.IdempotencyKeyInUse):
        ask(acme, overtaken)
    assert effects() == kept() == 1
    assert ask(acme).replayed


def fail_with(state: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END $$")


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_a_conflict_is_tried_again_as_a_whole(books: Books, key: str | None, state: str) -> None:
    acme = organization()
    runs = []

    def conflicting() -> Saved:
        answer = effect()
        runs.append(answer.body)
        if len(runs) < 3:
            fail_with(state)
        return answer

    assert ask(acme, conflicting, key=key).body == runs[2]
    assert effects() == 1
    if key:
        assert ask(acme).body == runs[2]


def test_a_conflict_that_does_not_pass_leaves_nothing(books: Books) -> None:
    acme = organization()

    def conflicting() -> Saved:
        effect()
        fail_with("40001")
        raise AssertionError("unreachable")

    with pytest.raises(Error, match="not now"):
        ask(acme, conflicting)
    assert (effects(), kept()) == (0, 0)


@pytest.mark.parametrize("key", ["k", None])
def test_it_stands_alone_and_refuses_to_join_a_transaction(books: Books, key: str | None) -> None:
    acme = organization()
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        ask(acme, key=key)
    assert effects() == 0


def test_a_path_is_kept_as_an_address_so_it_may_hold_anything(books: Books) -> None:
    acme = organization()
    for path in ("/v1/x/\x00", "/v1/x/é b", "/v1/x/%00"):
        assert not ask(acme, path=path).replayed
        assert ask(acme, path=path).replayed
    assert sorted(IdempotencyKey.objects.values_list("path", flat=True)) == [
        "/v1/x/%00",
        "/v1/x/%2500",
        "/v1/x/%C3%A9%20b",
    ]


def test_the_table_leads_with_the_organization_and_keeps_answers_only(books: Books) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = 'idempotency_key'::regclass AND contype = 'p'"
        )
        assert cursor.fetchall() == [("PRIMARY KEY (organization_id, method, path, key)",)]
    acme = organization()
    ask(acme)
    row = IdempotencyKey.objects.all()
    for change, constraint in (
        ({"status": 404}, "idempotency_key_done"),
        ({"status": 500}, "idempotency_key_done"),
        ({"fingerprint": b"short"}, "idempotency_key_sha256"),
    ):
        with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
            row.update(**change)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        ("a", "a"),
        (" \ta ", "a"),
        ('"a"', "a"),
        (' "a" ', "a"),
        ("x" * 255, "x" * 255),
        (f'"{"x" * 255}"', "x" * 255),
        ("!#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~", "!#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~"),
        ('a"b', 'a"b'),
        (r'"a\"b\\c"', r"a\"b\c".replace('\\"', '"')),
        (r"a\b", r"a\b"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
    ],
)
def test_a_key_is_read_with_or_without_quotes(header: str | None, key: str | None) -> None:
    assert read_key(header) == key


@pytest.mark.parametrize(
    "header",
    [
        "", " ", '""', '"', '"a', '"a"b', '"a" b', '"a";p=1', '"a", "b"', r'"a\"', r'"a\b"', '"a"b"', "a b", "a\tb",
        '"a b"', "a\x00", "a\x7f", "é", '"é"', "１", "x" * 256, f'"{"x" * 256}"', "a\n", "a\r\nb", "\x0ba",
    ],
)  # fmt: skip
def test_anything_but_1_to_255_visible_ascii_characters_is_malformed(header: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="1 to 255 visible") as refusal:
        read_key(header)
    assert (refusal.value.status, refusal.value.param) == (400, "Idempotency-Key")


def test_a_key_that_is_needed_may_not_be_missing() -> None:
    with pytest.raises(errors.MissingParameter):
        read_key(None, required=True)
    assert read_key("a", required=True) == "a"


def test_a_body_has_one_spelling() -> None:
    body = {"b": 1, "a": Decimal("1.50"), "c": [None, True, "é", {}], "B": Decimal("-0.0"), "": 10**39}
    assert canonical(body) == (
        '{"":1000000000000000000000000000000000000000,"B":0E+0,"a":1.5E+0,"b":1,"c":[null,true,"é",{}]}'.encode()
    )
    assert canonical(None) == b"null"
    assert fingerprint(body={"b": 1, "a": 2}, organization_slug="acme") == (
        hashlib.sha256(b'acme\n{"a":2,"b":1}').digest()
    )
    assert fingerprint(body={}, organization_slug="a") != fingerprint(body={}, organization_slug="b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,\n"a":1}'),
        ('{"a": {"y": [], "x": {}}}', '{"a": {"x": {}, "y": []}}'),
        (r'{"\u0061": "\u00e9\/"}', '{"a": "é/"}'),
        ("[1.0]", "[1.000]"),
        ("[1.0]", "[10e-1]"),
        ("[0.0]", "[-0e5]"),
        ("[1e3]", "[1000.0]"),
        ("[1e308]", "[10E+307]"),
    ],
)
def test_another_spelling_is_the_same_request(one: str, other: str) -> None:
    assert canonical(wire.decode(one.encode())) == canonical(wire.decode(other.encode()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[1]", "[1.0]"),
        ("[1000]", "[1e3]"),
        ("[1]", '["1"]'),
        ("[1]", "[true]"),
        ("[0]", "[false]"),
        ("[0]", "[null]"),
        ('[""]', "[null]"),
        ("[]", "{}"),
        ("[]", "[[]]"),
        ('{"a": null}', "{}"),
        ("[1, 2]", "[2, 1]"),
        ('{"a": 1}', '{"A": 1}'),
        ('["é"]', '["e\u0301"]'),
        ("[0.1]", "[0.1000000000000000000000000000000000001]"),
        ("[12345678901234567890123456789012345678.1]", "[12345678901234567890123456789012345678.2]"),
        ("[1e-324]", "[0.0]"),
    ],
)
def test_another_value_or_kind_is_another_request(one: str, other: str) -> None:
    assert canonical(wire.decode(one.encode())) != canonical(wire.decode(other.encode()))


# Few of each, so that two bodies often say the same.
WHOLE = st.sampled_from([0, 1, -1, 10**20])
FRACTIONS = st.sampled_from(["0.0", "-0.0", "0e9", "1.0", "1.00", "1E0", "0.1e1", "-1.0", "1e20", "10e19", "1.000001"])
BODIES = st.recursive(
    st.none() | st.booleans() | WHOLE | FRACTIONS.map(Decimal) | st.sampled_from(["", "a", "é", "1", "null"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["", "a", "b", "é"]), inner),
    max_leaves=6,
)


def said(value: Any) -> Any:
    """What a body says, by kind and exact value: the oracle."""
    match value:
        case dict():
            return ("object", frozenset((name, said(member)) for name, member in value.items()))
        case list():
            return ("array", tuple(map(said, value)))
        case Decimal():
            return ("fraction", Fraction(value))
        case _:
            return (type(value).__name__, value)


def respelled(value: Any, chance: random.Random) -> Any:
    """The same in another order and with other zeros."""
    match value:
        case dict():
            members = [(name, respelled(member, chance)) for name, member in value.items()]
            chance.shuffle(members)
            return dict(members)
        case list():
            return [respelled(item, chance) for item in value]
        case Decimal():
            places = chance.randrange(4)
            return Decimal(f"{int(value.scaleb(places + 6))}E{-places - 6}")
        case _:
            return value


@given(BODIES, BODIES)
def test_two_bodies_are_one_request_exactly_when_they_say_the_same(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (said(one) == said(other))


@given(BODIES, st.randoms(use_true_random=False))
def test_order_and_zeros_mean_nothing(body: Any, chance: random.Random) -> None:
    again = respelled(body, chance)
    assert said(again) == said(body)
    assert canonical(again) == canonical(body)
    assert fingerprint(body=again, organization_slug="acme") == fingerprint(body=body, organization_slug="acme")


@given(BODIES)
def test_the_canonical_body_is_json_that_says_the_same(body: Any) -> None:
    assert said(wire.decode(canonical(body))) == said(body)


def test_an_answer_is_kept_for_a_day_and_then_the_key_is_free(books: Books) -> None:
    acme = organization()
    ask(acme)
    row = IdempotencyKey.objects.get()
    made = ids.instant(row.pk)
    # The database's clock in both; an id counts milliseconds.
    assert timedelta(0) <= row.created_at - made < timedelta(milliseconds=1)
    assert idempotency.trim() == 0
    assert idempotency.trim(at=made + timedelta(hours=24)) == 0
    assert ask(acme).replayed
    assert idempotency.trim(at=made + timedelta(hours=24, milliseconds=1)) == 1
    assert not ask(acme).replayed
    assert effects() == 2


def keep_at(of: Organization, at: datetime, *keys: str) -> None:
    """Keys that came to stand at an instant."""
    for key, row_id in zip(keys, ids.run(at=at), strict=False):
        IdempotencyKey.objects.create(
            id=row_id, organization=of, method="POST", path="/v1/topups", key=key, fingerprint=bytes(32), status=201,
            content_type="application/json", body=b"{}", created_at=at,
        )  # fmt: skip


def standing() -> str:
    return "".join(IdempotencyKey.objects.order_by("id").values_list("key", flat=True))


def test_trimming_goes_from_the_oldest_in_bounded_steps(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "TRIM_ROWS", 2)
    monkeypatch.setattr(idempotency, "TRIM_ROUNDS_MAX", 2)
    acme, umbrella = organization("acme"), organization("umbrella")
    now = idempotency._now()
    keep_at(umbrella, now - timedelta(hours=26), *"abc")
    keep_at(acme, now - timedelta(hours=25), *"defg")
    keep_at(acme, now - timedelta(hours=23), *"hi")
    assert [idempotency.trim() for _ in range(3)] == [4, 3, 0]
    assert standing() == "hi"


def test_each_step_of_trimming_is_committed_by_itself(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "TRIM_ROWS", 2)
    acme = organization()
    keep_at(acme, idempotency._now() - timedelta(hours=25), *"abcde")
    trim_some, ends = idempotency._trim_some, list[UUID]()

    def failing(end: UUID) -> int:
        ends.append(end)
        if len(ends) == 3:
            raise ZeroDivisionError
        return trim_some(end)

    monkeypatch.setattr(idempotency, "_trim_some", failing)
    with pytest.raises(ZeroDivisionError):
        idempotency.trim()
    assert standing() == "e"
    assert len(set(ends)) == 1


def test_four_who_trim_at_once_forget_each_key_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "TRIM_ROWS", 3)
    acme = organization()
    keep_at(acme, idempotency._now() - timedelta(hours=25), *(f"key {number}" for number in range(50)))
    assert sum(books.together([idempotency.trim] * 4)) == 50
    assert kept() == 0


def test_the_desk_reads_answers_by_id_and_organization_and_changes_nothing(db: None) -> None:
    root = desk.superuser()
    acme, umbrella = organization("acme"), organization("umbrella")
    ask(acme, lambda: Saved(201, b'{"note": "<b>paid</b>"}\xff'), key="<i>k</i>")
    ask(umbrella)
    row = IdempotencyKey.objects.get(organization=acme)
    few = desk.read(root, desk.listing(IdempotencyKey))
    # In one transaction they are of one instant: in any order.
    assert {found.key for found in few.rows} == {"k", "<i>k</i>"}
    assert "<i>k</i>" not in few.text
    assert [found.pk for found in desk.read(root, desk.listing(IdempotencyKey), q=str(row)).rows] == [row.pk]
    assert [found.pk for found in desk.read(root, desk.listing(IdempotencyKey), q="acme").rows] == [row.pk]
    assert desk.read(root, desk.listing(IdempotencyKey), q="no such").rows == []
    shown = desk.read(root, desk.page(row))
    assert "&lt;b&gt;paid&lt;/b&gt;&quot;}\ufffd" in shown.text
    for number in range(58):
        ask(acme, key=str(number))
    many = desk.read(root, desk.listing(IdempotencyKey))
    assert (len(few.rows), len(many.rows)) == (2, 50)
    assert len(few.queries) == len(many.queries)
    assert not any('"body"' in query for query in many.queries)
    assert desk.counting([few, many, shown]) == []
    assert root.post(desk.page(row), {"status": "200"}).status_code == 403
    assert root.post(desk.page(row, "delete"), {"post": "yes"}).status_code == 403
    assert root.post(desk.listing(IdempotencyKey) + "add/", {"key": "x"}).status_code == 403
    assert kept() == 60
