"""The Celery application. Its messages only wake workers: what there is to do is in the database."""

import os
from datetime import timedelta

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

app = Celery("tollbook")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# What runs every few seconds is not saved up while no worker takes it: the next run finds it all.
_OFTEN = timedelta(seconds=10)
app.conf.beat_schedule = {
    "expire_holds": {"task": "billing.tasks.expire_holds", "schedule": _OFTEN, "options": {"expires": _OFTEN.seconds}},
    "settle_grants": {
        "task": "billing.tasks.settle_grants",
        "schedule": _OFTEN,
        "options": {"expires": _OFTEN.seconds},
    },
    "trim_ceilings": {"task": "billing.tasks.trim_ceilings", "schedule": crontab(minute="23")},
    "verify": {"task": "billing.tasks.verify", "schedule": crontab(minute="7")},
    "seal_ledger": {"task": "billing.tasks.seal_ledger", "schedule": crontab(minute="37")},
    "partitions": {"task": "metering.tasks.create_partitions", "schedule": crontab(minute="17", hour="*/6")},
    "trim_claims": {"task": "metering.tasks.trim_claims", "schedule": crontab(minute="53")},
    "archive_months": {"task": "metering.tasks.archive_months", "schedule": crontab(minute="47", hour="3")},
    "fold_rollups": {"task": "metering.tasks.fold_rollups", "schedule": crontab(), "options": {"expires": 50}},
    "publish_prices": {"task": "metering.tasks.publish_prices", "schedule": crontab()},
    "trim_idempotency_keys": {"task": "ops.tasks.trim_idempotency_keys", "schedule": crontab(minute="41")},
    "apply_reratings": {"task": "billing.tasks.apply_reratings", "schedule": crontab()},
    "release_quarantine": {"task": "billing.tasks.release_quarantine", "schedule": crontab(minute="*/5")},
}
