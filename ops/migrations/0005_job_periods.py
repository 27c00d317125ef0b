"""Jobs are rows: which period each is at, who runs it and until when, and the periods that are over.

What ``job_run`` held was the last run of each job, which the next one says again: it begins empty.
"""

import core.fields
import core.ids
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("ops", "0004_webhooks_and_mails"),
    ]

    operations = [
        migrations.DeleteModel(name="JobRun"),
        migrations.CreateModel(
            name="JobPeriod",
            fields=[
                (
                    "id",
                    core.fields.IdField(
                        default=core.ids.new, editable=False, prefix="jobp", primary_key=True, serialize=False
                    ),
                ),
                ("name", models.TextField()),
                ("period", models.DateTimeField()),
                ("state", models.TextField(choices=[("done", "done"), ("aside", "put aside")])),
                ("attempts", models.SmallIntegerField()),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField()),
                ("took_ms", models.BigIntegerField(null=True)),
                ("result", models.TextField()),
            ],
            options={
                "db_table": "job_period",
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(fields=("name", "period"), name="job_period_once"),
                    models.CheckConstraint(
                        condition=models.Q(("state__in", ("done", "aside"))), name="job_period_state"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("took_ms__isnull", True), ("took_ms__gte", 0), _connector="OR"),
                        name="job_period_took",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="JobRun",
            fields=[
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("period", models.DateTimeField()),
                (
                    "state",
                    models.TextField(
                        choices=[
                            ("due", "due"),
                            ("running", "running"),
                            ("done", "done"),
                            ("failed", "failed, tried again"),
                            ("aside", "put aside"),
                        ]
                    ),
                ),
                ("attempts", models.SmallIntegerField(default=0)),
                ("token", models.UUIDField(null=True)),
                ("lease_until", models.DateTimeField(null=True)),
                ("next_attempt_at", models.DateTimeField(null=True)),
                (
                    "due_since",
                    models.DateTimeField(
                        help_text="Since when the sweep finds it due; empty once it is done", null=True
                    ),
                ),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("took_ms", models.BigIntegerField(null=True)),
                ("done_period", models.DateTimeField(help_text="The newest period that is done", null=True)),
                (
                    "ok",
                    models.GeneratedField(
                        db_persist=True,
                        expression=models.Case(
                            models.When(state="done", then=models.Value(True)),
                            models.When(state__in=("failed", "aside"), then=models.Value(False)),
                        ),
                        output_field=models.BooleanField(help_text="Empty while it runs", null=True),
                    ),
                ),
                ("result", models.TextField(default="")),
            ],
            options={
                "db_table": "job_run",
                "ordering": ("name",),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("state__in", ("due", "running", "done", "failed", "aside"))),
                        name="job_run_state",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("lease_until__isnull", False),
                                ("started_at__isnull", False),
                                ("state", "running"),
                                ("token__isnull", False),
                            ),
                            models.Q(
                                models.Q(("state", "running"), _negated=True),
                                ("lease_until__isnull", True),
                                ("token__isnull", True),
                            ),
                            _connector="OR",
                        ),
                        name="job_run_lease",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("next_attempt_at__isnull", False), ("state", "failed")),
                            models.Q(models.Q(("state", "failed"), _negated=True), ("next_attempt_at__isnull", True)),
                            _connector="OR",
                        ),
                        name="job_run_again",
                    ),
                    models.CheckConstraint(condition=models.Q(("attempts__gte", 0)), name="job_run_attempts"),
                    models.CheckConstraint(
                        condition=models.Q(("took_ms__isnull", True), ("took_ms__gte", 0), _connector="OR"),
                        name="job_run_took",
                    ),
                ],
            },
        ),
    ]
