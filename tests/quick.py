"""What the product does once and slowly, quickly: a test run does it thousands of times.

* A password is hashed in one turn instead of a million. The hash says itself how many they were, so that every process
  of the product can check it.
* Each new test client has a new stack of middleware, and each of those looked up 250 static files. They are looked up
  once a run.
"""

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from whitenoise.middleware import WhiteNoiseMiddleware

ITERATIONS = PBKDF2PasswordHasher.iterations
_find_files = WhiteNoiseMiddleware.add_files_from_finders
_found: list[WhiteNoiseMiddleware] = []


def add_files_from_finders(middleware: WhiteNoiseMiddleware) -> None:
    """The files that the first one of this run found."""
    if not _found:
        _find_files(middleware)
        _found.append(middleware)
    middleware.files = _found[0].files


def install() -> None:
    """For the whole run."""
    PBKDF2PasswordHasher.iterations = 1
    WhiteNoiseMiddleware.add_files_from_finders = add_files_from_finders
