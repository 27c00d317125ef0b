"""Who owes: the ledger, wallets and charges."""
