"""The tables of billing. Each is written by one module, named in its docstring."""

from billing.models.adjustments import Adjustment
from billing.models.budgets import Budget, BudgetSpend
from billing.models.checks import CheckRun
from billing.models.corrections import Correction, Rerating, ReratingShare
from billing.models.grants import Grant, GrantUse
from billing.models.holds import Hold
from billing.models.invoices import (
    BankTransfer,
    BillingPeriod,
    DunningStep,
    Invoice,
    InvoiceLine,
    InvoiceSettlement,
    NumberSeries,
)
from billing.models.ledger import Account, LedgerHead, Transfer, TransferKind, Wallet
from billing.models.payments import Dispute, Payment, PaymentCard, Refund, StripeCustomer, StripeEvent
from billing.models.profiles import BillingProfile, LegalEntity, TaxRate
from billing.models.reconciliation import (
    BalanceTransaction,
    Difference,
    ProviderBill,
    ProviderBillLine,
    ReconciliationMark,
)
from billing.models.topups import Recharge, TopUp, TopUpLimit

__all__ = [
    "Account",
    "Adjustment",
    "BalanceTransaction",
    "BankTransfer",
    "BillingPeriod",
    "BillingProfile",
    "Budget",
    "BudgetSpend",
    "CheckRun",
    "Correction",
    "Difference",
    "Dispute",
    "DunningStep",
    "Grant",
    "GrantUse",
    "Hold",
    "Invoice",
    "InvoiceLine",
    "InvoiceSettlement",
    "LedgerHead",
    "LegalEntity",
    "NumberSeries",
    "Payment",
    "PaymentCard",
    "ProviderBill",
    "ProviderBillLine",
    "Recharge",
    "ReconciliationMark",
    "Refund",
    "Rerating",
    "ReratingShare",
    "StripeCustomer",
    "StripeEvent",
    "TaxRate",
    "TopUp",
    "TopUpLimit",
    "Transfer",
    "TransferKind",
    "Wallet",
]
