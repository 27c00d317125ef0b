"""Checks of single rows: whose they are, whether amounts are amounts, and that none holds a key."""

from django.apps import apps
from django.contrib.postgres.fields import ArrayField
from django.db.models import BinaryField, CharField, Field, JSONField, Model, TextField

from billing.invariants.checks import Check
from core import money
from core.fields import UsdField

# Amounts that may fall below zero: what takes back, and what was counted less it. Of a wallet's signs V05 tells.
SIGNED = {
    ("wallet", "posted_usd"), ("wallet", "held_usd"), ("wallet", "overdraft_usd"),
    ("transfer", "balance_after_usd"), ("correction", "cost_usd"), ("usage_record", "cost_usd"),
    ("grant_use", "amount_usd"), ("budget", "spent"), ("budget_spend", "amount"), ("rerating_share", "before_usd"),
    ("archived_sum", "cost_usd"), ("difference", "ours_usd"), ("difference", "theirs_usd"),
    ("rerating_share", "after_usd"),
    ("billing_period", "charged_usd"), ("billing_period", "closing_usd"), ("billing_period", "carried_usd"),
    ("invoice", "exact_usd"), ("invoice", "subtotal_usd"), ("invoice", "total_usd"), ("invoice", "opening_usd"),
    ("invoice", "closing_usd"), ("invoice_line", "exact_usd"), ("invoice_line", "amount_usd"),
    ("invoice_settlement", "amount_usd"), ("invoice_settlement", "tax_usd"), ("invoice_settlement", "over_usd"),
}  # fmt: skip
# The parts of a scope that tables with time-ordered ids have; the others are read whole.
_PARTS = {"usage_record": "$records", "request_log": "$logs", "grant_use": "$uses", "hold": "$holds",
    "transfer": "$transfers", "ledger_head": "$sealed"}  # fmt: skip
# Of no organization.
_NOBODYS = {"provider_bill_line"}
# No index by time: only a deep run reads all of it.
_DEEP = {"usage_claim"}


def amounts() -> dict[str, list[tuple[str, bool]]]:
    """Every table with amounts, and which columns hold them: name, and whether it may be empty."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for model in apps.get_models():
        columns = [(str(one.column), one.null) for one in model._meta.concrete_fields if isinstance(one, UsdField)]
        if columns:
            found[model._meta.db_table] = columns
    return found


def _in_range(table: str, column: str, null: bool) -> str:
    """A condition that neither NaN nor what is missing meets."""
    low = f"> -{money.USD_MAX}" if (table, column) in SIGNED else ">= 0"
    wanted = f"{column} {low} AND {column} < {money.USD_MAX}"
    return f"({column} IS NULL OR {wanted})" if null else f"coalesce({wanted}, false)"


def _out_of_range(table: str, columns: list[tuple[str, bool]]) -> str:
    shown = ", ".join(f"coalesce({column}::text, 'nothing')" for column, _ in columns)
    wanted = " AND ".join(_in_range(table, column, null) for column, null in columns)
    deep = "$deep AND " if table in _DEEP else ""
    owner = "'nobody'" if table in _NOBODYS else "organization_id"
    return (
        f"SELECT format('{table} of %s: %s', {owner}, concat_ws(', ', {shown}))"
        f" FROM {_PARTS.get(table, table)} x WHERE {deep}NOT ({wanted})"
    )


# An API key (``orgs.keys``), valid or not. The plain search goes first: it is much the faster of the two.
_KEY = "({0} LIKE '%dtk\\_%' AND {0} ~ 'dtk_[0-9A-Za-z]{{49}}')"
# These grow with every call and have no index by time, so only a deep run reads them.
_GROWING = {*_DEEP, "usage_rollup", "attempt", "call_key", "outbox_message", "webhook_delivery"}
# Bytes that are digests of something.
_DIGESTS = {"digest", "fingerprint", "head"}


def texts() -> dict[type[Model], list[str]]:
    """Every table in which something can be written down, and its columns as text; words of ours are left out."""
    found: dict[type[Model], list[str]] = {}
    for model in apps.get_models():
        shown = [_as_text(one) for one in model._meta.concrete_fields if not one.choices]
        columns = [text for text in shown if text]
        if columns:
            found[model] = columns
    return found


def _as_text(field: "Field[object, object]") -> str:
    if isinstance(field, TextField | CharField):
        return f"x.{field.column}"
    if isinstance(field, JSONField | ArrayField):
        return f"x.{field.column}::text"
    if isinstance(field, BinaryField) and field.column not in _DIGESTS:
        return f"encode(x.{field.column}, 'escape')"
    return ""


def _with_key(model: type[Model], columns: list[str]) -> str:
    table = model._meta.db_table
    place = ", ".join(f"x.{one.column}" for one in model._meta.pk_fields)
    deep = "$deep AND " if table in _GROWING else ""
    found = " OR ".join(_KEY.format(column) for column in columns)
    return (
        f"SELECT format('{table} %s holds a key in plain text', concat_ws(' ', {place}))"
        f" FROM {_PARTS.get(table, table)} x WHERE {deep}({found})"
    )


# Of a personal key the organization is its owner's own; it speaks for others by a membership.
_KEYS = """
    SELECT format('{0} %s of %s is of key %s, which speaks for others', x.id, x.organization_id, k.id)
    FROM {1} x JOIN api_key k ON k.id = x.api_key_id
    WHERE k.organization_id IS DISTINCT FROM x.organization_id AND NOT (k.kind = 'personal' AND EXISTS (
        SELECT 1 FROM member m
        WHERE m.id = x.member_id AND m.user_id = k.user_id AND m.organization_id = x.organization_id))
    UNION ALL
    SELECT format('{0} %s of %s is of member %s of %s', x.id, x.organization_id, m.id, m.organization_id)
    FROM {1} x JOIN member m ON m.id = x.member_id WHERE m.organization_id <> x.organization_id
    UNION ALL
    SELECT format('{0} %s of %s is of project %s of %s', x.id, x.organization_id, p.id, p.organization_id)
    FROM {1} x JOIN project p ON p.id = x.project_id WHERE p.organization_id <> x.organization_id
    UNION ALL
    SELECT format('{0} %s of %s was paid by %s, who is not its caller', x.id, x.organization_id, x.payer_id)
    FROM {1} x JOIN organization p ON p.id = x.payer_id
    WHERE x.payer_id <> x.organization_id AND NOT (x.member_id IS NULL AND p.slug LIKE 'personal-%' OR EXISTS (
        SELECT 1 FROM member m
        WHERE m.id = x.member_id AND m.organization_id = x.organization_id AND m.user_id = p.personal_of_id))
"""

CHECKS = (
    Check(
        "V27 rows of one organization",
        "SELECT (SELECT count(*) FROM $records x) + (SELECT count(*) FROM $holds x) + (SELECT count(*) FROM $uses x)",
        f"""
        {_KEYS.format("record", "$records")}
        UNION ALL
        {_KEYS.format("hold", "$holds")}
        UNION ALL
        SELECT format('use %s of %s names transfer %s and grant %s', u.id, u.organization_id, u.transfer_id, u.grant_id)
        FROM $uses u
        LEFT JOIN transfer t ON t.organization_id = u.organization_id AND t.id = u.transfer_id
        LEFT JOIN credit_grant g ON g.organization_id = u.organization_id AND g.id = u.grant_id
        WHERE t.id IS NULL OR g.id IS NULL
        UNION ALL
        SELECT format('grant %s of %s names transfer %s', g.id, g.organization_id, g.transfer_id)
        FROM credit_grant g LEFT JOIN transfer t ON t.organization_id = g.organization_id AND t.id = g.transfer_id
        WHERE g.transfer_id IS NOT NULL AND t.id IS NULL
        UNION ALL
        SELECT format('correction %s of %s corrects record %s, and its record %s', c.id, c.organization_id,
            c.record_id, coalesce(r.corrects_id::text, 'nothing'))
        FROM correction c
        LEFT JOIN usage_record r ON r.organization_id = c.organization_id AND r.id = c.id
        LEFT JOIN usage_record o ON o.organization_id = c.organization_id AND o.id = c.record_id
        WHERE c.id >= $first AND c.id < $last
            AND (r.corrects_id IS DISTINCT FROM c.record_id OR o.id IS NULL AND c.record_id >= $first
                OR r.transfer_id IS DISTINCT FROM c.transfer_id)
        UNION ALL
        SELECT format('ceiling %s of %s is on the %s %s of %s',
            b.id, b.organization_id, b.subject, b.subject_id, s.owner)
        FROM budget b JOIN (
            SELECT 'organization' AS subject, id, id AS owner FROM organization
            UNION ALL SELECT 'project', id, organization_id FROM project
            UNION ALL SELECT 'member', id, organization_id FROM member
            UNION ALL SELECT 'key', id, organization_id FROM api_key WHERE kind = 'organization'
        ) s ON s.subject = b.subject AND s.id = b.subject_id
        WHERE s.owner <> b.organization_id
        UNION ALL
        SELECT format('hold %s of %s is counted by ceiling %s of %s', h.id, h.organization_id, b.id, b.organization_id)
        FROM $holds h JOIN budget b ON b.id = ANY (h.budget_ids) WHERE b.organization_id <> h.organization_id
        """,
    ),
    Check(
        "V30 money is a number in range",
        f"SELECT {' + '.join(f'(SELECT count(*) FROM {_PARTS.get(table, table)} x)' for table in amounts())}",
        " UNION ALL ".join(_out_of_range(table, columns) for table, columns in amounts().items()),
    ),
    Check(
        "V33 no key in plain text",
        f"SELECT {sum(map(len, texts().values()))}",
        " UNION ALL ".join(_with_key(model, columns) for model, columns in texts().items()),
        server=True,
    ),
)
