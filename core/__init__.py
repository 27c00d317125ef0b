"""The ground everything stands on: settings, money, ids, time, errors, the wire. No tables."""
