"""The payment processor, Stripe: calling it, its customers, its events."""
