"""Machinery: what keeps the house running and is nobody's business noun."""
