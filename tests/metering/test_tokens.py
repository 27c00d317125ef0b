"""Counting tokens offline: known counts, pieces, margins, and tables that must be the right ones."""

import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import errors
from metering import tokens
from metering.apps import verify_token_tables
from tests.proofs import proves

BOTH = sorted(tokens.TABLES)
SECRET = "the launch code is swordfish"

# OpenAI's cookbook, "How to count tokens with tiktoken": what its comparison of encodings shows.
PUBLISHED = [
    ("tiktoken is great!", 6, 6),
    ("antidisestablishmentarianism", 6, 6),
    ("2 + 2 = 4", 7, 7),
    ("お誕生日おめでとう", 9, 8),
]
# The same page's example, with the prompt tokens that OpenAI's API reported for it: 129 from
# gpt-3.5-turbo and gpt-4 (cl100k_base), 124 from gpt-4o and gpt-4o-mini (o200k_base).
EXAMPLE = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant"
        " that translates corporate jargon into plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base"
        " on opportunities for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
REPORTED = {"cl100k_base": 129, "o200k_base": 124}


def whole(text: str, encoding: str) -> int:
    """What tiktoken counts in one go."""
    return len(tiktoken.get_encoding(encoding).encode_ordinary(text))


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No table has been read yet in this process."""
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    tokens._encoder.cache_clear()
    yield
    tokens._encoder.cache_clear()


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network: reaching for it fails the test."""

    def reached(*_: object, **__: object) -> NoReturn:
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", reached)
    monkeypatch.setattr(socket, "getaddrinfo", reached)
    monkeypatch.setattr(socket, "create_connection", reached)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tables that a test may spoil."""
    folder = tmp_path / "tables"
    shutil.copytree(tokens.FOLDER, folder)
    monkeypatch.setattr(tokens, "FOLDER", folder)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    return folder


# Known counts


@pytest.mark.parametrize(("text", "cl100k", "o200k"), PUBLISHED)
def test_published_examples_have_their_published_counts(text: str, cl100k: int, o200k: int) -> None:
    assert tokens.count_text(text, encoding="cl100k_base") == cl100k
    assert tokens.count_text(text, encoding="o200k_base") == o200k


@pytest.mark.parametrize("encoding", BOTH)
def test_chat_messages_count_what_openai_reported_for_them(encoding: str) -> None:
    assert tokens.count_messages(EXAMPLE, encoding=encoding) == REPORTED[encoding]


def test_nothing_is_no_tokens() -> None:
    assert tokens.count_text("", encoding="o200k_base") == 0


# Tables and the network


@proves("I18", guard="token_tables_are_vendored")
def test_counts_need_no_network(unread: None, cut: None) -> None:
    for encoding in BOTH:
        assert tokens.count_messages(EXAMPLE, encoding=encoding) == REPORTED[encoding]


@proves("I18", guard="token_tables_are_verified")
@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_a_table_that_is_not_the_published_one_stops_the_count(
    fault: str, encoding: str, unread: None, cut: None, tables: Path
) -> None:
    path = tables / tokens.TABLES[encoding].file
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"IQ== 0\n", b"IQ== 7\n", 1))
    for count in (lambda: tokens.count_text("hi", encoding=encoding), tokens.check):
        with pytest.raises(tokens.TableUnusable, match=f"{encoding}.*{path}"):
            count()
    (error,) = verify_token_tables()
    assert (error.id, encoding in error.msg) == ("metering.E001", True)
    # tiktoken removes what it does not recognize; it must not have been asked.
    assert path.exists() == (fault == "changed")


def test_the_tables_that_ship_pass_the_system_check() -> None:
    tokens.check()
    assert verify_token_tables() == []


@pytest.mark.parametrize("encoding", BOTH)
def test_each_table_has_the_name_under_which_tiktoken_looks_for_it(
    encoding: str, unread: None, cut: None, tables: Path
) -> None:
    for other in BOTH:
        if other != encoding:
            (tables / tokens.TABLES[other].file).unlink()
    assert tokens.count_text("tiktoken is great!", encoding=encoding) == 6


def test_an_encoding_without_a_table_is_refused_by_name(cut: None) -> None:
    with pytest.raises(tokens.UnknownEncoding, match="p50k_base"):
        tokens.count_text(SECRET, encoding="p50k_base")


# Long and odd texts

PROSE = "It was the best of times, it was the worst of times. "
SCRIPTS = {
    "prose": PROSE * 5_000,
    "code": "def f(x):\n    if x > 1:\n        return x ** 2  # café\n\n\n" * 5_000,
    "Chinese": "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。" * 12_000,
}


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_long_text_counts_the_same_in_pieces(script: str, encoding: str) -> None:
    text = SCRIPTS[script]
    assert len(text) > 2 * tokens.TEXT_CHARS_MAX
    assert tokens.count_text(text, encoding=encoding) == whole(text, encoding)


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("character", [" ", "\t", "\n", "a", "A", "7", "!", "é", "天", "😀", "\u0301"])
def test_a_text_without_an_edge_is_off_by_a_token_or_two_for_each_cut(character: str, encoding: str) -> None:
    text = character * (3 * tokens.TEXT_CHARS_MAX + 17)
    assert abs(tokens.count_text(text, encoding=encoding) - whole(text, encoding)) <= 2 * 3


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("space", [" ", "\t", "\u00a0"])
def test_a_million_spaces_are_counted(space: str, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    counted = tokens.count_text(space * 1_000_000, encoding=encoding)
    assert 5_000 < counted <= 125_000
    assert caplog.records == []


ODD = "，。天ßﬀ²😀\u0301\u200d\u00a0\u2028\x1c"
ALPHABET = st.sampled_from([*"ab XYé 17.,!?-_/'\"\n\r\t()", *ODD, "  ", "'s", "\n\n"])
TEXTS = st.lists(ALPHABET, max_size=40).map("".join)


@pytest.mark.parametrize("encoding", BOTH)
@given(text=TEXTS)
@example(text="it's, x")
@example(text="a.\n\n b")
@settings(max_examples=400, deadline=None)
def test_a_cut_at_an_edge_changes_no_count(encoding: str, text: str) -> None:
    for edge in tokens._EDGE.finditer(text):
        cut = edge.end()
        assert whole(text[:cut], encoding) + whole(text[cut:], encoding) == whole(text, encoding), (cut, text)


@given(text=TEXTS, most=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text_and_none_is_too_long(text: str, most: int) -> None:
    with mock.patch.object(tokens, "TEXT_CHARS_MAX", most), mock.patch.object(tokens, "EDGE_CHARS", most // 2):
        pieces = list(tokens._pieces(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= most for piece in pieces) or text == ""


class PanicException(BaseException):
    """Named and derived as pyo3's, which cannot be imported."""


class Fallible:
    """An encoder that fails in its own way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode_ordinary(self, text: str) -> list[int]:
        raise self.error


def test_a_panic_is_counted_by_the_rule_of_thumb(caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(tokens, "_encoder", return_value=Fallible(PanicException(SECRET))):
        assert tokens.count_text(SECRET, encoding="o200k_base") == 7  # 28 characters
        assert tokens.count_text(SECRET + "!", encoding="o200k_base") == 8
    assert "29 characters" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_nothing_but_a_panic_is_swallowed(error: BaseException) -> None:
    with mock.patch.object(tokens, "_encoder", return_value=Fallible(error)), pytest.raises(type(error)):
        tokens.count_text("hi", encoding="o200k_base")


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("special", ["<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>"])
def test_what_looks_like_a_special_token_is_ordinary_text(special: str, encoding: str) -> None:
    assert tokens.count_text(special, encoding=encoding) > 1


@pytest.mark.parametrize("encoding", BOTH)
def test_surrogates_are_counted(encoding: str) -> None:
    assert tokens.count_text("\ud83d\ude00", encoding=encoding) == tokens.count_text("😀", encoding=encoding)
    assert tokens.count_text("\ud83d", encoding=encoding) > 0
    assert tokens.Text(("\ud83d",)).digest() != tokens.Text(("\ude00",)).digest()


# Messages


def count(messages: Any, **options: Any) -> int:
    return tokens.count_messages(messages, encoding="o200k_base", **options)


def test_every_message_and_the_reply_have_their_overhead() -> None:
    role = tokens.count_text("user", encoding="o200k_base")
    assert count(user("")) == 3 + role + 3
    assert count(user("") * 2) == 2 * (3 + role) + 3
    assert count([{"role": "user", "content": "", "name": "ada"}]) == count(user("")) + 1 + whole("ada", "o200k_base")


def test_text_parts_count_as_the_same_text_in_one_string() -> None:
    parts = [{"type": "text", "text": "tiktoken is great!"}]
    assert count(user(parts)) == count(user("tiktoken is great!"))
    assert count(user(parts * 2)) == count(user(parts)) + 6
    refused = [{"role": "assistant", "content": [{"type": "refusal", "refusal": "tiktoken is great!"}]}]
    assert count(refused) == count([{"role": "assistant", "content": "tiktoken is great!"}])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000}}, tokens.IMAGE_TOKENS),
        (
            {"type": "image_url", "image_url": {"url": "https://example.com/a", "detail": "low"}},
            tokens.IMAGE_LOW_TOKENS,
        ),
        ({"type": "input_image", "image_url": "https://example.com/a", "detail": "high"}, tokens.IMAGE_TOKENS),
        ({"type": "input_image", "image_url": "https://example.com/a", "detail": "low"}, tokens.IMAGE_LOW_TOKENS),
        ({"type": "image", "source": {"type": "base64", "data": "A" * 9_000}}, tokens.IMAGE_TOKENS),
    ],
)
def test_an_image_is_a_constant_however_it_is_sent(part: dict[str, Any], expected: int) -> None:
    assert count(user([part])) == count(user("")) + expected


@pytest.mark.parametrize("kind", ["input_audio", "file", "tool_result", "video_url"])
def test_what_is_no_text_or_image_must_be_reported(kind: str) -> None:
    with pytest.raises(tokens.Uncountable, match=r"messages\[0\]\.content\[1\]") as refusal:
        count(user([{"type": "text", "text": SECRET}, {"type": kind, "data": SECRET}]))
    assert (refusal.value.param, refusal.value.code) == ("input_tokens", "missing_required_parameter")
    assert SECRET not in str(refusal.value)


def test_tool_calls_count_names_and_arguments() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    each = whole("weather", "o200k_base") + whole('{"city": "Oslo"}', "o200k_base")
    assert count([asked]) == count([{"role": "assistant", "content": None}]) + 2 * each


def test_a_call_of_an_unknown_kind_counts_as_its_json() -> None:
    asked = {"role": "assistant", "tool_calls": [{"custom": {"input": "tiktoken is great!"}}]}
    expected = whole('{"custom":{"input":"tiktoken is great!"}}', "o200k_base")
    assert count([asked]) == count([{"role": "assistant"}]) + expected


def test_tool_definitions_count_as_their_json() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    text = '{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}'
    assert count(EXAMPLE, tools=[tool]) == count(EXAMPLE) + whole(text, "o200k_base")


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ("hello", "messages"),
        ({"role": "user"}, "messages"),
        (["hello"], "messages[0]"),
        (user(7), "messages[0].content"),
        ([*user("fine"), {"role": 1}], "messages[1].role"),
        (user(["hello"]), "messages[0].content[0]"),
        (user([{"type": []}]), "messages[0].content[0].type"),
        (user([{"type": "text"}]), "messages[0].content[0].text"),
        (user([{"type": "text", "text": "fine"}, {"type": "text", "text": 3}]), "messages[0].content[1].text"),
        ([{"role": "assistant", "tool_calls": {"function": {}}}], "messages[0].tool_calls"),
    ],
)
def test_a_wrong_type_is_refused_where_it_stands(messages: Any, place: str) -> None:
    with pytest.raises(errors.InvalidType) as refusal:
        count(messages)
    assert refusal.value.param == place


def test_no_message_and_too_many_messages_are_refused() -> None:
    for messages in ([], user("") * (tokens.MESSAGES_MAX + 1), user([{"type": "text"}] * (tokens.PARTS_MAX + 1))):
        with pytest.raises(errors.OutOfRange):
            count(messages)


def test_a_prompt_is_messages_or_a_text() -> None:
    with pytest.raises(errors.InvalidRequest, match="not both"):
        tokens.prompt(messages=EXAMPLE, text="hi")
    with pytest.raises(errors.MissingParameter):
        tokens.prompt()
    assert tokens.prompt(text="tiktoken is great!").count(encoding="o200k_base") == 6


# Estimates


@pytest.mark.parametrize(
    ("vendor", "expected"),
    # 6 tokens, the margin, rounded up.
    [("openai", 6), ("google", 7), ("deepseek", 7), ("mistralai", 8), ("anthropic", 8), ("nobody", 8), (None, 8)],
)
def test_an_estimate_has_the_vendors_margin_rounded_up(vendor: str | None, expected: int) -> None:
    text = "tiktoken is great!"
    assert tokens.input_tokens(text=text, encoding="o200k_base", vendor=vendor) == expected
    assert tokens.output_tokens(text, encoding="o200k_base", vendor=vendor) == expected


def test_no_margin_is_below_the_count_or_above_that_of_an_unknown_vendor() -> None:
    assert set(tokens.MARGIN_PERCENT.values()) <= set(range(100, tokens.UNKNOWN_MARGIN_PERCENT + 1))


def test_an_estimate_of_messages_covers_overhead_and_tools() -> None:
    estimate = tokens.input_tokens(messages=EXAMPLE, tools=[{}], encoding="o200k_base", vendor="anthropic")
    assert estimate == -(-(124 + 1) * 130 // 100)


# Nothing is told


def test_no_repr_holds_text() -> None:
    text = tokens.prompt(messages=user(SECRET))
    assert "swordfish" not in repr(text) + str(text) + repr([text])


def test_a_digest_tells_texts_apart_by_their_pieces() -> None:
    told = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", "")]
    assert len({tokens.Text(pieces).digest() for pieces in told} | {tokens.Text(("abc",), 3).digest()}) == 5
    assert tokens.Text(("abc",)).digest() == tokens.Text(("abc",)).digest()


@pytest.mark.parametrize(
    "messages",
    [user({"deep": SECRET}), user([{"type": SECRET}]), [SECRET], [{"role": [SECRET]}], [{"tool_calls": SECRET}]],
)
def test_no_refusal_repeats_what_was_sent(messages: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(errors.ApiError) as refusal:
        count(messages)
    assert "swordfish" not in f"{refusal.value} {refusal.value.param} {caplog.text}"
