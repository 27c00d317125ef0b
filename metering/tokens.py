"""Counting tokens for what a gateway does not report: estimates for holds and last resorts.

What a provider reports is billed as reported; a count from here is marked on the record and
carries a margin for vendors whose own tokenizer is another one. The tables are in the package
(``data/tiktoken``, OpenAI's, MIT) and are verified before tiktoken sees them: it would delete a
wrong one and go to the network for another. Text is counted and forgotten: no error, log line or
``repr`` here holds any of it.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import tiktoken

from core import errors, wire

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "data" / "tiktoken"
# Where tiktoken looks before it downloads. Set when this is imported: later, threads may be reading.
os.environ["TIKTOKEN_CACHE_DIR"] = str(FOLDER)


class Table(NamedTuple):
    """A vendored table: the name under which tiktoken looks for it, and what it must be."""

    file: str
    sha256: str


TABLES: Final = {
    "cl100k_base": Table(
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    ),
    "o200k_base": Table(
        "fb374d419588a4632f3f557e76b4b70aebbca790", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    ),
}
DEFAULT_ENCODING = "o200k_base"

# What tiktoken is given at once: 1,000,000 spaces overflow the stack of its regular expressions,
# 700,000 do not, and pieces of this size are counted at least as fast as a whole.
TEXT_CHARS_MAX = 100_000
# How far back from there an edge between two words is looked for.
EDGE_CHARS = 4_000
# Where every encoding ends a token anyway: a space after anything but space, and punctuation after
# a letter (the apostrophe may belong to the word).
_EDGE = re.compile(r"\S(?= )|[^\W\d_](?=[,.;:!?()，。、；：！？（）])")
CHARS_PER_TOKEN = 4

# Chat format: OpenAI's cookbook, "How to count tokens with tiktoken", for the models since gpt-3.5-turbo-0613.
MESSAGE_TOKENS = 3
NAME_TOKENS = 1
REPLY_TOKENS = 3
# OpenAI's guide to images: 85 tokens at low detail; a screenshot or a 2048 × 4096 image 1,105.
IMAGE_TOKENS = 1_105
IMAGE_LOW_TOKENS = 85
MESSAGES_MAX = 10_000
PARTS_MAX = 10_000

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})

# Estimates in percent of what OpenAI's tables count, by the vendor's slug in the catalog
# (``owned_by``): they are 10 to 30 % off for tokenizers of others.
MARGIN_PERCENT: Final[Mapping[str, int]] = {
    "openai": 100,
    "google": 115,
    "deepseek": 115,
    "cohere": 120,
    "meta": 120,
    "minimax": 120,
    "mistralai": 120,
    "moonshotai": 120,
    "voyageai": 120,
    "xai": 120,
    "zai": 120,
    "anthropic": 130,
}
UNKNOWN_MARGIN_PERCENT = 130


class TableUnusable(RuntimeError):
    """A vendored table is missing or is not the published one; the message says which and where."""


class UnknownEncoding(LookupError):
    """No table of that name is vendored."""


class Uncountable(errors.MissingParameter):
    """Messages hold something whose tokens cannot be told from here, such as sound: the count must be reported."""


@dataclass(frozen=True, slots=True, repr=False)
class Text:
    """What is to be counted: strings, each for itself, and tokens that are known without one."""

    pieces: tuple[str, ...]
    known_tokens: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything to count."""
        return self.known_tokens > 0 or any(self.pieces)

    def count(self, *, encoding: str) -> int:
        """Tokens by an encoding, without margin. Raises ``TableUnusable``, ``UnknownEncoding``."""
        return self.known_tokens + sum(count_text(piece, encoding=encoding) for piece in self.pieces)

    def digest(self) -> str:
        """SHA-256 in hex of exactly this: what a count stood for, without the text."""
        told = hashlib.sha256(b"%d" % self.known_tokens)
        for piece in self.pieces:
            raw = piece.encode("utf-8", "surrogatepass")
            told.update(b",%d:" % len(raw))
            told.update(raw)
        return told.hexdigest()


def check() -> None:
    """Verify every vendored table. Raises ``TableUnusable``."""
    for encoding in TABLES:
        _verify(encoding)


def warm() -> None:
    """Read the tables before somebody waits for them."""
    for encoding in TABLES:
        try:
            _encoder(encoding)
        except TableUnusable as error:
            log.critical("%s", error)


def _verify(encoding: str) -> None:
    table = TABLES[encoding]
    path = FOLDER / table.file
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TableUnusable(f"the token table {encoding} cannot be read from {path}: {error.strerror}") from error
    if found != table.sha256:
        raise TableUnusable(f"the token table {encoding} at {path} has SHA-256 {found}, not {table.sha256}")


@cache
def _encoder(encoding: str) -> tiktoken.Encoding:
    """A table, read and verified once a process (0.1 to 0.2 s)."""
    if encoding not in TABLES:
        raise UnknownEncoding(f"no token table is named {encoding!r}; there are {', '.join(TABLES)}")
    _verify(encoding)
    return tiktoken.get_encoding(encoding)


def count_text(text: str, *, encoding: str) -> int:
    """Tokens of a text; what looks like a special token counts as the characters it is.

    A long text is counted in pieces, cut between words where it can be; each cut elsewhere is off
    by a token or two. Raises ``TableUnusable``, ``UnknownEncoding``.
    """
    encoder = _encoder(encoding)
    if len(text) <= TEXT_CHARS_MAX:
        return _count(encoder, text)
    return sum(_count(encoder, piece) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > TEXT_CHARS_MAX:
        end = start + TEXT_CHARS_MAX
        edges = [edge.end() for edge in _EDGE.finditer(text, end - EDGE_CHARS, end)]
        end = edges[-1] if edges else end
        yield text[start:end]
        start = end
    yield text[start:]


def _count(encoder: tiktoken.Encoding, text: str) -> int:
    """Tokens of a piece; by the rule of thumb should tiktoken's Rust code panic over it."""
    try:
        return len(encoder.encode_ordinary(text))
    except BaseException as error:
        # A panic is no ``Exception`` and its class cannot be imported, only recognized.
        if type(error).__name__ != "PanicException":
            raise
        log.warning("tiktoken panicked over %d characters; counted as characters / %d", len(text), CHARS_PER_TOKEN)
        return -(-len(text) // CHARS_PER_TOKEN)


def count_messages(messages: object, *, encoding: str, tools: object = None) -> int:
    """Tokens of a chat request's messages and tool definitions, without margin.

    3 for each message, 1 for each name and 3 that prime the reply, as OpenAI's cookbook counts
    them (129 by cl100k_base for its example, 124 by o200k_base, which is what its API reported).
    An image is a constant; tools and calls of unknown kinds count as their JSON text. Raises
    ``InvalidType`` or ``OutOfRange`` that name the place, ``Uncountable``, ``TableUnusable``,
    ``UnknownEncoding``.
    """
    return prompt(messages=messages, tools=tools).count(encoding=encoding)


def passage(text: object, *, param: str) -> Text:
    """A plain text to count. Raises ``InvalidType``."""
    if type(text) is not str:
        raise errors.InvalidType(f"{param} must be a string.", param=param)
    return Text((text,))


def prompt(*, messages: object = None, text: object = None, tools: object = None) -> Text:
    """What there is to count in a request's input: chat messages, or a plain text. Counts nothing yet.

    Raises ``MissingParameter`` without either, ``InvalidRequest`` with both, else as ``count_messages``.
    """
    if messages is not None and text is not None:
        raise errors.InvalidRequest("Send messages or input_text, not both.", param="input_text")
    pieces: list[str] = []
    known = 0
    if messages is not None:
        known = REPLY_TOKENS
        told = _list(messages, "messages", most=MESSAGES_MAX)
        if not told:
            raise errors.OutOfRange("messages holds at least one message.", param="messages")
        for index, message in enumerate(told):
            known += _read_message(message, f"messages[{index}]", pieces)
    elif text is not None:
        pieces += passage(text, param="input_text").pieces
    else:
        raise errors.MissingParameter("input_tokens is required, or messages or input_text.", param="input_tokens")
    if tools is not None:
        pieces += [_json(tool) for tool in _list(tools, "tools", most=PARTS_MAX)]
    return Text(tuple(pieces), known)


def has_images(messages: object) -> bool:
    """Whether any part of chat messages, as ``prompt`` has read them, is an image."""
    contents = [message.get("content") for message in messages] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(part.get("type") in _IMAGE_PARTS for part in parts)


def _list(value: object, place: str, *, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise errors.InvalidType(f"{place} must be an array.", param=place)
    if len(value) > most:
        raise errors.OutOfRange(f"{place} holds at most {most} entries.", param=place)
    return value


def _read_message(message: object, place: str, pieces: list[str]) -> int:
    """Adds a message's texts to ``pieces``; its known tokens."""
    if not isinstance(message, dict):
        raise errors.InvalidType(f"{place} must be an object.", param=place)
    known = MESSAGE_TOKENS
    for field in ("role", "name", "refusal"):
        if (value := message.get(field)) is not None:
            pieces.append(_string(value, f"{place}.{field}"))
            known += NAME_TOKENS if field == "name" else 0
    content = message.get("content")
    if isinstance(content, list):
        for index, part in enumerate(_list(content, f"{place}.content", most=PARTS_MAX)):
            known += _read_part(part, f"{place}.content[{index}]", pieces)
    elif content is not None:
        pieces.append(_string(content, f"{place}.content"))
    if (calls := message.get("tool_calls")) is not None:
        for call in _list(calls, f"{place}.tool_calls", most=PARTS_MAX):
            pieces += _texts_of_call(call)
    return known


def _read_part(part: object, place: str, pieces: list[str]) -> int:
    """Adds a part's text to ``pieces``; its known tokens."""
    if not isinstance(part, dict):
        raise errors.InvalidType(f"{place} must be an object.", param=place)
    kind = _string(part.get("type"), f"{place}.type")
    if kind in _TEXT_PARTS:
        field = _TEXT_PARTS[kind]
        pieces.append(_string(part.get(field), f"{place}.{field}"))
        return 0
    if kind in _IMAGE_PARTS:
        image = part.get("image_url")
        detail = image.get("detail") if isinstance(image, dict) else part.get("detail")
        return IMAGE_LOW_TOKENS if detail == "low" else IMAGE_TOKENS
    raise Uncountable(f"input_tokens is required: {place} is no text or image to count.", param="input_tokens")


def _texts_of_call(call: object) -> list[str]:
    """A tool call as its function's name and arguments; of another kind, as its JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return [_json(call)]
    told = (function.get(field) for field in ("name", "arguments"))
    return [value if isinstance(value, str) else _json(value) for value in told if value is not None]


def _string(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise errors.InvalidType(f"{place} must be a string.", param=place)
    return value


def _json(value: object) -> str:
    return wire.encode(value).decode()


def estimate(text: Text, *, encoding: str, vendor: str | None) -> int:
    """Tokens with the margin for a vendor's own tokenizer, rounded up; ``vendor`` None is an unknown one.

    Raises ``TableUnusable``, ``UnknownEncoding``.
    """
    percent = MARGIN_PERCENT.get(vendor or "", UNKNOWN_MARGIN_PERCENT)
    return -(-text.count(encoding=encoding) * percent // 100)


def input_tokens(
    *, messages: object = None, text: object = None, tools: object = None, encoding: str, vendor: str | None
) -> int:
    """An estimate of a request's input, with margin: for holds and quotes. Raises as ``prompt`` and ``estimate``."""
    return estimate(prompt(messages=messages, text=text, tools=tools), encoding=encoding, vendor=vendor)


def output_tokens(text: str, *, encoding: str, vendor: str | None) -> int:
    """An estimate of a request's output, with margin. Raises as ``estimate``."""
    return estimate(Text((text,)), encoding=encoding, vendor=vendor)
