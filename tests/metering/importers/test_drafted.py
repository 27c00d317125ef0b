"""What an importer hands over."""

import pytest

from metering.importers import drafted
from metering.importers.drafted import Absurd, Drafted, Findings, Refusal
from metering.names import Name

RATES = {"terms": [{"when": {}, "rates": {"input": "1"}}]}


def test_a_draft_carries_its_findings() -> None:
    findings = Findings("openai/gpt-4o")
    findings.gap("video", "no pool")
    findings.assume("", "free")
    (draft,) = findings.draft("openai/gpt-4o", RATES, source="s")
    assert draft.gaps == (Refusal("openai/gpt-4o: video", "no pool"),)
    assert draft.assumed == (Refusal("openai/gpt-4o", "free"),)
    assert draft.name == Name("gpt-4o", vendor="openai")
    assert draft.card().terms[0].rates.input == 1_000_000


def test_no_draft_is_made_of_what_was_refused_or_is_no_card() -> None:
    refused = Findings("m")
    refused.refuse("input", "negative")
    assert refused.draft("m", RATES, source="s") == []
    for rates in ({}, {"terms": 7}, {"terms": [{"rates": {"input": "1"}, "when": 7}]}, {**RATES, "units": [7]}):
        none = Findings("m")
        assert none.draft("m", rates, source="s", part="rates") == []
        assert [refusal.place for refusal in none.refused] == ["m: rates"]


def test_a_report_names_everything_the_gravest_first() -> None:
    findings = Findings("m")
    findings.assume("", "free")
    findings.gap("video", "no pool")
    told = Drafted(tuple(findings.draft("m", RATES, source="s")), (Refusal("n", "negative"),), (Refusal("o", "no"),))
    assert told.report() == "refused n: negative\ngap m: video: no pool\nassumed m: free\nignored o: no"
    assert Drafted((), (), ()).report() == ""


@pytest.mark.parametrize("value", ["gpt-4o", "a/b:c@d", "x" * 200, "模型"])
def test_an_id_that_a_page_can_show_is_a_model(value: str) -> None:
    assert drafted.as_model(value) == value


@pytest.mark.parametrize("value", [None, 7, "", "a b", "a\n", "a\u00a0b", "\ud800", "\u0000", "x" * 201])
def test_any_other_is_none(value: object) -> None:
    with pytest.raises(ValueError, match="a model id"):
        drafted.as_model(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "null"), (True, "a boolean"), ("", "a string"), ({}, "an object"), ([], "an array"), (1, "a number")],
)
def test_kinds_are_named_in_jsons_words(value: object, words: str) -> None:
    assert drafted.kind(value) == words


def test_whatever_is_shown_is_one_short_printable_line() -> None:
    assert drafted.shown("gpt-4o") == "gpt-4o"
    assert (
        drafted.shown("a\n\u0000\ud800b")
        == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"
    )
    long = drafted.shown("x" * 10_000)
    assert (len(long), long[-1]) == (300, "…")
    assert drafted.shown(7) == "7"


def test_only_an_absurd_reason_is_grave() -> None:
    findings = Findings("m")
    findings.refuse("input", ValueError("too fine"))
    findings.refuse("output", Absurd("-1 is negative"))
    assert [(str(refusal), refusal.grave) for refusal in findings.refused] == [
        ("m: input: too fine", False), ("m: output: -1 is negative", True),
    ]  # fmt: skip
