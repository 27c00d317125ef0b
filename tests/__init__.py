"""Tests, laid out as the house is: ``tests/<app>/test_<room>.py``; the framework's own stand at the top."""
