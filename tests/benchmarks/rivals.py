"""What the data plane is measured against, served by the same server: ``python -m tests.benchmarks.rivals NAME``.

``idle``: reads a request and answers without work. ``alone``: the data plane with groups of one.
``narrow``: the data plane with places for few requests to wait.
"""

import os
import sys
from typing import Any

NARROW = 128
IDLE_BODY = (
    b'{"event_id":"00000000000000000000000000000000","status":"created","usage_record_id":'
    b'"usage_01M7ZJCS8VEJXRBNTWCNYQKWEW","cost_usd":0.000362,"wallet":{"organization":"bench-000",'
    b'"balance_usd":999999.999638,"status":"active"}}'
)
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(IDLE_BODY))]


async def _idle(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": IDLE_BODY})


if __name__ == "__main__":
    from core import web

    os.environ["RIVAL"] = sys.argv.pop() if len(sys.argv) > 1 else os.environ["RIVAL"]
    web.TARGETS = dict.fromkeys(web.TARGETS, "tests.benchmarks.rivals:application")
    sys.exit(web.main())
elif "RIVAL" in os.environ:
    import core.asgi as front
    from gateway import groups

    if os.environ["RIVAL"] == "alone":
        groups.WEIGHT_MAX = 1
    if os.environ["RIVAL"] == "narrow":
        groups.WAITING_MAX = NARROW

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The rival on the path of events; everything else as ever."""
        if os.environ["RIVAL"] == "idle" and scope.get("path") == "/v1/events":
            await _idle(scope, receive, send)
        else:
            await front.application(scope, receive, send)
