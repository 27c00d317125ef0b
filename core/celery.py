"""The Celery application. Its messages only wake workers: what there is to do is in the database."""

import os

from celery import Celery
from celery.schedules import crontab
from celery.signals import worker_process_init

from core import processes

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

app = Celery("tollbook")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# A pool process in the middle of a task would outlive a worker that is killed.
worker_process_init.connect(lambda **_: processes.end_with_parent(), weak=False)
app.conf.beat_schedule = {
    "partitions": {"task": "metering.tasks.create_partitions", "schedule": crontab(minute="17", hour="*/6")},
}
