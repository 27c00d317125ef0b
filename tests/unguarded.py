"""The web server without the guard that ``WITHOUT_GUARD`` names: ``python -m tests.unguarded``, for proofs only."""

import os
import sys

if __name__ == "__main__":
    from core import web

    web.TARGETS = dict.fromkeys(web.TARGETS, "tests.unguarded:application")
    sys.exit(web.main())
elif __name__ == "tests.unguarded":
    # A worker. The guard goes before the application is made and stays away for good.
    from tests import guards

    _without = guards.in_child(os.environ["WITHOUT_GUARD"])
    _without.__enter__()

    from importlib import import_module

    from core.web import interface

    application = import_module(f"core.{interface()}").application

    __all__ = ["application"]
