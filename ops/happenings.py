"""What customers can be told of: every kind of message that an endpoint may want, and what each means.

The documentation (docs/guides/webhooks.md) lists the same. A message of another kind stays inside:
it is for mails and for the desk.
"""

from types import MappingProxyType
from typing import Final

# What ``POST …/test`` sends; no endpoint has to want it.
PING: Final = "ping"

KINDS: Final = MappingProxyType(
    {
        "wallet.low": "The balance has fallen below the wallet's warning line.",
        "wallet.empty": "Nothing is left to spend.",
        "wallet.recovered": "The balance is above the warning line again, or above zero after it was empty.",
        "budget.near": "So much of a budget is used that people want to know; `used` says how much.",
        "budget.full": "A budget is used up: what it is on is refused until there is room again.",
        "topup.succeeded": "A top-up was paid and is credit now.",
        "topup.failed": "A top-up was declined or given up.",
        "recharge.stopped": "Automatic recharge was switched off after repeated declines.",
        "refund.automatic": "A payment that came twice or too late is given back.",
        "invoice.finalized": "An invoice, statement, receipt or credit note was issued; `kind` says which.",
        "invoice.paid": "An invoice is paid in full.",
        "invoice.reopened": "A payment of an invoice was taken back; the invoice is open again.",
        "invoice.void": "An invoice is void.",
        "invoice.overdue": "An invoice was not paid by its due date; `step` says what follows.",
        "dispute.opened": "A payment is disputed with the bank; what it paid for is frozen.",
        "dispute.closed": "A dispute was won or lost; `outcome` says which.",
        "webhook_endpoint.disabled": "An endpoint was disabled: it failed for days, or said that it is gone.",
    }
)
