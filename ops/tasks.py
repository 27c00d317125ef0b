"""The machinery's own jobs: each wakes up, calls one verb, and notes how it went."""

from celery import shared_task

from ops import deliveries, idempotency, jobs, mails, outbox
from orgs import sessions


@shared_task
def sweep() -> str:
    """Wake what is due and has not run."""
    return jobs.run("sweep", lambda: f"woke {', '.join(jobs.sweep()) or 'none'}")


@shared_task
def trim_job_periods() -> str:
    """Forget periods of jobs that are long over."""
    return jobs.run("trim_job_periods", lambda: f"forgot {jobs.trim()}")


@shared_task
def trim_idempotency_keys() -> str:
    """Forget the answers that nobody may ask for again."""
    return jobs.run("trim_idempotency_keys", lambda: f"forgot {idempotency.trim()}")


@shared_task
def deliver_webhooks() -> str:
    """Hand messages on, and send what is due to customers' endpoints."""
    return jobs.run("deliver_webhooks", lambda: f"handed on {outbox.hand_on()}, {deliveries.send_due(calm=True)}")


@shared_task
def deliver_to_failing() -> str:
    """Send what is due to endpoints that failed last time."""
    return jobs.run("deliver_to_failing", lambda: deliveries.send_due(calm=False))


@shared_task
def send_mails() -> str:
    """Send the mails that are due."""
    return jobs.run("send_mails", mails.send_due)


@shared_task
def trim_messages() -> str:
    """Forget deliveries, messages and mails that are long done."""
    return jobs.run(
        "trim_messages",
        lambda: f"forgot {deliveries.trim()} deliveries, {outbox.trim()} messages, {mails.trim()} mails",
    )


@shared_task
def trim_sign_ins() -> str:
    """Forget sessions that are over, and failed sign-ins that shut nobody out any more."""
    return jobs.run("trim_sign_ins", sessions.trim)
