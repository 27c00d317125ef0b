"""The list of what customers can be told: the documentation and the code say the same."""

import re

from ops import happenings
from tests.database import ROOT

GUIDE = ROOT / "docs" / "guides" / "webhooks.md"
_ROW = re.compile(r"^\| `([a-z_]+\.[a-z_]+)` \| (.+?) \|", re.MULTILINE)


def test_the_guide_lists_every_kind_and_what_it_means() -> None:
    assert dict(_ROW.findall(GUIDE.read_text())) == dict(happenings.KINDS)


def test_no_endpoint_can_want_a_ping() -> None:
    assert happenings.PING not in happenings.KINDS
