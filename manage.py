#!/usr/bin/env python
"""Django's command line."""

import os
import sys


def main() -> int:
    """Run a command; a bad setting, or no database, is a line on stderr and not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")
    from django.core.management import execute_from_command_line
    from django.db import Error

    from core.env import BadSetting
    from core.transactions import is_outage

    try:
        execute_from_command_line(sys.argv)
    except BadSetting as error:
        print(f"tollbook: {error}", file=sys.stderr)
        return 2
    except Error as error:
        if "--traceback" in sys.argv or not is_outage(error):
            raise
        print(f"tollbook: the database cannot be had: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        print("tollbook: start it, or name another one in DATABASE_URL (or DATA_DIR, for make up's)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
