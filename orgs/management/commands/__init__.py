"""Commands of who."""
