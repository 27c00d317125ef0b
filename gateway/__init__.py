"""The door that gateways knock on: events in, verdicts out."""
