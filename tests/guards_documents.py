"""Guards of what documents show and of the mails made of news."""

from uuid import UUID

from core import ids
from tests.guards import Disabled, guard, patched


@guard("documents_are_read_within_the_organization")
def _() -> Disabled:
    """A document is looked for among those of the caller's organization."""

    def of_anybody(_: UUID) -> object:
        from billing.models import Invoice

        return Invoice.objects.exclude(state=Invoice.State.DRAFT).order_by("-issued_at", "-id")

    return patched("billing.issued.of", of_anybody)


@guard("mails_are_told_apart_by_what_they_are_about")
def _() -> Disabled:
    """A mail is about one message: the same one again makes no second mail."""
    return patched("billing.notices.about", lambda message: ids.show("evt", ids.new()))
