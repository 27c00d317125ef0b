"""House rules as tests. Each rule reads source and names what breaks it; each is shown a breach first."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from django.apps import apps
from django.db import connection

from tests.database import ROOT

APPS = ("core", "orgs", "ops", "metering", "billing", "gateway", "portal")

# One table has one writer (design 1). None: nothing writes it yet.
WRITERS: dict[str, str | None] = {
    "account_user": "orgs.organizations",
    "organization": "orgs.organizations",
    "member": "orgs.members",
    "role": "orgs.members",
    "auth_group": "orgs.roles",
    "django_session": "core.submissions",
    "otp_totp_totpdevice": "orgs.second_factor",
    "otp_static_staticdevice": "orgs.second_factor",
    "otp_static_statictoken": "orgs.second_factor",
    "project": "orgs.projects",
    "api_key": "orgs.keys",
    "external_id": "orgs.externals",
    "rate_limit": "orgs.ratelimits",
    "audit_entry": "orgs.audit",
    "cache_epoch": "orgs.caches",
    "job_run": "ops.jobs",
    "job_period": "ops.jobs",
    "outbox": "ops.outbox",
    "webhook_endpoint": "ops.endpoints",
    "webhook_delivery": "ops.deliveries",
    "mail": "ops.mails",
    "idempotency_key": "ops.idempotency",
    "model": "metering.catalog",
    "price": "metering.catalog",
    "usage_claim": "metering.usage",
    "usage_record": "metering.usage",
    "request_log": "metering.usage",
    "quarantine": "metering.quarantine",
    "usage_rollup": "metering.rollups",
    "rollup_mark": "metering.rollups",
    "archived_month": "metering.archives",
    "archived_sum": "metering.archives",
    "claim_horizon": "metering.horizon",
    "wallet": "billing.ledger",
    "transfer": "billing.ledger",
    "price_draft": "metering.pricebook",
    "price_draft_line": "metering.pricebook",
    "approval": "ops.approvals",
    "price_rule": "metering.rules",
    "correction": "billing.corrections",
    "rerating": "billing.rerating",
    "rerating_share": "billing.rerating",
    "credit_grant": "billing.lots",
    "grant_use": "billing.lots",
    "hold": "billing.holds",
    "budget": "billing.budgets",
    "budget_spend": "billing.budgets",
    "adjustment": "billing.adjustments",
    "topup": "billing.topups",
    "recharge": "billing.topups",
    "topup_limit": "billing.topups",
    "payment": "billing.payments",
    "balance_transaction": "billing.processor.reconciliation",
    "reconciliation_mark": "billing.processor.reconciliation",
    "difference": "billing.differences",
    "provider_bill": "billing.provider_bills",
    "provider_bill_line": "billing.provider_bills",
    "refund": "billing.refunds",
    "dispute": "billing.disputes",
    "stripe_customer": "billing.processor.customers",
    "payment_card": "billing.processor.customers",
    "stripe_event": "billing.processor.inbox",
    "ledger_head": "billing.seals",
    "check_run": "billing.verification",
    "legal_entity": "billing.profiles",
    "billing_profile": "billing.profiles",
    "tax_rate": "billing.profiles",
    "number_series": "billing.numbers",
    "billing_period": "billing.closing",
    "invoice": "billing.invoices",
    "invoice_line": "billing.invoices",
    "invoice_settlement": "billing.invoices",
    "bank_transfer": "billing.bank",
    "dunning_step": "billing.dunning",
    "attempt": "metering.attempts",
    "channel": "gateway.channels",
    "route": "gateway.channels",
    "call_terms": "gateway.terms",
    "call_key": "gateway.replays",
    "unknown_outcome": "gateway.outcomes",
}
# Writes outside of a table's room, each with its reason. May only shrink.
WRITES_ELSEWHERE = {
    "core.bulk: save of an unknown table": "copies rows for the rooms, which name their table",
    "orgs.models: save of an unknown table": "Django makes people through a manager's create_user",
}

MONEY_MODULES = ("core/money.py", "metering/rating.py", "billing/*.py", "metering/importers/*.py", "documents/[!p]*.py")

# Wiring and tables: tested through what they wire.
NOT_ROOMS = {"__init__", "admin", "apps", "management", "models", "urls", "wsgi", "celery", "settings", "serializers"}
# Rooms without a test file of their own. May only shrink.
UNMIRRORED = {
    "core.clock",
    "core.env",
    "core.errors",
    "gateway.events",
    "metering.tasks",
    "metering.verdicts",
}

FILE_NAMES = {"services", "utils", "help" + "ers", "common", "signals"}

# Unique columns whose nulls mean "none" and may stand many times. May only shrink.
NULLS_APART = {
    # Stripe has not said its id yet.
    "payment.payment_charge_id_key: charge_id",
    "payment.payment_intent_id_key: intent_id",
    "payment.payment_session_id_key: session_id",
    "refund.refund_stripe_id_key: stripe_id",
    "stripe_customer.stripe_customer_stripe_id_key: stripe_id",
    "organization.organization_personal_of_id_key: personal_of_id",
    "rerating.rerating_undoes_id_key: undoes_id",
}

# Written so that this file does not hold them.
WORDS = (
    r"/wor[k]/|/far[m]/|/tm[p]/|/roo[t]/",
    r"py[p]i\.org|pythonhoste[d]|npmj[s]|debia[n]\.org|proxy\.golan[g]|crates\.i[o]",
    r"\.librar[y]/|\btool librar[y]\b",
    r"\bissu[e]s? #?\d|\b(?:this|the) brie[f]\b|\bfounde[r]\b|\bsub-?agen[t]s?\b|\bhelpe[r]s?\b",
)
# Text nobody here wrote: encodings, locked hashes.
NOT_OURS = {".tiktoken", ".lock"}

# A folder of templates as the library that they override names it.
_THEIRS = "unfold/help" + "ers/"

_WRITING = {
    "abulk_create", "acreate", "adelete", "asave", "aupdate", "bulk_create", "bulk_update", "create",
    "create_superuser", "create_user", "delete", "get_or_create", "update", "update_or_create",
}  # fmt: skip
_SQL_WRITE = re.compile(
    r"\b(?:INSERT\s+INTO|DELETE\s+FROM|MERGE\s+INTO|TRUNCATE(?:\s+TABLE)?|COPY|UPDATE)\s+(?:ONLY\s+)?\"?(\w+|\{)",
    re.ASCII,
)
# Words that follow these verbs in SQL that writes no table: DO UPDATE SET, FOR UPDATE OF, ON UPDATE CASCADE.
_NOT_TABLES = {"set", "of", "or", "on", "cascade", "skip", "nowait", "statement"}
_UNWANTED = re.compile(r"^django\.(?:.*\.signals|dispatch)\b|\bmark_safe$")
_UNCALLED = {
    "apply_async", "apply_async_on_commit", "delay", "delay_on_commit", "mark_safe", "s", "send_task", "si",
    "signature",
}  # fmt: skip
_MONEY = re.compile(r"usd|cost|price|balance|amount|money")
# The one room that sends messages to workers: on commit, never inside a transaction (J05).
_SENT = ("ops.jobs", "send_task")


class Module(NamedTuple):
    """A source file: its dotted name, its place, its text."""

    name: str
    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)


def module(text: str, name: str = "billing.example") -> Module:
    """A made-up file, to show a rule its breach."""
    return Module(name, name.replace(".", "/") + ".py", text)


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the product; migrations are history."""
    found = []
    for app in APPS:
        for path in sorted((ROOT / app).rglob("*.py")):
            place = path.relative_to(ROOT)
            if "migrations" not in place.parts:
                name = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
                found.append(Module(name, str(place), path.read_text()))
    return tuple(found)


@cache
def tables() -> dict[str, str]:
    """Table by what code calls its model, of our apps."""
    ours = {
        model.__name__: model._meta.db_table
        for model in apps.get_models()
        if model._meta.app_label in {*APPS, "otp_totp", "otp_static"}
    }
    return {**ours, "get_user_model()": "account_user", "Group": "auth_group", "Session": "django_session"}


def strings(tree: ast.Module) -> Iterator[str]:
    """Every string of the code but docstrings; ``{`` stands for what a template fills in."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docstrings | inner):
            yield node.value


def written(source: Module) -> set[str]:
    """Tables that a module writes; ``?`` for a row or a template whose table cannot be told from here."""
    found: set[str] = set()
    for text in strings(source.tree):
        for match in _SQL_WRITE.finditer(text):
            table = match[1].lower()
            if table == "{":
                found.add("?")
            elif table in WRITERS or (table not in _NOT_TABLES and text.lstrip().startswith(match[0].split()[0])):
                found.add(table)
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in _WRITING and (model := _manager_of(node.func.value)):
            found.add(tables().get(model, model))
        elif node.func.attr in {"save", "asave"}:
            found.add("?")
    return found


def _manager_of(node: ast.expr) -> str | None:
    """``X`` of a chain that begins with ``X.objects``."""
    while True:
        if isinstance(node, ast.Attribute) and node.attr in {"objects", "_base_manager", "_default_manager"}:
            return ast.unparse(node.value).rpartition(".")[2]
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        else:
            return None


def breaches_of_one_writer(source: Module) -> list[str]:
    """Tables written outside of their room."""
    rooms = {room for room in WRITERS.values() if room}
    found = []
    for table in sorted(written(source)):
        if table == "?":
            # A row whose class cannot be told: fine in a room that writes rows at all.
            if source.name not in rooms:
                found.append(f"{source.name}: save of an unknown table")
        elif WRITERS.get(table) != source.name:
            found.append(f"{source.name}: writes {table}, which is written by {WRITERS.get(table)}")
    return found


def breaches_of_exact_money(source: Module) -> list[str]:
    """Floats and true division."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "float":
            found.append(f"{source.path}:{node.lineno}: float")
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"{source.path}:{node.lineno}: the float {node.value}")
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found.append(f"{source.path}:{node.lineno}: a division")
    return found


def breaches_of_money_told_exactly(source: Module) -> list[str]:
    """In tests: money made a float, or held against one, which agrees with what is a digit off, too."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "float" and _MONEY.search(ast.unparse(node)):
            found.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Compare) and _MONEY.search(ast.unparse(node)):
            found += [
                f"{source.path}:{part.lineno}: money held against the float {part.value}"
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, float)
            ]
    return found


def breaches_of_locking(source: Module) -> list[str]:
    """Row locks that also lock out rows which only refer to the row (W20)."""
    found = [
        f"{source.path}: {text.strip()[:60]!r}"
        for text in strings(source.tree)
        if re.search(r"\bFOR\s+UPDATE\b", text, re.IGNORECASE)
    ]
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "select_for_update"
        ):
            chosen = {keyword.arg: keyword.value for keyword in node.keywords}
            no_key = chosen.get("no_key")
            if not (isinstance(no_key, ast.Constant) and no_key.value is True):
                found.append(f"{source.path}:{node.lineno}: select_for_update without no_key=True")
    return found


def breaches_of_calling(source: Module) -> list[str]:
    """Calls that the house does without: signals, unescaped markup, tasks sent before their rows are committed."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = {f"{getattr(node, 'module', '')}.{alias.name}".lstrip(".") for alias in node.names}
            if any(_UNWANTED.search(name) for name in names):
                found.append(f"{source.path}:{node.lineno}: {ast.unparse(node)}")
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _UNCALLED
            and (source.name, node.func.attr) != _SENT
        ):
            found.append(f"{source.path}:{node.lineno}: {node.func.attr}; ops.jobs.wake sends tasks")
    return found


def breaches_of_naming(source: Module) -> list[str]:
    """Files that are named after no noun of the house."""
    return [f"{source.path}: {part}" for part in source.name.split(".") if part in FILE_NAMES]


def breaches_of_saying(source: Module) -> list[str]:
    """Modules that do not say what they are."""
    if not source.text.strip() or ast.get_docstring(source.tree):
        return []
    return [f"{source.path}: no docstring"]


def test_each_table_is_written_in_its_room_only() -> None:
    found = {breach for source in modules() for breach in breaches_of_one_writer(source)}
    assert found - WRITES_ELSEWHERE.keys() == set()
    assert WRITES_ELSEWHERE.keys() - found == set(), "no longer needed: take it off the list"


def test_each_table_has_a_declared_writer_and_its_room_says_so() -> None:
    assert set(tables().values()) == WRITERS.keys()
    docs = {source.name: " ".join((ast.get_docstring(source.tree) or "").split()) for source in modules()}
    silent = {room for room in WRITERS.values() if room and "only module that writes" not in docs.get(room, "")}
    assert silent == set()


def test_money_modules_know_no_floats_and_no_division() -> None:
    sources = [source for source in modules() if any(Path(source.path).match(place) for place in MONEY_MODULES)]
    assert {"core.money", "metering.rating", "billing.ledger"} <= {source.name for source in sources}
    assert [breach for source in sources for breach in breaches_of_exact_money(source)] == []


def test_tests_hold_money_against_no_floats() -> None:
    paths = sorted((ROOT / "tests").rglob("*.py"))
    sources = [Module("tests", str(path.relative_to(ROOT)), path.read_text()) for path in paths]
    assert len(sources) > 200
    assert [breach for source in sources for breach in breaches_of_money_told_exactly(source)] == []


@pytest.mark.parametrize(
    "rule",
    [breaches_of_locking, breaches_of_calling, breaches_of_naming, breaches_of_saying],
    ids=lambda rule: rule.__name__,
)
def test_no_module_breaks_the_rule(rule: Callable[[Module], list[str]]) -> None:
    assert [breach for source in modules() for breach in rule(source)] == []


@pytest.mark.parametrize(
    ("rule", "breach"),
    [
        (breaches_of_one_writer, "Wallet.objects.filter(pk=1).update(posted_usd=1)"),
        (breaches_of_one_writer, "models.Transfer.objects.create(amount_usd=1)"),
        (breaches_of_one_writer, "cursor.execute('INSERT INTO transfer (id) VALUES (1)')"),
        (breaches_of_one_writer, "cursor.execute('WITH x AS (SELECT 1) UPDATE wallet SET seq = 1')"),
        (breaches_of_one_writer, "cursor.execute('insert'); cursor.copy(f'COPY {table} FROM STDIN')"),
        (breaches_of_one_writer, "cursor.execute('DELETE FROM elsewhere')"),
        (breaches_of_one_writer, "row.save()"),
        (breaches_of_one_writer, "get_user_model().objects.create_superuser(email='x')"),
        (breaches_of_one_writer, "Project.objects.create(name='x')"),
        (breaches_of_exact_money, "x = float(y)"),
        (breaches_of_exact_money, "def f(x: float) -> None: ..."),
        (breaches_of_exact_money, "x = a / b"),
        (breaches_of_exact_money, "x /= 2"),
        (breaches_of_exact_money, "x = 0.5"),
        (breaches_of_money_told_exactly, "x == float(record.cost_usd)"),
        (breaches_of_money_told_exactly, "assert told['balance_usd'] == 9.99706"),
        (breaches_of_money_told_exactly, "assert told == {'a': 1, 'cost_usd': -0.000362}"),
        (breaches_of_locking, "Wallet.objects.select_for_update()"),
        (breaches_of_locking, "Wallet.objects.select_for_update(no_key=False)"),
        (breaches_of_locking, "execute('SELECT 1 FROM wallet FOR UPDATE')"),
        (breaches_of_locking, "execute(f'SELECT 1 FROM {x} for  update SKIP LOCKED')"),
        (breaches_of_calling, "from django.db.models.signals import post_save"),
        (breaches_of_calling, "from django import dispatch"),
        (breaches_of_calling, "import django.dispatch"),
        (breaches_of_calling, "from django.utils.safestring import mark_safe"),
        (breaches_of_calling, "work.delay(1)"),
        (breaches_of_calling, "work.delay_on_commit(1)"),
        (breaches_of_calling, "app.send_task('billing.tasks.work')"),
        (breaches_of_calling, "work.s(1).apply_async()"),
        (breaches_of_saying, "x = 1"),
    ],
)
def test_the_rule_sees_a_breach(rule: Callable[[Module], list[str]], breach: str) -> None:
    assert rule(module(breach)) != []


@pytest.mark.parametrize(
    ("rule", "fine"),
    [
        (breaches_of_one_writer, "Wallet.objects.filter(pk=1).values(); counts.update({}); key.delete()"),
        (breaches_of_one_writer, "execute('SELECT 1 FROM wallet FOR NO KEY UPDATE SKIP LOCKED')"),
        (breaches_of_exact_money, "x = a // b * 3"),
        (breaches_of_money_told_exactly, "x == Decimal('0.5') and y['cost_usd'] == 1; post(amount_usd=9.99); z > 0.5"),
        (breaches_of_locking, '"""Never FOR UPDATE."""\nWallet.objects.select_for_update(no_key=True)'),
        (breaches_of_calling, "jobs.wake('billing.tasks.work', 1)"),
        (breaches_of_saying, '"""What it is."""\nx = 1'),
    ],
)
def test_the_rule_lets_the_right_way_pass(rule: Callable[[Module], list[str]], fine: str) -> None:
    assert rule(module(fine)) == []


def test_a_file_with_a_name_that_says_nothing_is_seen() -> None:
    assert breaches_of_naming(module("", "billing.utils")) != []
    assert breaches_of_naming(module("", "billing.common.money")) != []
    assert breaches_of_naming(module("", "billing.ledger")) == []


def test_a_table_may_be_written_in_its_own_room() -> None:
    assert breaches_of_one_writer(module("execute('UPDATE wallet SET seq = 1'); row.save()", "billing.ledger")) == []


def files() -> list[Path]:
    """Every file that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        # Not a checkout: everything but what tools leave behind.
        found = [
            path
            for path in ROOT.rglob("*")
            if not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in found if path.is_file() and path.suffix not in NOT_OURS]


def forbidden(text: str) -> list[str]:
    """What no file here may name: places of one machine, package registries, how the work is organized."""
    text = text.replace(_THEIRS, "")
    return [match[0] for pattern in WORDS for match in re.finditer(pattern, text, re.IGNORECASE)]


def test_no_file_names_one_machine_or_how_the_work_is_organized() -> None:
    found = {}
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if words := forbidden(text) + forbidden(str(path.relative_to(ROOT))):
            found[str(path.relative_to(ROOT))] = words
    assert found == {}


@pytest.mark.parametrize(
    "text",
    ["/wor" + "k/main", "see /tm" + "p/x", "https://py" + "pi.org/simple", "issu" + "e 7", "a helpe" + "r did it"],
)
def test_a_forbidden_word_is_seen(text: str) -> None:
    assert forbidden(text) != []


def test_ordinary_words_are_not_forbidden() -> None:
    assert forbidden("issued briefly, at work; a sessions table; DATA_DIR/run; docs/x.md") == []


def rooms() -> set[str]:
    """Modules that ought to have a test file of the same name."""
    return {
        source.name
        for source in modules()
        if source.name.count(".") == 1 and source.name.rpartition(".")[2] not in NOT_ROOMS
    }


def mirror(room: str) -> Path:
    """Where a room's tests are; those of a package in a directory of its name."""
    app, _, name = room.partition(".")
    package = ROOT / "tests" / app / name
    return package if package.is_dir() else package.with_name(f"test_{name}.py")


def test_each_room_has_its_mirror_test() -> None:
    bare = {room for room in rooms() if not mirror(room).exists()}
    assert bare - UNMIRRORED == set()
    assert UNMIRRORED - bare == set(), "these have their tests now, or are gone: take them off the list"


def test_nulls_are_equal_in_every_unique_index(db: None) -> None:
    """A nullable column in a unique index lets the same thing in twice, unless nulls count as equal.

    A partial index that demands the column is fine too, and so are Django's own tables.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.relname || '.' || i.relname || ': ' || a.attname"
            " FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
            " JOIN pg_namespace n ON n.oid = t.relnamespace"
            " JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (x.indkey)"
            " WHERE x.indisunique AND NOT x.indnullsnotdistinct AND NOT a.attnotnull AND n.nspname = 'public'"
            " AND t.relname NOT LIKE ALL (ARRAY['django\\_%', 'auth\\_%', 'axes\\_%'])"
            " AND pg_get_expr(x.indpred, t.oid) IS DISTINCT FROM '(' || a.attname || ' IS NOT NULL)'"
            " ORDER BY 1"
        )
        found = {name for (name,) in cursor.fetchall()}
    assert found - NULLS_APART == set()
    assert NULLS_APART - found == set(), "no longer needed: take it off the list"


def test_a_nullable_unique_index_is_seen(books: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE UNIQUE INDEX slack ON wallet (frozen_at)")
    with pytest.raises(AssertionError, match=r"wallet\.slack"):
        test_nulls_are_equal_in_every_unique_index(None)
