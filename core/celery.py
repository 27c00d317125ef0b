"""The Celery application. Its messages only wake workers: what there is to do is in the database."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

app = Celery("tollbook")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "partitions": {"task": "metering.tasks.create_partitions", "schedule": crontab(minute="17", hour="*/6")},
    "publish_prices": {"task": "metering.tasks.publish_prices", "schedule": crontab()},
    "release_quarantine": {"task": "billing.tasks.release_quarantine", "schedule": crontab(minute="*/5")},
}
