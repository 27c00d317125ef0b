"""Price lists of others against the catalog: which model is meant, what would change, and what a person is told."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core import clock, errors, ids
from metering import catalog, pricebook, proposals
from metering.proposals import BadList, Proposal, Shelf
from tests.metering.test_pricebook import ADA

NOW = datetime(2026, 11, 21, 10, 20, 30, tzinfo=UTC)
TOMORROW = datetime(2026, 11, 22, 11, tzinfo=UTC)
# In force in the seed then: 2.5 / 1.25 / 10 and images as text; priority, fast and batch rates; two fees.
GPT = {"mode": "chat", "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05}
# 0.27 / 0.07 / 1.10.
DEEPSEEK = {"mode": "chat", "input_cost_per_token": 2.7e-07, "output_cost_per_token": 1.1e-06}


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)


def propose(entries: dict[str, Any], **options: Any) -> Proposal:
    """What LiteLLM's file with these entries would change."""
    return proposals.propose(proposals.read(json.dumps(entries).encode(), form="litellm"), **options)


def section(report: str, title: str) -> list[str]:
    """The rows of a paragraph of the report; none if it is not there."""
    for paragraph in report.split("\n\n"):
        head, *rows = paragraph.split("\n")
        if head.startswith(title):
            return [row.strip() for row in rows]
    return []


def publish(slug: str, rates: dict[str, str], **more: Any) -> None:
    """A model of ours with a price from the year's begin on."""
    price = {"effective_from": "2026-01-01T00:00:00Z", "source": "ours", "rates": {"terms": [{"rates": rates}]}}
    catalog.load(
        {
            "format": catalog.FORMAT,
            "models": [
                {
                    "id": slug, "name": slug, "vendor": "Acme", "brand": "Acme", "provider": "Acme",
                    "owned_by": "acme", "released_at": 0, "prices": [price], **more,
                }
            ],
        }
    )  # fmt: skip


# Whose price it is


@pytest.mark.parametrize(
    ("text", "slug", "rank"),
    [
        ("gpt-4o", "gpt-4o", 0),
        ("openai/gpt-4o", "gpt-4o", 1),
        ("global/gpt-4o", "gpt-4o", 1),
        ("gpt-4o-2024-08-06", "gpt-4o", 2),
        ("gpt-4o-latest", "gpt-4o", 3),
        ("openai/gpt-4o:nitro", "gpt-4o", 3),
        ("openai/gpt-4o-2024-05-13", "gpt-4o-2024-05-13", 1),
        ("anthropic/claude-haiku-4.5", "claude-haiku-4-5", 1),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5", 2),
        ("minimax/minimax-m2", "MiniMax-M2", 1),
        ("gemini/gemini-2.5-pro", "gemini-2.5-pro", 1),
        ("groq/llama-3.1-8b-instant", "llama-3.1-8b-instant", 1),
    ],
)
def test_a_model_goes_by_many_ids(db: None, text: str, slug: str, rank: int) -> None:
    found = Shelf(catalog.listing()).find(text)
    assert found is not None
    assert (found[0].slug, found[1]) == (slug, rank)


@pytest.mark.parametrize(
    "text",
    [
        "azure/gpt-4o", "openrouter/openai/gpt-4o", "us/gpt-4o", "azure/eu/gpt-4o",  # another way, another price
        "acme/gpt-4o", "meta-llama/llama-3.1-8b-instant",  # another maker, or not from who serves it
        "gpt-4o:free", "ft:gpt-4o", "gpt-4o-2023-01-01", "gpt-4o-audio",  # another model
        "deepai-chat", "deepailab/deepai-chat",  # a product of this platform
        "", "nobody/knows",
    ],
)  # fmt: skip
def test_what_has_a_price_of_its_own_is_not_the_model(db: None, text: str) -> None:
    assert Shelf(catalog.listing()).find(text) is None


def test_a_name_that_two_models_share_when_written_alike_is_neithers(db: None) -> None:
    publish("Nimbus-1", {"input": "1"})
    publish("nimbus-1@default", {"input": "2"})
    shelf = Shelf(catalog.listing())
    assert shelf.find("acme/nimbus-1") is None
    exact = shelf.find("Nimbus-1")
    assert exact is not None
    assert exact[0].slug == "Nimbus-1"


def test_the_models_own_id_goes_before_its_aliases_and_the_difference_is_told(db: None) -> None:
    proposal = propose(
        {
            "gpt-4o-2024-11-20": {**GPT, "output_cost_per_token": 1.2e-05},
            "gpt-4o": {**GPT, "output_cost_per_token": 1.1e-05},
            "openai/gpt-4o-2024-08-06": {**GPT, "output_cost_per_token": 1.1e-05},
        }
    )
    (line,) = proposal.lines
    assert line.rates["terms"][0]["rates"]["output"] == "11"
    assert line.source == "LiteLLM's model_prices_and_context_window.json, gpt-4o; what it does not tell as before"
    assert section(proposal.report, "Told twice") == [
        "gpt-4o: gpt-4o is taken; gpt-4o-2024-11-20 has 1 rates beyond 1 % of it"
    ]


def test_ids_that_are_equally_near_and_disagree_are_refused(db: None) -> None:
    told = {"gpt-4o-2024-11-20": GPT, "gpt-4o-2024-08-06": {**GPT, "output_cost_per_token": 1.1e-05}}
    proposal = propose(told)
    assert proposal.lines == []
    assert section(proposal.report, "Refused") == [
        "gpt-4o: gpt-4o-2024-11-20, gpt-4o-2024-08-06 price it differently, and none is its id to the letter"
    ]
    agreed = {model: {**GPT, "output_cost_per_token": 1.1e-05} for model in told}
    assert [line.model for line in propose(agreed).lines] == ["gpt-4o"]


# What a line is


def test_a_rate_that_differs_makes_a_line_and_silence_takes_nothing_away(db: None) -> None:
    proposal = propose({"gpt-4o": {**GPT, "input_cost_per_token": 3e-06}})
    (line,) = proposal.lines
    assert (line.model, line.effective_from, line.effective_to, line.corrects) == ("gpt-4o", TOMORROW, None, None)
    assert line.rates == {
        "terms": [
            # Images cost what text costs, before and after.
            {
                "when": {},
                "rates": {
                    "input": "3", "output": "10", "cached_input": "1.25", "image_input": "3",
                    "cached_image_input": "1.25",
                },
            },
            {
                "when": {"service_tier": "priority"},
                "rates": {
                    "input": "4.25", "cached_input": "2.125", "output": "17", "image_input": "4.25",
                    "cached_image_input": "2.125",
                },
            },
            {
                "when": {"service_tier": "fast"},
                "rates": {
                    "input": "4.25", "cached_input": "2.125", "output": "17", "image_input": "4.25",
                    "cached_image_input": "2.125",
                },
            },
            {
                "when": {"batch": True},
                "rates": {
                    "input": "1.25", "cached_input": "1.25", "output": "5", "image_input": "1.25",
                    "cached_image_input": "1.25",
                },
            },
        ],
        "units": {"web_search_requests": "0.01", "file_search_requests": "0.0025"},
        "request": "0",
    }  # fmt: skip
    head, *rest = section(proposal.report, "Lines")
    assert head.startswith("gpt-4o from 2026-11-22T11:00:00Z; in force: genai-prices")
    assert rest == [
        "cache_write: 2.5 -> 3 (+20.00 %)",
        "cache_write_1h: 2.5 -> 3 (+20.00 %)",
        "image_input: 2.5 -> 3 (+20.00 %)",
        "input: 2.5 -> 3 (+20.00 %)",
        "as before, for the list is silent: base: cached_input; priority: all rates; fast: all rates; batch: all rates;"
        " web_search_requests; file_search_requests",
    ]


def test_a_model_whose_stated_rates_are_in_force_is_unchanged(db: None) -> None:
    proposal = propose({"gpt-4o": GPT, "deepseek/deepseek-chat": DEEPSEEK})
    assert proposal.lines == []
    assert "Nothing to draft." in proposal.report
    assert section(proposal.report, "Unchanged: 2") == ["deepseek-chat, gpt-4o"]


def test_what_the_importer_only_assumes_does_not_touch_a_published_rate(db: None) -> None:
    publish("embed", {"input": "0.12", "image_input": "0.47"})
    entry = {"mode": "embedding", "input_cost_per_token": 1.2e-07, "supports_vision": True}
    assert propose({"embed": entry}).lines == []
    (line,) = propose({"embed": {**entry, "input_cost_per_token": 1.3e-07}}).lines
    assert line.rates["terms"] == [{"when": {}, "rates": {"input": "0.13", "image_input": "0.47"}}]


def test_a_card_that_could_not_be_published_is_refused_with_its_reason(db: None) -> None:
    night = {"zone": "UTC", "days": [0], "start": "22:00", "end": "23:00"}
    terms = [{"rates": {"input": "2"}}, {"when": {"windows": [night]}, "rates": {"input": "1"}}]
    price = {"effective_from": "2026-01-01T00:00:00Z", "source": "ours", "rates": {"terms": terms}}
    publish("owl", {}, prices=[price])
    override = {"utc_start": 2230, "utc_end": 2300, "utc_days": ["monday"], "prompt": "0.0000005"}
    told = {"data": [{"id": "acme/owl", "pricing": {"prompt": "0.000002", "completion": "0", "overrides": [override]}}]}
    proposal = proposals.propose(proposals.read(json.dumps(told).encode(), form="openrouter"))
    assert proposal.lines == []
    assert section(proposal.report, "Refused") == ["owl: terms: two entries hold at Mon 22:30 UTC"]


# When a line begins


def test_where_no_price_is_in_force_a_line_begins_at_once(db: None) -> None:
    proposal = propose({"deepseek-coder": DEEPSEEK})
    (line,) = proposal.lines
    assert (line.model, line.effective_from) == ("deepseek-coder", NOW)
    assert section(proposal.report, "Lines")[0] == ("deepseek-coder from 2026-11-21T10:20:30Z; no price is in force")
    assert "Publish it before" not in proposal.report


def test_a_start_of_ones_own_may_be_past_only_where_no_price_was_in_force(db: None) -> None:
    monday = datetime(2026, 11, 16, tzinfo=UTC)
    (line,) = propose({"deepseek-coder": DEEPSEEK}, starts_at=monday).lines
    assert line.effective_from == monday
    dearer = {"gpt-4o": {**GPT, "input_cost_per_token": 3e-06}}
    # Two cache lives are a minute, and an event may carry a time five minutes ahead.
    with pytest.raises(
        BadList, match=r"gpt-4o: a price is in force at .*; a new one starts after 2026-11-21T10:26:30Z"
    ):
        propose(dearer, starts_at=NOW + timedelta(seconds=359))
    soon = NOW + timedelta(seconds=360)
    assert [line.effective_from for line in propose(dearer, starts_at=soon).lines] == [soon]
    # Nothing differs, so nothing is late.
    assert propose({"gpt-4o": GPT}, starts_at=NOW).lines == []


def test_a_start_at_which_a_price_is_published_is_refused(db: None) -> None:
    december = datetime(2026, 12, 1, tzinfo=UTC)
    told = {"gemini/gemini-4-argon": GPT}
    with pytest.raises(BadList, match="a price that starts at 2026-12-01T00:00:00Z is published"):
        propose(told, starts_at=december)
    assert len(propose(told, starts_at=december - timedelta(seconds=1)).lines) == 1


def test_a_price_that_is_published_ahead_is_told_since_it_ends_the_line(db: None) -> None:
    rows = section(propose({"gemini/gemini-4-argon": GPT}).report, "Lines")
    assert rows[-1] == "a published price follows from 2026-12-01T00:00:00Z"


def test_a_draft_can_be_published_until_the_minute_that_its_report_names(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposal = propose({"gpt-4o": {**GPT, "input_cost_per_token": 2.6e-06}})
    assert "Publish it before 2026-11-22T10:54:00Z;" in proposal.report
    for late, published in ((1, False), (0, True)):
        made = pricebook.draft(lines=proposal.lines, source="s", by=ADA)
        at = datetime(2026, 11, 22, 10, 54, late, tzinfo=UTC)
        monkeypatch.setattr(clock, "now", lambda at=at: at)
        try:
            pricebook.publish(made, by=ADA)
        except errors.OutOfRange:
            assert not published
        else:
            assert published


# What a person is told


def test_jumps_and_differences_are_listed_the_largest_first(db: None) -> None:
    proposal = propose(
        {
            "gpt-4o": {**GPT, "output_cost_per_token": 1e-04, "input_cost_per_token": 2.53e-06},
            "deepseek-chat": {**DEEPSEEK, "input_cost_per_token": 0, "output_cost_per_token": 1.105e-06},
        }
    )
    free = "deepseek-chat, input: 0.27 and 0, to or from free"
    assert section(proposal.report, "JUMPS of 10 times or more, or to or from free: 2") == [
        free, "gpt-4o, output: 10 and 100, 900.00 %",
    ]  # fmt: skip
    # 1.10 to 1.105 is less than half a percent.
    assert section(proposal.report, "Differences of more than 1 % from what is in force: 3") == [
        free, "gpt-4o, output: 10 and 100, 900.00 %", "gpt-4o, input: 2.5 and 2.53, 1.20 %",
    ]  # fmt: skip
    assert "output: 1.1 -> 1.105 (+0.45 %)" in section(proposal.report, "Lines, in USD per 1M tokens or a use: 2")


def test_what_the_list_and_the_catalog_do_not_share_is_told(db: None) -> None:
    entries = {f"nobody/model-{number:02}": GPT for number in range(25)}
    proposal = propose({"azure/gpt-4o": GPT, **entries, "gpt-4o": GPT})
    (absent,) = section(proposal.report, "In the catalog and not in the list")
    assert "deepseek-chat" in absent.split(", ")
    assert {"gpt-4o", "deepai-chat"} & set(absent.split(", ")) == set()
    unknown, more = section(proposal.report, "In the list and not in the catalog: 26")
    # Another way to a model of ours is the least that one would look for.
    assert unknown.split(", ") == [f"nobody/model-{number:02}" for number in range(20)]
    assert more == "… and 6 more"


def test_keys_that_no_card_can_hold_are_counted_and_refusals_of_our_models_come_first(db: None) -> None:
    proposal = propose(
        {
            "a/x": {**GPT, "input_cost_per_video": 1},
            "b/y": {**GPT, "input_cost_per_video": 2, "surcharge": 3},
            "c/z": {**GPT, "input_cost_per_token": 3},
            "gpt-4o": {**GPT, "input_cost_per_token": "3e-06"},
            "dall-e": {"mode": "image_generation"},
        }
    )
    assert section(proposal.report, "What rate cards have no place for: 2") == [
        "input_cost_per_video, 2 times: 1 has no place in a rate card (a/x)",
        "surcharge, 1 times: 3 has no place in a rate card (b/y)",
    ]
    assert section(proposal.report, "Refused: 2") == [
        "gpt-4o: input_cost_per_token: a number is needed, not a string",
        "c/z: input_cost_per_token: 3 USD a token is more than 10000 USD per 1M: is it a price per 1M?",
    ]
    assert section(proposal.report, "Out of scope: 1") == [
        "1: its mode is image_generation; taken are chat, completion, embedding, responses"
    ]


def test_a_strangers_list_does_not_make_the_report_endless(db: None) -> None:
    entries = {f"x/m-{number}": {**GPT, "input_cost_per_token": 3} for number in range(1003)}
    rows = section(propose(entries).report, "Refused: 1003")
    assert len(rows) == 1001
    assert rows[-1] == "… and 3 more"


def test_lines_may_be_narrowed_to_some_models_by_id_or_alias(db: None) -> None:
    told = {
        "gpt-4o": {**GPT, "input_cost_per_token": 3e-06},
        "deepseek-chat": {**DEEPSEEK, "input_cost_per_token": 3e-07},
    }
    proposal = propose(told, models=["gpt-4o-2024-08-06"])
    assert [line.model for line in proposal.lines] == ["gpt-4o"]
    assert section(proposal.report, "These differ too and were not asked for") == ["deepseek-chat"]
    with pytest.raises(BadList, match="gpt-9 is not in the catalog"):
        propose(told, models=["gpt-4o", "gpt-9"])


def test_a_draft_that_waits_with_the_same_models_is_named(db: None) -> None:
    told = {"gpt-4o": {**GPT, "input_cost_per_token": 3e-06}}
    first = propose(told)
    assert section(first.report, "Drafts of the same models that wait already") == []
    made = pricebook.draft(lines=first.lines, source="s", by=ADA)
    waiting = section(propose(told).report, "Drafts of the same models that wait already")
    assert waiting == [ids.show("draft", made.pk)]
    pricebook.discard(made, by=ADA)
    assert section(propose(told).report, "Drafts of the same models that wait already") == []


# What is not trusted


@pytest.mark.parametrize(
    ("raw", "form", "why"),
    [
        (b'{"gpt-4o": {"mode": "chat", "input_cost_per_token": 2.5e', "litellm", "the document is not JSON"),
        (b"[]", "litellm", "the document is an object of models, not an array"),
        (b'"data"', "openrouter", "one list of models"),
        (b'{"m": {"mode": "image", "x": NaN}}', "litellm", r"\$\.m\.x: NaN is not JSON"),
        (b'{"m": {"mode": "image"}, "m": {}}', "litellm", r"\$\.m: it stands there more than once"),
        (b'{"m": {"mode": "chat", "input_cost_per_token": -1e-6}}', "litellm", "m: input_cost_per_token: .* negative"),
        (
            b'{"data": [{"id": "m", "pricing": {"prompt": "-0.5", "completion": "1e-6"}}]}',
            "openrouter",
            "m: pricing.prompt: -0.5 is negative",
        ),
        (b'{"format": "tollbook/catalog-1", "models": [5]}', "tollbook", r"models\[0\]: an object is needed"),
        (b"\xff", "tollbook", "not UTF-8"),
    ],
)
def test_a_list_with_garbage_in_it_is_refused_as_a_whole(raw: bytes, form: str, why: str) -> None:
    with pytest.raises(BadList, match=why):
        proposals.read(raw, form=form)


def test_every_fault_is_named_and_not_only_the_first() -> None:
    raw = b'{"a": {"mode": "chat", "input_cost_per_token": -1e-6, "x": 1, "x": Infinity}, "b": NaN}'
    with pytest.raises(BadList) as refused:
        proposals.read(raw, form="litellm")
    assert str(refused.value).split("\n") == [
        "$.a.x: it stands there more than once",
        "$.a.x: Infinity is not JSON",
        "$.b: NaN is not JSON",
        "a: input_cost_per_token: -0.000001 is negative",
    ]
    many = json.dumps({f"m{number}": {**GPT, "input_cost_per_token": -1} for number in range(60)}).encode()
    with pytest.raises(BadList) as refused:
        proposals.read(many, form="litellm")
    assert len(str(refused.value).split("\n")) == 51
    assert str(refused.value).endswith("… and 10 more")


def test_a_price_that_only_we_cannot_take_does_not_spoil_the_list() -> None:
    raw = json.dumps({"m": {**GPT, "input_cost_per_token": 3}, "n": GPT}).encode()
    assert [price.model for price in proposals.read(raw, form="litellm").prices] == ["n"]
