"""Checks of what waits: keys of requests, messages for others, jobs."""

from billing.invariants.checks import Check
from ops.idempotency import ADVISORY_CLASS

# A request is cut off long before.
KEY_IN_USE = "interval '5 minutes'"
MESSAGE_LATE = "interval '60 seconds'"
JOB_LATE = "interval '5 minutes'"

CHECKS = (
    Check(
        "V24 keys are free or answered",
        "SELECT count(*) FROM idempotency_key",
        # A key is written together with its answer, so one in use is an open transaction that holds its lock.
        f"""
        SELECT format('key %s is in use since %s by session %s', l.objid, a.xact_start, l.pid)
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.classid = {ADVISORY_CLASS} AND l.objsubid = 2 AND l.granted
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND a.xact_start < clock_timestamp() - {KEY_IN_USE}
        UNION ALL
        SELECT format('key %s of %s has no answer to repeat: status %s', id, organization_id, status)
        FROM idempotency_key WHERE coalesce(status NOT BETWEEN 200 AND 399, true) OR body IS NULL
        """,
        server=True,
    ),
    Check(
        "V25 nothing waits for long",
        "SELECT (SELECT count(*) FROM job_run) + (SELECT count(*) FROM job_period)"
        " + (SELECT count(*) FROM outbox WHERE delivered_at IS NULL)",
        f"""
        SELECT format('message %s, %s, waits since %s', id, kind, coalesce(next_attempt_at, created_at))
        FROM outbox WHERE delivered_at IS NULL AND coalesce(next_attempt_at, created_at) < now() - {MESSAGE_LATE}
        UNION ALL
        SELECT format('job %s is due since %s and %s', name, due_since, state)
        FROM job_run WHERE due_since < now() - {JOB_LATE} AND (state <> 'running' OR lease_until < now())
        UNION ALL
        SELECT format('job %s is put aside since %s', name, finished_at)
        FROM job_run WHERE state = 'aside' AND coalesce(due_since >= now() - {JOB_LATE}, true)
        UNION ALL
        -- Whoever finds the others late cannot be found late.
        SELECT format('job %s looked for what is due at %s', name, started_at)
        FROM job_run WHERE name = 'sweep' AND started_at < now() - {JOB_LATE}
        UNION ALL
        SELECT format('job %s is done %s times for %s', name, count(*), period)
        FROM job_period WHERE state = 'done' GROUP BY name, period HAVING count(*) > 1
        UNION ALL
        SELECT format('job %s is done for %s, which it has not begun', p.name, p.period)
        FROM job_period p JOIN job_run r ON r.name = p.name
        WHERE p.state = 'done' AND p.period > r.period AND p.period > now()
        """,
        server=True,
    ),
)
