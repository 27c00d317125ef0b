"""The tables of billing. Each is written by one module, named in its docstring."""

from billing.models.adjustments import Adjustment
from billing.models.budgets import Budget, BudgetSpend
from billing.models.checks import CheckRun
from billing.models.corrections import Correction, Rerating, ReratingShare
from billing.models.grants import Grant, GrantUse
from billing.models.holds import Hold
from billing.models.ledger import Account, LedgerHead, Transfer, TransferKind, Wallet
from billing.models.topups import Recharge, TopUp

__all__ = [
    "Account",
    "Adjustment",
    "Budget",
    "BudgetSpend",
    "CheckRun",
    "Correction",
    "Grant",
    "GrantUse",
    "Hold",
    "LedgerHead",
    "Recharge",
    "Rerating",
    "ReratingShare",
    "TopUp",
    "Transfer",
    "TransferKind",
    "Wallet",
]
