"""A FAKE Stripe over real HTTP, for tests and for walking through payments without the internet.

It is not Stripe and moves no money. It answers exactly the calls that the product makes, in the shapes
of the API version that the installed SDK pins, with Stripe's documented rules on idempotency, cards,
refunds, disputes and signed webhooks. Requests are checked against ``stripe.params``.

    with StripeFake(webhook="http://127.0.0.1:8000/webhooks/stripe") as fake:
        client = stripe.StripeClient(fake.api_key, base_addresses={"api": fake.base_url})

``python -m tests.fakes.stripe --port 4242 --webhook URL`` runs it by itself.

What it leaves out, knowing: other currencies than usd; other methods than cards; taxes, invoices and subscriptions of
Stripe's own. A charge has its balance transaction at once, unless ``state.balance_waits`` is set.
"""

from tests.fakes.stripe.errors import Refusal
from tests.fakes.stripe.server import API_KEY, SECRET, StripeFake

__all__ = ["API_KEY", "SECRET", "Refusal", "StripeFake"]
