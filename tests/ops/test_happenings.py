"""The list of what customers can be told: the documentation and the code say the same."""

import re

from billing.models import Invoice
from ops import happenings
from tests.database import ROOT
from tests.test_tidy import modules

GUIDE = ROOT / "docs" / "guides" / "webhooks.md"
_ROW = re.compile(r"^\| `([a-z_]+\.[a-z_]+)` \| (.+?) \|", re.MULTILINE)


def test_the_guide_lists_every_kind_and_what_it_means() -> None:
    assert dict(_ROW.findall(GUIDE.read_text())) == dict(happenings.KINDS)


def test_no_endpoint_can_want_a_ping() -> None:
    assert happenings.PING not in happenings.KINDS


def test_every_kind_is_posted_by_somebody() -> None:
    # Named by the state that the document comes to.
    computed = {f"invoice.{state}" for state in (Invoice.State.PAID, Invoice.State.VOID)}
    silent = {"ops.happenings", "billing.notices", "portal.members"}
    said = "".join(source.text for source in modules() if source.name not in silent)
    assert {kind for kind in happenings.KINDS if f'"{kind}"' not in said} == computed
    assert 'f"invoice.{invoice.state}"' in said
