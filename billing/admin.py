"""The desk's pages of billing, which Django finds through this module. Each room has the pages of its noun:

======================== =============================================================================================
``organization_admin``   organizations with their wallet, documents and latest usage
``wallet_admin``         wallets: what stands, and what explains it
``money_admin``          what a wallet is made of (grants, holds, ceilings, sealed days), money by hand, a wallet's acts
``transfer_admin``       transfers, their grants and records
``record_admin``         usage records with their money, the explanation of a cost, voids
``sales_admin``          margins, and who used how much
``correction_admin``     voids and differences of re-ratings
``rerating_admin``       re-ratings: planned, applied, undone
``invoice_admin``        invoices, periods, profiles, legal entities, taxes, bank transfers, dunning
``payments_admin``       payments, refunds, disputes, top-ups and automatic ones, cards
``reconciliation_admin`` what others say of our money: Stripe's balance, differences, providers' bills
``verification_admin``   what the checks of the books found
======================== =============================================================================================

Billing knows what an organization, a record and a wallet have to do with each other, so the pages that show them
together replace those of ``orgs`` and ``metering``.
"""

from billing import (
    correction_admin,
    invoice_admin,
    money_admin,
    organization_admin,
    payments_admin,
    reconciliation_admin,
    record_admin,
    rerating_admin,
    sales_admin,
    transfer_admin,
    verification_admin,
    wallet_admin,
)

__all__ = [
    "correction_admin",
    "invoice_admin",
    "money_admin",
    "organization_admin",
    "payments_admin",
    "reconciliation_admin",
    "record_admin",
    "rerating_admin",
    "sales_admin",
    "transfer_admin",
    "verification_admin",
    "wallet_admin",
]
