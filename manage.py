#!/usr/bin/env python
"""Django's command line."""

import os
import sys


def main() -> int:
    """Run a command; a bad setting is one line on stderr, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")
    from django.core.management import execute_from_command_line

    from core.env import BadSetting

    try:
        execute_from_command_line(sys.argv)
    except BadSetting as error:
        print(f"tollbook: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
