"""What a runtime role may do with each table (decisions 23), as the models say it themselves.

* ``append_only = True`` on a model: the books. SELECT and INSERT, whatever happens.
* ``undeletable = True``: rows change and stay. No DELETE.
* ``trimmed = True``: rows change, and go when they are old. Only the owner deletes them.
* any other model: SELECT, INSERT, UPDATE and DELETE.
* a table that no model describes (the log of migrations, a month that was detached): SELECT.

Partitions get nothing: they are reached through their table, so a month made later needs no grant,
and nobody gets around the table's rights. TRUNCATE, DDL and ownership stay with the owner.
"""

from typing import LiteralString

from django.apps import apps
from django.db import connection, transaction
from django.db.models import Model
from psycopg import sql

READ: tuple[LiteralString, ...] = ("SELECT",)
APPEND: tuple[LiteralString, ...] = ("SELECT", "INSERT")
KEEP: tuple[LiteralString, ...] = ("SELECT", "INSERT", "UPDATE")
ALL: tuple[LiteralString, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")


class UnfitRole(Exception):
    """A role that cannot be held to the rights granted to it; the message says why."""


def books() -> frozenset[str]:
    """The tables that are only ever appended to."""
    return frozenset(model._meta.db_table for model in apps.get_models() if getattr(model, "append_only", False))


def of_tables() -> dict[str, tuple[LiteralString, ...]]:
    """Rights by table, for every table of a model."""
    rights: dict[str, tuple[LiteralString, ...]] = {}
    appended = books()
    for model in apps.get_models(include_auto_created=True):
        table = model._meta.db_table
        if table in appended:
            rights[table] = APPEND
        else:
            rights[table] = KEEP if _stays(model) else ALL
    return rights


def _stays(model: type[Model]) -> bool:
    return getattr(model, "undeletable", False) or getattr(model, "trimmed", False)


@transaction.atomic
def grant(*, role: str) -> dict[str, tuple[LiteralString, ...]]:
    """Give an existing role the rights of a running Tollbook and no others; rights by table.

    Raises ``UnfitRole`` for a role that is not there or stands above what it is granted.
    """
    name = sql.Identifier(role)
    with connection.cursor() as cursor:
        _refuse_unfit(role)
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition ORDER BY relname"
        )
        there = [row[0] for row in cursor.fetchall()]
        known = of_tables()
        given = {table: known.get(table, READ) for table in there}
        cursor.execute(sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC, {}").format(name))
        cursor.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, {}").format(name))
        cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(name))
        cursor.execute(sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}").format(name))
        for table, rights in given.items():
            words = sql.SQL(", ").join(map(sql.SQL, rights))
            cursor.execute(sql.SQL("GRANT {} ON {} TO {}").format(words, sql.Identifier(table), name))
    return given


def _refuse_unfit(role: str) -> None:
    """Raise ``UnfitRole`` if the role can get around what it is granted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [role])
        found = cursor.fetchone()
        if found is None:
            raise UnfitRole(f"there is no role {role}; the database's administrator makes one with CREATE ROLE")
        if found[0]:
            raise UnfitRole(f"{role} is a superuser, whom no right binds")
        cursor.execute(
            "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace"
            " AND pg_has_role(%s, relowner, 'MEMBER') ORDER BY relname LIMIT 1",
            [role],
        )
        owned = cursor.fetchone()
        if owned is not None:
            raise UnfitRole(f"{role} owns {owned[0]} or belongs to its owner, who may change everything")
