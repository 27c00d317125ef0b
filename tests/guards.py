"""The guards that proofs disable (decisions 28), by name.

A guard is one thing in the product that makes a scenario harmless: a constraint, a comparison, a
lock. Registering it here means saying how to take it away for one test:

    @guard("fingerprint_compared")
    def _() -> Disabled:
        \"\"\"An event id sent again is compared with what it first stood for.\"\"\"
        return patched("billing.charges.same_story", lambda *_: True)

What is taken away must be the guard and nothing else: SQL or code that then cannot run at all is
reported as a broken proof, not as a red one.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import psycopg
from django.test import override_settings
from psycopg import sql

from tests import books

Disabled = AbstractContextManager[Any]

# Set in a child process: its database has been changed already, only its code is left to change.
_code_only = False


@dataclass(frozen=True)
class Guard:
    """A named guard: what it is, and a context in which it does not exist."""

    name: str
    about: str
    disabled: Callable[[], Disabled]


GUARDS: dict[str, Guard] = {}


def guard(name: str) -> Callable[[Callable[[], Disabled]], Callable[[], Disabled]]:
    """Register how to disable a guard; the function's docstring says what the guard does."""

    def register(disable: Callable[[], Disabled]) -> Callable[[], Disabled]:
        assert name.isidentifier(), f"{name!r} is no name for a guard"
        assert name not in GUARDS, f"two guards are named {name}"
        assert disable.__doc__, f"the guard {name} does not say what it does"
        GUARDS[name] = Guard(name, " ".join(disable.__doc__.split()), disable)
        return disable

    return register


def patched(target: str, replacement: Any) -> Disabled:
    """``package.module.attribute`` replaced. Raises ``AttributeError`` if there is no such thing.

    Name the module that *uses* it when that one imported it by name.
    """
    return mock.patch(target, replacement)


def all_of(*parts: Disabled) -> Disabled:
    """Several parts as one guard."""

    @contextmanager
    def nested() -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part)
            yield

    return nested()


@contextmanager
def rewritten(old: str, new: str | Callable[[], str]) -> Iterator[None]:
    """Every SQL text that holds ``old`` is sent with ``new`` (or what it says just then) instead, in all threads.

    Raises ``LookupError`` at the end if no statement held it: the guard is not where it is said to be.
    """
    hits = 0

    def rewrite(query: Any, cursor: Any) -> Any:
        nonlocal hits
        text = query.as_string(cursor) if isinstance(query, sql.Composable) else query
        text = text.decode() if isinstance(text, bytes) else text
        if not isinstance(text, str) or old not in text:
            return query
        hits += 1
        return text.replace(old, new if isinstance(new, str) else new()).encode()

    execute, executemany, copy = psycopg.Cursor.execute, psycopg.Cursor.executemany, psycopg.Cursor.copy

    def on_execute(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        return execute(self, rewrite(query, self), *args, **options)

    def on_executemany(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        return executemany(self, rewrite(query, self), *args, **options)

    def on_copy(self: Any, statement: Any, *args: Any, **options: Any) -> Any:
        return copy(self, rewrite(statement, self), *args, **options)

    with (
        # What a connection knows by name is sent as the name alone.
        override_settings(DATABASE_PREPARE=False),
        mock.patch.object(psycopg.Cursor, "execute", on_execute),
        mock.patch.object(psycopg.Cursor, "executemany", on_executemany),
        mock.patch.object(psycopg.Cursor, "copy", on_copy),
    ):
        yield
    if not hits and not _code_only:
        raise LookupError(f"no statement held {old!r}, so nothing was disabled")


@contextmanager
def without_constraint(table: str, name: str) -> Iterator[None]:
    """The test's own database lacks a constraint, or a unique index that stands for one.

    Raises ``LookupError`` if it has none of that name.
    """
    _change(
        table,
        name,
        find="SELECT 1 FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s",
        change="ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE",
        otherwise="DROP INDEX {name} CASCADE",
        find_otherwise="SELECT 1 FROM pg_index WHERE indrelid = %s::regclass AND indexrelid = to_regclass(%s)",
    )
    yield


@contextmanager
def without_trigger(table: str, name: str) -> Iterator[None]:
    """The test's own database lacks a trigger (and its copies on partitions).

    Raises ``LookupError`` if the table has none of that name.
    """
    _change(
        table,
        name,
        find="SELECT 1 FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = %s AND NOT tgisinternal",
        change="DROP TRIGGER {name} ON {table}",
    )
    yield


def _change(
    table: str, name: str, *, find: Any, change: Any, find_otherwise: Any = None, otherwise: Any = None
) -> None:
    """Run the change that fits what is there. The database is dropped after the test: nothing to undo."""
    if _code_only:
        return
    with books.current().connect() as own:
        names = {"table": sql.Identifier(table), "name": sql.Identifier(name)}
        if own.execute(find, (table, name)).fetchone():
            own.execute(sql.SQL(change).format(**names))
        elif find_otherwise and own.execute(find_otherwise, (table, name)).fetchone():
            own.execute(sql.SQL(otherwise).format(**names))
        else:
            raise LookupError(f"{table} has nothing named {name}")


@contextmanager
def connected_with(old: str, new: str) -> Iterator[None]:
    """New connections of Django ask PostgreSQL for ``new`` where they asked for ``old``.

    Raises ``LookupError`` if they did not ask for it.
    """
    connections = importlib.import_module("django.db").connections
    options = connections["default"].settings_dict["OPTIONS"]
    if not re.search(old, options["options"]):
        raise LookupError(f"connections do not ask for {old!r}")
    connections.close_all()
    with mock.patch.dict(options, options=re.sub(old, new, options["options"])):
        yield
    connections.close_all()


@contextmanager
def in_child(name: str) -> Iterator[None]:
    """Disable a guard's code in a child process that serves a database where the rest is done."""
    global _code_only
    _code_only = True
    importlib.import_module("django").setup()
    with GUARDS[name].disabled():
        yield


def unchecked(id: str) -> Disabled:
    """``manage.py verify`` goes without the check of an invariant: for proofs that it would be missed."""
    check = importlib.import_module("billing.invariants").check

    def others(*scope: Any, **options: Any) -> list[Any]:
        found = check(*scope, **options)
        left = [finding for finding in found if not finding.name.startswith(f"{id} ")]
        if len(left) == len(found):
            raise LookupError(f"verify has no check of {id}")
        return left

    return patched("billing.invariants.check", others)


@guard("revocation_reaches_every_process")
def _() -> Disabled:
    """A change that processes cache raises the epoch that they all poll."""
    return patched("orgs.caches.bump", lambda: None)


@guard("only_the_digest_is_stored")
def _() -> Disabled:
    """Of a key's secret the SHA-256 is kept and nothing else."""
    return patched("orgs.keys.digest", lambda secret: secret[4:36].encode())


@guard("secrets_are_cut_from_logs")
def _() -> Disabled:
    """Every handler's filter cuts secrets out of messages and tracebacks."""
    return patched("core.logs.redact", lambda text: text)


@guard("membership_is_required")
def _() -> Disabled:
    """A personal key speaks for an organization only while its owner is a member."""
    member = importlib.import_module("orgs.members").MemberFacts
    return patched("orgs.members.find", lambda **_: member(id=None, role="owner", permissions=frozenset()))


@guard("own_slug_only")
def _() -> Disabled:
    """An organization's key takes no slug but its organization's."""
    return patched("orgs.principals.is_own", lambda *_: True)


@guard("service_keys_have_limits")
def _() -> Disabled:
    """A service key made for some organizations names no others."""
    return patched("orgs.principals.may_name", lambda *_: True)


@guard("one_slug_in_the_header")
def _() -> Disabled:
    """The header holds one slug or nothing; two headers arrive as one with a comma."""
    return patched("orgs.organizations.is_slug", lambda _: True)


@guard("keys_are_read_within_the_organization")
def _() -> Disabled:
    """Whoever manages keys reaches only those of the organization that the credential stands for."""
    return patched("orgs.keyring._all", lambda _: importlib.import_module("orgs.models").ApiKey.objects.all())


@guard("usage_is_read_within_the_organization")
def _() -> Disabled:
    """Every read of usage starts from the records of the organization that the credential stands for."""
    records = importlib.import_module("metering.models").UsageRecord.objects

    def everybodys(_: Any, *, member_id: Any) -> Any:
        return records.all() if member_id is None else records.filter(member_id=member_id)

    def listed(scope: Any) -> Any:
        return pages.Clause("true") if scope.member_id is None else pages.Clause("member_id = %s", [scope.member_id])

    pages = importlib.import_module("metering.usage_pages")
    return all_of(patched("metering.usage.for_caller", everybodys), patched("metering.usage_pages.whose", listed))


@guard("members_without_the_right_read_their_own_usage")
def _() -> Disabled:
    """A member whose role may not read all usage reads the records of their own keys."""
    records = importlib.import_module("metering.models").UsageRecord.objects
    whose = importlib.import_module("metering.usage_pages").whose
    return all_of(
        patched("metering.usage.for_caller", lambda one, *, member_id: records.filter(organization_id=one)),
        patched("metering.usage_pages.whose", lambda scope: whose(scope._replace(member_id=None))),
    )


@guard("the_statement_is_read_within_the_organization")
def _() -> Disabled:
    """The lines of a statement are one organization's transfers."""
    transfers = importlib.import_module("billing.models").Transfer.objects
    return patched("billing.statement.lines", lambda _: transfers.filter(seq__isnull=False).order_by("-seq"))


@guard("limited_gateways_report_for_their_own")
def _() -> Disabled:
    """Events of a service key made for some organizations are attributed to those or to nobody."""
    attribute = importlib.import_module("metering.attribution")._attribute

    def unlimited(*event: Any, limits: Any) -> Any:
        return attribute(*event, limits=frozenset())

    return patched("metering.attribution._attribute", unlimited)


@guard("limited_gateways_void_their_own")
def _() -> Disabled:
    """A service key made for some organizations voids events of no other."""
    return patched("gateway.events.may_name", lambda *_: True)


@guard("authorizations_are_read_within_the_organization")
def _() -> Disabled:
    """An authorization is looked up among those of the organization that the header names."""
    every = importlib.import_module("billing.models").Hold.objects

    return patched("billing.holds.find", lambda *, organization_id, hold_id: every.filter(pk=hold_id).first())


@guard("limited_gateways_authorize_for_their_own")
def _() -> Disabled:
    """A service key made for some organizations asks about keys and organizations of no other."""
    return patched("gateway.authorizations.may_name", lambda *_: True)


@guard("unforeseen_failures_say_nothing")
def _() -> Disabled:
    """What no class of the error tree foresees is a 500 with a fixed message; its cause goes to the log."""
    http, errors = importlib.import_module("core.http"), importlib.import_module("core.errors")
    known = http.from_exception

    def told(exception: BaseException) -> Any:
        found = known(exception)
        return errors.InternalError(f"{exception}.") if type(found) is errors.InternalError else found

    return patched("core.http.from_exception", told)


@guard("times_have_their_zone")
def _() -> Disabled:
    """A time is RFC 3339 with its zone, or Unix seconds; every other form is refused."""
    return patched("metering.events._RFC3339", re.compile(".*", re.DOTALL))


@guard("events_have_a_window")
def _() -> Disabled:
    """What happened too long ago or lies ahead is refused, by the server's clock."""
    overriding = importlib.import_module("django.test").override_settings
    return cast("Disabled", overriding(EVENT_AGE_MAX_DAYS=40_000, EVENT_AHEAD_MAX_SECONDS=10**11))


@guard("counts_are_whole_numbers")
def _() -> Disabled:
    """Counts are taken by their JSON type: whole numbers, and nothing that only looks like one."""
    convert = importlib.import_module("msgspec").convert
    return patched("metering.events.msgspec.convert", lambda value, type: convert(value, type, strict=False))


@guard("columns_refuse_negative_counts")
def _() -> Disabled:
    """The columns of counts have CHECKs; only a correction is negative."""
    return all_of(
        without_constraint("usage_record", "usage_record_counts_not_negative"),
        without_constraint("request_log", "request_log_counts_not_negative"),
    )


@guard("quarantined_claims_turn_once")
def _() -> Disabled:
    """A quarantined event's claim is turned into a charge's only while it still stands for quarantine."""
    return all_of(
        rewritten(" AND c.state = 'quarantined' RETURNING", " RETURNING"),
        rewritten(" FOR NO KEY UPDATE SKIP LOCKED", ""),
        without_constraint("usage_record", "usage_record_pkey"),
    )


@guard("changes_start_beyond_what_was_charged")
def _() -> Disabled:
    """A change of what is in force starts two cache lives ahead, and beyond the time that events may carry."""
    return patched("metering.catalog.earliest_start", importlib.import_module("core.clock").now)


@guard("prices_go_by_when_it_happened")
def _() -> Disabled:
    """The version that rates an event is chosen by when it happened, not by when it arrives."""
    pricing, clock = importlib.import_module("metering.pricing"), importlib.import_module("core.clock")
    offer = pricing.Book.offer
    return patched("metering.pricing.Book.offer", lambda *book, at, **whom: offer(*book, at=clock.now(), **whom))


@guard("transfers_are_held_against_usage")
def _() -> Disabled:
    """``verify`` compares each transfer of usage with the sum of the records that name it."""
    return unchecked("V09")


@guard("costs_are_derived_again")
def _() -> Disabled:
    """``verify`` derives the cost of every new record, and of some old ones, from the versions it names."""
    return unchecked("V11")


@guard("quarantine_has_an_alarm")
def _() -> Disabled:
    """``verify`` counts what waits in quarantine and fails when some has waited too long."""
    return unchecked("V12")


@guard("published_prices_are_checked")
def _() -> Disabled:
    """``verify`` looks for gaps and overlaps among prices, and for records rated by one that did not hold."""
    return unchecked("V26")


@guard("published_prices_have_digests")
def _() -> Disabled:
    """``verify`` holds each published price against the digest that was made of it when it was published."""
    return patched("metering.catalog.digest", lambda price: bytes(price.digest))


@guard("corrections_happen_once")
def _() -> Disabled:
    """One cause corrects a record once, and an act starts from what corrections so far add."""
    return all_of(
        without_constraint("correction", "correction_once"),
        patched("billing.corrections.corrected_by", lambda records: dict.fromkeys((one.id for one in records), 0)),
    )


@guard("copies_stand_for_one_event")
def _() -> Disabled:
    """Within a batch an event id is dealt with once; other copies get the first one's answer."""
    return patched(
        "metering.attribution.Attributed.key",
        property(lambda item: (item.organization_id, item.event.event_id, item.place)),
    )


@guard("event_ids_are_claimed")
def _() -> Disabled:
    """An event id is claimed in the transaction that charges it, with what the first answer says."""
    return _claimed_by(lambda claim: lambda claims: {})


@guard("claims_are_unique")
def _() -> Disabled:
    """An organization's event id has one claim; whoever comes second waits for the first and finds it."""
    return without_constraint("usage_claim", "usage_claim_pkey")


@guard("claims_are_sorted")
def _() -> Disabled:
    """Claims of a batch are taken in the order of their ids, whatever the order of the events."""
    return patched("metering.usage.sorted", lambda rows, key: list(rows))


@guard("claims_are_taken_one_by_one")
def _() -> Disabled:
    """COPY takes claim after claim, not partition after partition."""
    return patched("core.bulk._ROW_BY_ROW", "")


@guard("stories_are_compared")
def _() -> Disabled:
    """An event id sent again is compared with what it first stood for."""
    standing = importlib.import_module("metering.usage").standing

    def like_anything(keys: Any) -> Any:
        return {key: claim._replace(fingerprint=mock.ANY) for key, claim in standing(keys).items()}

    return patched("metering.usage.standing", like_anything)


@guard("claims_know_no_time")
@contextmanager
def _() -> Iterator[None]:
    """Claims are unique over all time, not within a month as partitions by time would have them."""
    with without_constraint("usage_claim", "usage_claim_pkey"), books.current().connect() as own:
        own.execute(
            "CREATE FUNCTION month_of(id uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT to_char(to_timestamp("
            "('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000) AT TIME ZONE 'UTC', 'YYYY-MM') $$"
        )
        own.execute("CREATE UNIQUE INDEX ON usage_claim (organization_id, event_id, month_of(record_id))")
        yield


@guard("a_failed_group_falls_apart")
def _() -> Disabled:
    """What cannot be written together is written by organization, and each has its own verdict."""
    write = importlib.import_module("billing.charges")._write
    return patched("billing.charges._settle", write)


@guard("bad_content_is_cornered_by_halves")
def _() -> Disabled:
    """Events that the database refuses together are tried by halves, down to the one at fault."""
    return patched("billing.charges._halves", lambda items: [])


@guard("claim_and_debit_commit_together")
def _() -> Disabled:
    """Claim, record, transfer and wallet are one transaction."""

    def commit_early(claim: Any) -> Any:
        def claim_and_commit(claims: Any) -> Any:
            taken = claim(claims)
            importlib.import_module("django.db").connection.connection.commit()
            return taken

        return claim_and_commit

    return _claimed_by(commit_early)


def _claimed_by(made: Callable[[Any], Any]) -> Disabled:
    """Events claimed by what is made of each of the two verbs that claim."""
    usage = importlib.import_module("metering.usage")
    return all_of(*(patched(f"metering.usage.{name}", made(getattr(usage, name))) for name in ("claim_new", "claim")))


_WALLETS_LOCKED = " ORDER BY organization_id FOR NO KEY UPDATE"


@guard("wallets_are_locked")
def _() -> Disabled:
    """The wallet's row lock is the mutex of its balance."""
    return rewritten(_WALLETS_LOCKED, " ORDER BY organization_id")


@guard("balances_are_read_under_their_lock")
def _() -> Disabled:
    """What a wallet has is read by the statement that locks it, never before."""
    ledger = importlib.import_module("billing.ledger")
    lock = ledger._lock

    def read_first(organization_ids: Any, **chosen: Any) -> Any:
        with importlib.import_module("django.db").connection.cursor() as cursor:
            cursor.execute(
                "SELECT organization_id, posted_usd, overdraft_usd, spent_usd, seq FROM wallet"
                " WHERE organization_id = ANY(%s)",
                [list(organization_ids)],
            )
            before = {row[0]: ledger.books.Standing(*row[1:]) for row in cursor.fetchall()}
        found, opened = lock(organization_ids, **chosen)
        stale = {owner: wallet._replace(standing=before.get(owner, wallet.standing)) for owner, wallet in found.items()}
        return stale, opened

    return patched("billing.ledger._lock", read_first)


@guard("wallets_are_locked_in_order")
def _() -> Disabled:
    """One statement locks all wallets of a transaction, in the order of their ids."""
    return rewritten(_WALLETS_LOCKED, " ORDER BY random() FOR NO KEY UPDATE")


@guard("locks_let_children_in")
def _() -> Disabled:
    """Row locks are FOR NO KEY UPDATE, which does not keep rows that refer to the locked one waiting."""
    return rewritten("FOR NO KEY UPDATE", "FOR UPDATE")


@guard("no_row_is_shared")
@contextmanager
def _() -> Iterator[None]:
    """No row belongs to two organizations: totals of the platform are sums, not balances."""
    with books.current().connect() as own:
        own.execute("CREATE TABLE platform (revenue_usd numeric(24,12) NOT NULL)")
        own.execute("INSERT INTO platform VALUES (0)")
        own.execute(
            "CREATE FUNCTION add_to_platform() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
            " UPDATE platform SET revenue_usd = revenue_usd + NEW.amount_usd; RETURN NULL; END$$"
        )
        own.execute(
            "CREATE TRIGGER add_to_platform AFTER INSERT ON transfer FOR EACH ROW EXECUTE FUNCTION add_to_platform()"
        )
        yield


@guard("wallets_are_explained")
def _() -> Disabled:
    """A trigger refuses a change of a wallet's balance that no transfer explains."""
    return without_trigger("wallet", "explained")


@guard("reported_counts_are_believed")
def _() -> Disabled:
    """Only a count that is absent is estimated; a reported 0 is believed."""
    return all_of(
        patched(
            "metering.events._absent", lambda value: [n for n in ("input_tokens", "output_tokens") if not value.get(n)]
        ),
        # Nor is a whole body taken at once because all its counts stand there.
        patched("metering.events._read_all", lambda found, limits: None),
    )


@guard("token_tables_are_vendored")
def _() -> Disabled:
    """tiktoken is pointed to the tables in the package, before it reads any."""
    return mock.patch.dict("os.environ", {"TIKTOKEN_CACHE_DIR": ""})


@guard("token_tables_are_verified")
def _() -> Disabled:
    """A table is compared with its published digest before tiktoken is asked for it."""
    return patched("metering.tokens._verify", lambda encoding: None)


@guard("cursors_are_looked_up_among_the_callers_rows")
def _() -> Disabled:
    """The row that a cursor names is looked up among what the caller may see."""
    clause = importlib.import_module("metering.usage_pages").Clause
    there = "EXISTS (SELECT 1 FROM usage_record WHERE id = %s)"
    return patched("metering.usage_pages.cursor_in", lambda scope, place: clause(there, [place]))


@guard("ids_have_one_spelling")
def _() -> Disabled:
    """An id is read strictly: its own prefix, 26 characters, no other case, nothing around it."""
    read = importlib.import_module("core.ids").read
    return patched("core.ids.read", lambda prefix, text: read(prefix, f"{prefix}_{text.strip().upper()[-26:]}"))


@guard("formulas_are_defused")
def _() -> Disabled:
    """A cell of an export that a spreadsheet would run begins with an apostrophe."""
    return patched("core.lists.cell", lambda value: "" if value is None else str(value))


@guard("bodies_have_their_own_fields")
def _() -> Disabled:
    """What a body names beyond its documented fields never reaches a column."""
    views, keyring = importlib.import_module("orgs.views"), importlib.import_module("orgs.keyring")
    keys = importlib.import_module("orgs.models").ApiKey
    read, issue, named = views.read_wish, keyring.issue, {}

    def remember(body: Any) -> Any:
        named.update(body)
        return read(body)

    def assign(**wish: Any) -> Any:
        issued = issue(**wish)
        texts = {field.name for field in keys._meta.get_fields() if field.get_internal_type() == "TextField"}
        assigned = {name: value for name, value in named.items() if name in texts and isinstance(value, str)}
        keys.objects.filter(pk=issued.key.pk).update(**assigned)
        return issued

    return all_of(patched("orgs.views.read_wish", remember), patched("orgs.keyring.issue", assign))


@guard("json_is_read_strictly")
def _() -> Disabled:
    """Bodies are decoded by a reader of our own that refuses what JSON does not allow or does not promise."""
    return patched("core.wire.decode", importlib.import_module("json").loads)


@guard("events_hold_no_keys")
def _() -> Disabled:
    """An event with a key in one of its texts is rejected before anything of it is kept."""
    return patched("orgs.keys.mentions", lambda _: False)


@guard("triggers_refuse_changes")
def _() -> Disabled:
    """Triggers refuse UPDATE, DELETE and TRUNCATE of what the books hold, on tables and partitions."""
    return all_of(
        without_trigger("usage_record", "append_only"),
        without_trigger("request_log", "append_only"),
        without_trigger("transfer", "append_only"),
        without_trigger("price", "append_only"),
        without_trigger("audit_entry", "append_only"),
    )


@guard("rights_spare_the_books")
def _() -> Disabled:
    """A runtime role may read the books and append to them, nothing else."""
    return patched("core.rights.books", frozenset)


@guard("money_is_in_range")
@contextmanager
def _() -> Iterator[None]:
    """Every money column has an upper bound, which NaN fails where ``>= 0`` alone lets it in."""
    with books.current().connect() as own:
        found = own.execute(
            "SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
            " WHERE c.contype = 'c' AND c.coninhcount = 0 AND t.relnamespace = 'public'::regnamespace"
            " AND pg_get_constraintdef(c.oid) LIKE '%100000000000%'"
        ).fetchall()
        if not found:
            raise LookupError("no CHECK bounds an amount")
        for table, name in found:
            own.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.Identifier(table), sql.Identifier(name))
            )
    yield


@guard("no_page_shows_the_inside")
def _() -> Disabled:
    """Nothing turns Django's debug pages on: they show settings, SQL and paths."""
    return patched("core.settings.DEBUG", True)


@guard("grants_have_one_reference")
def _() -> Disabled:
    """What was granted is looked up under the lock, and no cause grants twice."""
    return all_of(
        without_constraint("credit_grant", "credit_grant_once"),
        without_constraint("transfer", "transfer_once"),
        patched("billing.grants._known", lambda *_: None),
        patched("billing.ledger._unposted", list),
    )


@guard("grants_end_under_the_lock")
def _() -> Disabled:
    """Whether a grant is over is asked of the clock once the wallet is locked."""
    return rewritten("SELECT clock_timestamp()", "SELECT now()")


@guard("holds_are_guarded")
def _() -> Disabled:
    """One statement sets money aside and asks whether it is there."""
    ledger = importlib.import_module("billing.ledger")

    def unasked(wanted: Any, *, after: Any = ()) -> Any:
        others = importlib.import_module("core.bulk").at_once(after) if after else []
        wallets = ledger.lock([one.organization_id for one in wanted])
        ledger.reserve({one.organization_id: one.amount_usd for one in wanted})
        return wallets, others

    return patched("billing.ledger.reserve_at_once", unasked)


@guard("holds_end_once")
def _() -> Disabled:
    """A hold is ended by a statement that finds it open; whoever comes second finds it ended."""
    return all_of(
        rewritten(" WHERE h.state = 'open' ORDER BY h.organization_id", " ORDER BY h.organization_id"),
        rewritten(" AND hold.id = named.id AND state = 'open'", " AND hold.id = named.id"),
        rewritten(" AND state = 'open' AND expires_at < clock_timestamp() ORDER BY id", " ORDER BY id"),
    )


@guard("late_usage_is_charged")
def _() -> Disabled:
    """Usage is charged whether its hold is open or not; the hold is only given back."""
    book = importlib.import_module("billing.charges").book
    held = importlib.import_module("billing.models").Hold.objects

    def book_what_is_held(won: Any, **more: Any) -> Any:
        named = [line.item.authorization_id for line in won]
        live = set(held.filter(pk__in=named, state="open").values_list("pk", flat=True))
        return book([line for line in won if line.item.authorization_id in {None, *live}], **more)

    return patched("billing.charges.book", book_what_is_held)


@guard("holds_end_by_the_databases_clock")
def _() -> Disabled:
    """The end of a hold is an interval on the database's clock, not an instant of the asking process."""
    clock = importlib.import_module("core.clock")
    return rewritten(
        "clock_timestamp() AS at",
        lambda: f"(SELECT '{clock.now().isoformat()}'::timestamptz AS at) AS at",
    )


@guard("overdue_holds_are_swept")
def _() -> Disabled:
    """Holds beyond their end are found again from their rows, however long nobody looked."""
    return rewritten(" WHERE state = 'open' AND expires_at < clock_timestamp() AND", " WHERE false AND")


@guard("commits_wait_for_the_disk")
def _() -> Disabled:
    """Every connection asks for commits that are on the disk before they are answered."""
    return connected_with("synchronous_commit=on", "synchronous_commit=off")


@guard("idle_transactions_are_ended")
def _() -> Disabled:
    """PostgreSQL ends a session of ours that says nothing in the middle of a transaction."""
    return connected_with(r"-c idle_in_transaction_session_timeout=\d+", "")


@guard("locks_are_waited_for_briefly")
def _() -> Disabled:
    """A statement of ours waits for a lock no longer than the lock timeout."""
    return connected_with(r"-c lock_timeout=\d+", "")


@guard("a_pool_is_waited_for_briefly")
@contextmanager
def _() -> Iterator[None]:
    """Who finds no connection free in its process's pool waits two seconds, not until there is one."""
    options = importlib.import_module("django.db").connections["default"].settings_dict["OPTIONS"]
    if not _code_only:
        # Tests have no pool, the server has.
        yield
        return
    with mock.patch.dict(options["pool"], timeout=600):
        yield


@guard("conflicts_are_tried_again")
def _() -> Disabled:
    """A verb whose transaction met a conflict that passes runs again, three times in all."""
    return patched("core.transactions.ATTEMPTS_MAX", 1)


@guard("passing_failures_are_put_off")
def _() -> Disabled:
    """A database error that the same request may survive later is answered 503, with a time to come back."""
    return patched("core.http._passing", lambda exception: None)


@guard("expected_violations_spoil_nothing")
def _() -> Disabled:
    """After a violation that is expected its transaction is begun again, or goes on behind a savepoint."""

    class Bare:
        """``django.db.transaction`` as it would be without savepoints."""

        @staticmethod
        def atomic(using: Any = None, **_: Any) -> Any:
            # As a decorator it is the transaction itself.
            return transaction.atomic(using) if callable(using) else nullcontext()

    transaction = importlib.import_module("django.db").transaction
    usage = importlib.import_module("metering.usage")
    claim_new = usage.claim_new

    def go_on(claims: Any) -> Any:
        try:
            return claim_new(claims)
        except usage.Taken:
            return usage.claim(claims)

    return all_of(patched("metering.usage.claim_new", go_on), patched("orgs.organizations.transaction", Bare))


@guard("pages_are_keyed_on_ids")
def _() -> Disabled:
    """A page begins after an id, which never changes and is no other record's."""
    pages = importlib.import_module("metering.usage_pages")
    time_of = "(SELECT occurred_at FROM usage_record WHERE id = %s)"
    return all_of(
        patched(
            "metering.usage_pages.beyond",
            lambda place, *, ascending: pages.Clause(f"occurred_at {'>' if ascending else '<'} {time_of}", [place]),
        ),
        patched("metering.usage_pages._ROWS", pages._ROWS.replace("ORDER BY id", "ORDER BY occurred_at")),
    )


@guard("what_is_read_in_order_is_final")
def _() -> Disabled:
    """Oldest first, only records are read that are older than any transaction that may still commit."""
    return patched("metering.usage.FINAL_AFTER", timedelta(0))


@guard("checksums_are_checked_first")
def _() -> Disabled:
    """A key with a wrong shape or checksum is refused before anybody looks for it."""
    return patched("orgs.keys.well_formed", lambda secret: True)


@guard("unpacking_stops_at_the_limit")
def _() -> Disabled:
    """A compressed body is unpacked bit by bit, and no further than a body may be."""
    return patched("gateway.compression.Inflating._within", lambda self, piece: piece)


@guard("nobody_fills_the_queue_for_the_others")
def _() -> Disabled:
    """One organization has at most half of what may wait in a process."""
    return patched("gateway.groups.EACH_PART", 1)


@guard("bodies_have_a_limit")
def _() -> Disabled:
    """A body, unpacked, has at most 8 MiB."""
    overriding = importlib.import_module("django.test").override_settings
    return cast("Disabled", overriding(BODY_BYTES_MAX=10**9, DATA_UPLOAD_MAX_MEMORY_SIZE=10**9))


@guard("batches_have_a_limit")
def _() -> Disabled:
    """A request has at most a thousand events."""
    overriding = importlib.import_module("django.test").override_settings
    return cast("Disabled", overriding(EVENTS_MAX=10**9))


def _verified(id: str, name: str, about: str) -> None:
    """Register a check of ``verify`` as a guard."""

    def disable() -> Disabled:
        return unchecked(id)

    disable.__doc__ = f"``verify`` {about}"
    guard(name)(disable)


_verified("V01", "wallets_are_held_against_transfers", "holds each wallet's balance against its transfers.")
_verified(
    "V02", "transfers_are_counted", "follows each wallet's transfers: no number is missing, each balance follows."
)
_verified("V03", "transfers_have_causes", "looks for what caused each transfer, and for acts that were never posted.")
_verified("V04", "held_is_held_against_holds", "holds what each wallet has set aside against its open holds.")
_verified("V05", "wallets_are_in_range", "looks at signs, overdrafts and alerts of each wallet.")
_verified("V06", "wallets_are_held_against_grants", "holds each wallet, and each transfer, against the grants.")
_verified("V07", "grants_are_held_against_their_trace", "derives what is left of each grant from its trace.")
_verified("V08", "grants_are_held_against_their_time", "compares each use of a grant with its beginning and end.")
_verified("V10", "claims_are_held_against_records", "holds each claim against what it stands for, and the reverse.")
_verified("V13", "rollups_are_held_against_records", "adds up the records of each folded quarter again.")
_verified("V14", "quarters_are_held_against_days", "looks for the one day that each folded quarter lies in.")
_verified(
    "V23", "holds_are_held_against_their_end", "looks for holds past their end, and for captures without their record."
)
_verified("V27", "rows_are_of_one_organization", "looks for rows that refer to another organization's.")
_verified("V29", "partitions_stand_ahead", "counts the days for which partitions stand.")
_verified("V30", "amounts_are_numbers", "looks for NaN and for amounts out of range in every column of money.")
_verified("V31", "transfers_are_chained", "derives the chain of digests again and compares it with the seals.")
_verified("V32", "seals_are_compared", "compares each wallet with where it stood when it was sealed.")
_verified("V34", "guards_are_of_the_release", "compares constraints and triggers with those of the release.")
_verified("V35", "settings_are_durable", "reads the server's settings, and those made for roles and databases.")
_verified("B01", "ceilings_are_held_against_records", "holds what ceilings counted against the records.")


@guard("what_is_held_counts_against_ceilings")
def _() -> Disabled:
    """What open holds may still use counts against a ceiling like what was used, read under the wallet's lock."""
    live = importlib.import_module("billing.budgets")._live

    def nothing_held(*args: Any, **more: Any) -> Any:
        return [one._replace(held=0) for one in live(*args, **more)]

    return patched("billing.budgets._live", nothing_held)


@guard("one_topup_is_open")
def _() -> Disabled:
    """A partial unique index lets a wallet have one open top-up, whoever asks for it and however often."""
    return without_constraint("topup", "topup_one_open")


@guard("declined_cards_rest")
def _() -> Disabled:
    """A decline is followed by a rest, longer each time, and the fourth in a row by the end."""
    return patched("billing.topups._rest", lambda *_: None)


@guard("grants_have_one_order")
def _() -> Disabled:
    """Who paid for a record is worked out by the comparator by which grants were spent."""
    spending = importlib.import_module("billing.books")

    def oldest_first(lots: Any) -> Any:
        return tuple(sorted(lots, key=lambda lot: lot.id))

    return patched("billing.tracing.books", SimpleNamespace(**{**vars(spending), "arranged": oldest_first}))


@guard("voids_follow_the_trace")
def _() -> Disabled:
    """What a void gives back goes to the grants of which the trace says that they paid."""
    back, grants = importlib.import_module("billing.ledger").Back, importlib.import_module("billing.models").Grant

    def to_any_that_was_used(payer_id: Any, changes: Any) -> Any:
        used = {
            row.id: row.amount_usd - row.remaining_usd
            for row in grants.objects.filter(organization_id=payer_id).order_by("id")
        }
        found = []
        for change in changes:
            left = -change.cost_usd
            for grant_id, most in used.items():
                if part := min(left, most):
                    found.append(back(grant_id, part, change.record.id))
                    used[grant_id] -= part
                    left -= part
            if left:
                found.append(back(None, left, change.record.id))
        return found

    return patched("billing.corrections._back", to_any_that_was_used)


@guard("refunds_are_capped")
def _() -> Disabled:
    """A refund is held against what is left of purchased credit, under the wallet's lock."""
    books = importlib.import_module("billing.books")

    def uncapped(_: Any, standing: Any, move: Any) -> Any:
        needs = move.needs or (books.Need(move.amount_usd),)
        return books.spend(
            standing, needs, kind=move.kind, to=move.credit, only=move.only, by_record=move.by_record
        )  # fmt: skip

    return patched("billing.ledger._Entry._spend", uncapped)


@guard("only_purchased_credit_is_refunded")
def _() -> Disabled:
    """A refund is taken from purchased grants, whatever else the wallet has."""
    move = importlib.import_module("billing.adjustments")._move
    return patched("billing.adjustments._move", lambda *told: move(*told)._replace(only=None))


@guard("costs_are_exact")
def _() -> Disabled:
    """A cost is a sum of whole pico-dollars, and nothing rounds it."""
    rate = importlib.import_module("metering.rating").rate

    def to_the_microdollar(*told: Any) -> Any:
        rated = rate(*told)
        return type(rated)((rated.cost_pico + 500_000) // 1_000_000 * 1_000_000, rated.terms)

    return patched("metering.rating.rate", to_the_microdollar)


@guard("rollups_are_replaced")
def _() -> Disabled:
    """What a quarter's rollups said before is removed by the transaction that counts the quarter again."""
    return rewritten("DELETE FROM usage_rollup WHERE", "DELETE FROM usage_rollup WHERE false AND")


@guard("one_run_folds")
def _() -> Disabled:
    """Whoever folds holds the mark's row, and others go away instead of waiting for it."""
    return rewritten("FROM rollup_mark WHERE id = 1 FOR NO KEY UPDATE SKIP LOCKED", "FROM rollup_mark WHERE id = 1")


@guard("rows_and_mark_move_together")
def _() -> Disabled:
    """The rollups of a step and the mark behind them are one transaction."""
    replace = importlib.import_module("metering.rollups")._replace

    def commit_early(*bounds: Any) -> None:
        replace(*bounds)
        importlib.import_module("django.db").connection.connection.commit()

    return patched("metering.rollups._replace", commit_early)


@guard("only_final_usage_is_folded")
def _() -> Disabled:
    """A quarter is folded when no transaction can add to it any more: a minute after its end."""
    return patched("metering.usage.FINAL_AFTER", timedelta(minutes=-16))


@guard("nothing_forgotten_is_accepted")
def _() -> Disabled:
    """What happened before the instant up to which claims were trimmed is refused, whatever window is set."""
    window = importlib.import_module("datetime").timedelta(days=365)
    return patched("metering.horizon.age_max", lambda now: window)


@guard("missing_months_are_made")
def _() -> Disabled:
    """A month that is missing is made in a transaction of its own, and the batch is tried again."""
    return patched("billing.charges._months_are_made", lambda: False)


@guard("changes_of_tables_wait_briefly")
def _() -> Disabled:
    """What changes tables waits for its locks for two seconds, whatever other statements may wait."""
    return patched("metering.partitions.wait_at_most", lambda milliseconds: None)


import tests.guards_calls  # noqa: E402
import tests.guards_documents  # noqa: E402
import tests.guards_door  # noqa: E402
import tests.guards_invoices  # noqa: E402
import tests.guards_jobs  # noqa: E402
import tests.guards_machine  # noqa: E402
import tests.guards_pages  # noqa: E402
import tests.guards_payments  # noqa: E402
import tests.guards_proxies  # noqa: E402
import tests.guards_reconciliation  # noqa: E402
import tests.guards_webhooks  # noqa: E402, F401
