"""Migrations are additive first: what runs of the release before goes on while they are applied, and after.

``manage.py prepare`` runs before the new processes start, so the old ones meet the new tables. A migration that must
break with that says why, in ``not_additive`` on its class, and its release says what to stop.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.apps import apps
from django.contrib.postgres.operations import AddConstraintNotValid, ValidateConstraint
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import NOT_PROVIDED, Q

from tests.test_tidy import APPS

# What each app had when the rule began; what is older was never applied under a running release.
BEFORE_THE_RULE = {
    "orgs": "0007_audit_by_actor",
    "ops": "0005_job_periods",
    "metering": "0010_rollup_by_time",
    "billing": "0016_budget_warnings",
    "gateway": "0002_channel_keys",
}
GOING = (
    migrations.RemoveField, migrations.RenameField, migrations.RenameModel, migrations.DeleteModel,
    migrations.AlterModelTable,
)  # fmt: skip
# They change no table.
OF_NO_TABLE = (
    migrations.RunPython, migrations.RunSQL, migrations.AlterModelOptions, migrations.AlterModelManagers,
    ValidateConstraint,
)  # fmt: skip


def faults(migration: Any, before: ProjectState) -> list[str]:
    """What of a migration a release that runs could not live with, or would wait for."""
    if getattr(migration, "not_additive", ""):
        return []
    done = list(_steps(migration, before.clone()))
    made = {op.name_lower for op, _, _ in done if isinstance(op, migrations.CreateModel)}
    found = [
        said for op, was, now in done if getattr(op, "model_name_lower", "") not in made
        for said in _of_one(op, migration.app_label, was, now)
    ]  # fmt: skip
    kinds = [op for op, _, _ in done]
    if any(isinstance(op, migrations.RunPython) for op in kinds) and any(
        not isinstance(op, OF_NO_TABLE) for op in kinds
    ):
        found.append("rows are worked on while a table is locked: a migration of their own")
    return found


def _steps(migration: Any, state: ProjectState) -> Iterator[tuple[Any, ProjectState, ProjectState]]:
    """Each operation on the database, and the models before and after it."""
    for op in migration.operations:
        was = state.clone()
        op.state_forwards(migration.app_label, state)
        inner = op.database_operations if isinstance(op, migrations.SeparateDatabaseAndState) else [op]
        for each in inner:
            yield each, was, state.clone()


def _of_one(op: Operation, app: str, was: ProjectState, now: ProjectState) -> Iterator[str]:
    told = op.describe()
    if isinstance(op, GOING):
        yield f"{told}: what runs still asks for it"
    elif isinstance(op, migrations.AddField) and _must_be_told(op.field):
        yield f"{told}: what runs does not fill it in; null, or a db_default"
    elif isinstance(op, migrations.AlterField):
        old, new = (_field(state, app, op) for state in (was, now))
        if old.null and _must_be_told(new):
            yield f"{told}: what runs may leave it empty; a db_default"
        if old.db_parameters(connection)["type"] != new.db_parameters(connection)["type"]:
            yield f"{told}: the table is written anew under a lock"
    elif type(op) is migrations.AddConstraint and isinstance(op.constraint, models.CheckConstraint):
        yield f"{told}: every row is read under a lock; AddConstraintNotValid, and ValidateConstraint in the next"


def _must_be_told(field: Any) -> bool:
    return not field.null and not field.many_to_many and field.db_default is NOT_PROVIDED


def _field(state: ProjectState, app: str, op: Any) -> Any:
    return state.apps.get_model(app, op.model_name)._meta.get_field(op.name)


def test_every_app_with_tables_has_its_beginning() -> None:
    loader = MigrationLoader(None)
    for app, name in BEFORE_THE_RULE.items():
        assert (app, name) in loader.disk_migrations
    assert set(BEFORE_THE_RULE) == {app for app in APPS if apps.get_app_config(app).models}


def test_no_migration_pulls_the_ground_from_under_the_release_that_runs() -> None:
    loader = MigrationLoader(None)
    wrong = {
        f"{app}.{name}": said
        for (app, name), migration in loader.disk_migrations.items()
        if app in BEFORE_THE_RULE and name > BEFORE_THE_RULE[app]
        and (said := faults(migration, loader.project_state((app, name), at_end=False)))
    }  # fmt: skip
    assert wrong == {}


def made_up(*operations: Operation, **told: Any) -> Any:
    """The next migration of ``ops``."""
    made = type("Migration", (migrations.Migration,), {"operations": list(operations), **told})
    return made("9999_next", "ops")


def _check(kind: type[migrations.AddConstraint]) -> migrations.AddConstraint:
    return kind("mail", models.CheckConstraint(condition=Q(attempts__lt=9), name="few"))


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        ([migrations.RemoveField("mail", "html")], ["still asks for it"]),
        ([migrations.RenameField("mail", "html", "body")], ["still asks for it"]),
        ([migrations.DeleteModel("Mail")], ["still asks for it"]),
        ([migrations.AddField("mail", "note", models.TextField(default=""))], ["does not fill it in"]),
        ([migrations.AddField("mail", "note", models.TextField(db_default=""))], []),
        ([migrations.AddField("mail", "note", models.TextField(null=True))], []),
        ([migrations.AlterField("mail", "leased_until", models.DateTimeField())], ["may leave it empty"]),
        ([migrations.AlterField("mail", "attempts", models.BigIntegerField(default=0))], ["written anew"]),
        ([migrations.AlterField("mail", "attempts", models.IntegerField(default=1))], []),
        ([_check(migrations.AddConstraint)], ["read under a lock"]),
        ([_check(AddConstraintNotValid)], []),
        ([ValidateConstraint("mail", "mail_once")], []),
        ([migrations.RunPython(migrations.RunPython.noop)], []),
        (
            [migrations.AddField("mail", "note", models.TextField(null=True)),
            migrations.RunPython(migrations.RunPython.noop)],
            ["rows are worked on while a table is locked"],
        ),
        (
            [migrations.SeparateDatabaseAndState([migrations.RemoveField("mail", "html")], [])],
            ["still asks for it"],
        ),
        (
            [migrations.CreateModel("Letter", [("id", models.BigAutoField(primary_key=True))]),
            migrations.AddField("letter", "note", models.TextField(default=""))],
            [],
        ),
    ],
)  # fmt: skip
def test_what_breaks_with_it_is_found(operations: Sequence[Operation], said: Sequence[str]) -> None:
    before = MigrationLoader(None).project_state()
    found = faults(made_up(*operations), before)
    assert len(found) == len(said)
    assert all(words in one for words, one in zip(said, found, strict=True))


def test_one_that_says_why_may() -> None:
    removal = migrations.RemoveField("mail", "html")
    before = MigrationLoader(None).project_state()
    assert len(faults(made_up(removal), before)) == 1
    assert faults(made_up(removal, not_additive="nothing has read it since 0.2"), before) == []
