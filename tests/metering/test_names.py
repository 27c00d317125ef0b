"""Model ids, taken apart and put together again."""

import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from metering import names
from metering.management.commands import build_catalog
from metering.names import Name

KNOWN = [
    ("gpt-4o", Name("gpt-4o")),
    ("gpt-4o-2024-08-06", Name("gpt-4o", date="2024-08-06")),
    ("GPT-4o-2024-08-06", Name("gpt-4o", date="2024-08-06")),
    (" gpt-4o\n", Name("gpt-4o")),
    ("claude-sonnet-4-5-20250929", Name("claude-sonnet-4-5", date="2025-09-29")),
    ("claude-3-5-haiku-latest", Name("claude-3-5-haiku", date="latest")),
    ("openai/gpt-4o", Name("gpt-4o", vendor="openai")),
    ("x-ai/grok-4-0709", Name("grok-4", vendor="xai", date="0709")),
    ("mistral/mistral-large-2411", Name("mistral-large", vendor="mistralai", date="2411")),
    ("command-a-03-2025", Name("command-a", date="03-2025")),
    ("gemini/gemini-2.5-pro-preview-05-06", Name("gemini-2.5-pro-preview", vendor="google", date="05-06")),
    ("azure/gpt-35-turbo-0613", Name("gpt-3.5-turbo", date="0613", route="azure")),
    ("azure/eu/gpt-4o-2024-08-06", Name("gpt-4o", date="2024-08-06", region="eu", route="azure")),
    ("azure/global-standard/gpt-4o", Name("gpt-4o", region="global", route="azure")),
    (
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        Name("claude-sonnet-4-5", "anthropic", "2025-09-29", "us", "bedrock"),
    ),
    (
        "bedrock/us-gov-west-1/anthropic.claude-3-5-sonnet-20240620-v1:0",
        Name("claude-3-5-sonnet", "anthropic", "2024-06-20", "us-gov-west-1", "bedrock"),
    ),
    ("bedrock/anthropic.claude-opus-4-6-v1", Name("claude-opus-4-6", vendor="anthropic", route="bedrock")),
    ("amazon.nova-pro-v1:0:300k", Name("nova-pro", vendor="amazon", route="bedrock")),
    ("anthropic.claude-v2:1", Name("claude-v2", vendor="anthropic", route="bedrock", variant="1")),
    ("vertex_ai/claude-sonnet-4-5@20250929", Name("claude-sonnet-4-5", date="2025-09-29", route="vertex_ai")),
    ("vertex_ai/claude-opus-4@default", Name("claude-opus-4", route="vertex_ai")),
    ("publishers/google/models/gemini-2.5-pro", Name("gemini-2.5-pro", vendor="google")),
    ("openrouter/anthropic/claude-3.5-sonnet", Name("claude-3-5-sonnet", vendor="anthropic", route="openrouter")),
    ("anthropic/claude-4.5-opus-20251124", Name("claude-opus-4-5", vendor="anthropic", date="2025-11-24")),
    ("google/gemma-4-31b-it:free", Name("gemma-4-31b-it", vendor="google", variant="free")),
    ("anthropic/claude-sonnet-4.5:nitro", Name("claude-sonnet-4-5", vendor="anthropic", variant="nitro")),
    ("claude-sonnet-4-5[1m]", Name("claude-sonnet-4-5", variant="1m")),
    ("claude-sonnet-4[1m]@20250514", Name("claude-sonnet-4", date="2025-05-14", variant="1m")),
    ("claude-sonnet-4@20250514[1m]", Name("claude-sonnet-4", date="2025-05-14", variant="1m")),
    ("~x-ai/grok-latest", Name("grok", vendor="xai", date="latest")),
    ("ollama/llama3:8b", Name("llama3", route="ollama", variant="8b")),
    ("ft:gpt-4o-2024-08-06:acme:support:9Fx2", Name("gpt-4o", date="2024-08-06", variant="ft")),
    (
        "fireworks_ai/accounts/fireworks/models/llama-v3p1-8b-instruct",
        Name("llama-v3p1-8b-instruct", route="fireworks_ai"),
    ),
    ("text-embedding-3-small", Name("text-embedding-3-small")),
    ("gpt-4-32k", Name("gpt-4-32k")),
    ("phi-2024", Name("phi-2024")),
    ("-latest", Name("-latest")),
    ("", Name("")),
]

# Ids as they are written, and texts made of what they are made of.
PIECES = st.sampled_from(
    [
        "gpt-4o", "gpt-35", "claude", "claude-4", "claude-3.5", "-sonnet", "-opus", "opus", "ft", "ft:", ":", ":free",
        ":nitro", "[1m]", "-v1:0", "-v2", "-v1:0:200k", "/", "//", "us", "eu.", "us.", "global", "us-east-1", "azure",
        "azure_ai", "bedrock", "openrouter", "openai", "x-ai", "mistral", "anthropic.", "meta.", "models", "@cf", "*",
        "@20250929", "@default", "@latest", "-20250929", "-2025-09-29", "-2411", "-0613", "-05-06", "-03-2025",
        "-latest", "-V0", "@DEFAULT", "-", ".", "~", " ", "İ", "A", "1",
    ]
)  # fmt: skip
IDS = st.one_of(st.sampled_from([text for text, _ in KNOWN]), st.lists(PIECES, max_size=8).map("".join), st.text())


@pytest.mark.parametrize(("text", "name"), KNOWN, ids=[text or "nothing" for text, _ in KNOWN])
def test_an_id_is_taken_apart(text: str, name: Name) -> None:
    assert names.parse(text) == name


@given(IDS)
@example("anthropic.ft:x")
@example("claude-4-opus@20250514")
@example("x-2024@08-06")
@example("*/~x")
@example("openai/-v1:0")
@example("ft[1m]")
@example("ft@default:0")
@example("claude-0.0@20000101-v0")
@example("claude-0-[1m]-v0")
@example("x[1m]@default")
@example("azure/azure_ai/us/eu/models")
def test_showing_a_name_and_parsing_it_gives_the_same_name(text: str) -> None:
    name = names.parse(text)
    assert names.parse(names.show(name)) == name
    assert names.show(names.parse(names.show(name))) == names.show(name)


@given(IDS)
def test_case_and_white_space_say_nothing(text: str) -> None:
    assert names.parse(f" {text.lower()}\t") == names.parse(text)


@given(IDS, st.booleans())
def test_candidates_begin_with_the_text_and_never_repeat(text: str, exact: bool) -> None:
    found = names.candidates(text, exact=exact)
    sent = "".join(text.replace("~", "").split())
    assert found[:1] == ((sent,) if sent else ())
    assert len(set(found)) == len(found)
    assert all(found)


@given(IDS)
@example("0[1m]@latest")
@example("ft[1m]@latest")
@example("0-0101@latest")
def test_an_exact_candidate_never_loses_a_region_a_date_or_a_variant(text: str) -> None:
    # Of what is said twice one stays in the base, where nobody looks for it.
    assume(all(text.lower().count(part) < 2 for part in ("@", "[1m]", "latest")))
    name = names.parse(text)
    for found in names.candidates(text, exact=True)[2:]:
        other = names.parse(found)
        # Without "latest", a date that stood before it is the date.
        assert other.date in {name.date} | ({"", names.parse(name.base).date} if name.date == "latest" else set())
        assert other.region in {name.region} | ({""} if name.region == "global" else set())
        # One that only routes may stand behind another that only routes.
        routing = {"", *names.ROUTING_VARIANTS} if name.variant in names.ROUTING_VARIANTS else set()
        assert other.variant in {name.variant} | routing


def test_candidates_go_from_the_most_specific_to_the_plain_model() -> None:
    assert names.candidates("azure/eu/gpt-4o-2024-08-06") == (
        "azure/eu/gpt-4o-2024-08-06", "azure/eu/gpt-4o-20240806", "azure/eu/gpt-4o@20240806",
        "eu/gpt-4o-2024-08-06", "eu/gpt-4o-20240806", "eu/gpt-4o@20240806",
        "azure/gpt-4o-2024-08-06", "azure/gpt-4o-20240806", "azure/gpt-4o@20240806",
        "gpt-4o-2024-08-06", "gpt-4o-20240806", "gpt-4o@20240806",
        "azure/eu/gpt-4o", "eu/gpt-4o", "azure/gpt-4o", "gpt-4o",
    )  # fmt: skip
    assert names.candidates("minimax/MiniMax-M2") == (
        "minimax/MiniMax-M2", "minimax/minimax-m2", "MiniMax-M2", "minimax-m2",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("openai/gpt-4o:nitro", "gpt-4o"),
        ("openrouter/openai/gpt-4o:online", "gpt-4o"),
        ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5"),
        ("vertex_ai/claude-sonnet-4-5@20250929", "claude-sonnet-4-5-20250929"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
        ("azure/gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("minimax/MiniMax-M2", "MiniMax-M2"),
    ],
)
def test_what_does_not_change_a_price_may_be_given_up(text: str, model: str) -> None:
    assert model in names.candidates(text, exact=True)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("gpt-4o-2024-05-13", "gpt-4o"),
        ("azure/eu/gpt-4o", "gpt-4o"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
    ],
)
def test_a_date_and_a_region_are_given_up_only_for_a_proposal(text: str, model: str) -> None:
    assert model not in names.candidates(text, exact=True)
    assert model in names.candidates(text)


@pytest.mark.parametrize("variant", ["free", "batch", "thinking", "extended", "8b", "beta"])
def test_a_variant_with_its_own_price_never_falls_back_to_the_plain_model(variant: str) -> None:
    assert all(found.endswith(f":{variant}") for found in names.candidates(f"openai/gpt-4o:{variant}"))


def test_a_fine_tuned_model_never_falls_back_to_the_plain_one() -> None:
    assert all(found.startswith("ft:") for found in names.candidates("ft:gpt-4o-2024-08-06:acme::9Fx2"))


def test_no_two_models_of_the_catalog_have_one_name() -> None:
    models = json.loads(build_catalog.CATALOG.read_text())["models"]
    found: dict[Name, set[str]] = {}
    for model in models:
        for text in (model["id"], *model["aliases"]):
            found.setdefault(names.parse(text), set()).add(model["id"])
    assert [ids for ids in found.values() if len(ids) > 1] == []


def test_every_id_of_the_catalog_is_found_under_the_ways_others_write_it() -> None:
    models = json.loads(build_catalog.CATALOG.read_text())["models"]
    known = {text.lower(): model["id"] for model in models for text in (model["id"], *model["aliases"])}
    for text, model in known.items():
        for written in (f"openrouter/vendor/{text}", f"azure/global/{text}", f"{text.upper()}:nitro"):
            hits = [known[found] for found in names.candidates(written, exact=True) if found in known]
            assert hits[:1] == [model], written
