"""Tests of what speaks with Stripe."""
