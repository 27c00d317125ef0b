"""Guards of pages for people."""

from tests.guards import Disabled, guard, patched


@guard("pages_escape_what_they_show")
def _() -> Disabled:
    """What a template shows is text: markup in it is escaped."""
    return patched("django.template.base.conditional_escape", str)
