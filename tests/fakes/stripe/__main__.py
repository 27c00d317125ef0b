"""``python -m tests.fakes.stripe``: the fake Stripe by itself, until it is told to end."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from tests.fakes.stripe import API_KEY, SECRET, StripeFake


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.stripe", description="A FAKE Stripe; no money moves.")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 takes a free one")
    parser.add_argument("--webhook", help="where events are posted, e.g. http://127.0.0.1:8000/webhooks/stripe")
    parser.add_argument(
        "--secret",
        default=os.environ.get("STRIPE_WEBHOOK_SECRET", SECRET),
        help="the webhook's secret, several separated by commas; else STRIPE_WEBHOOK_SECRET",
    )
    parser.add_argument(
        "--key", default=os.environ.get("STRIPE_API_KEY", API_KEY), help="the API key it expects; else STRIPE_API_KEY"
    )
    parser.add_argument("--keep", type=Path, help="a file to remember everything in")
    given = parser.parse_args()
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    fake = StripeFake(webhook=given.webhook, secret=given.secret, api_key=given.key, port=given.port, keep=given.keep)
    try:
        fake.start()
    except OSError as error:
        sys.exit(f"fake Stripe: cannot listen on port {given.port}: {error.strerror}")
    print(f"FAKE STRIPE at {fake.base_url}", flush=True)
    ending.wait()
    fake.stop()


if __name__ == "__main__":
    main()
