"""Backups: a dump is restored beside the books, checked there as ``verify`` checks, and dropped again.

A dump that nobody has restored is a hope. The copy is a database of its own on the same server, so its owner needs
the right to create databases; nothing in the books is touched.
"""

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from django.db import connection
from psycopg import sql
from psycopg.conninfo import make_conninfo

from billing import invariants
from billing.invariants import Finding, heads
from billing.invariants.heads import Head
from core.embedded import EmbeddedError, postgres_bin

# What of a connection's settings leads to the server; a password goes by the environment, where nobody lists it.
_PLACE = ("host", "port", "user", "sslmode", "sslrootcert", "sslcert", "sslkey")
_NAME_MAX = 40


class BadBackup(Exception):
    """A file that cannot be restored; the message says why, in a line."""


def check(dump: Path, *, exported: Sequence[Head] = ()) -> list[Finding]:
    """Restore a dump (``pg_dump --format=custom``) and say what the checks find in the copy.

    With ``exported`` heads also whether it is as new as they are. Raises ``BadBackup``, and what the server says
    to a role that may not create databases.
    """
    with _restored(dump) as name, _led_to(name):
        return _findings(exported)


def _findings(exported: Sequence[Head]) -> list[Finding]:
    return invariants.check(server=True, more=heads.against(exported) if exported else ())


@contextmanager
def _restored(dump: Path) -> Iterator[str]:
    """The name of a database with what the dump holds, until the end of the block."""
    params = connection.get_connection_params()
    name = f"{params['dbname'][:_NAME_MAX]}_copy_{secrets.token_hex(4)}"
    place = {key: str(params[key]) for key in _PLACE if params.get(key)}
    password = {"PGPASSWORD": str(params["password"])} if params.get("password") else {}
    _say("CREATE DATABASE {}", name)
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            [
                _program(),
                "--dbname",
                make_conninfo(**place, dbname=name),
                "--exit-on-error",
                "--no-owner",
                "--no-privileges",
                str(dump),
            ],
            env={**os.environ, **password},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"pg_restore ended with {done.returncode}"]
            raise BadBackup(f"{dump} cannot be restored: {said[0]}")
        yield name
    finally:
        _say("DROP DATABASE {} WITH (FORCE)", name)


def _say(statement: str, name: str) -> None:
    """A statement that no transaction may hold."""
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _program() -> str:
    """``pg_restore``, the newest there is: on PATH, or beside the server that we bring along. Raises ``BadBackup``."""
    found = [shutil.which("pg_restore")]
    with suppress(EmbeddedError):
        found.append(shutil.which("pg_restore", path=str(postgres_bin())))
    programs = [program for program in found if program is not None]
    if not programs:
        raise BadBackup("there is no pg_restore here; install PostgreSQL's client programs")
    return max(programs, key=_major)


def _major(program: str) -> int:
    """Its version, of ``pg_restore (PostgreSQL) 18.4``."""
    told = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours
    return int(re.split(r"[^0-9]+", told.rpartition(") ")[2])[0])


@contextmanager
def _led_to(name: str) -> Iterator[None]:
    """This process's connection leads to another database of the server."""
    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before
