"""Signatures of the messages that we send to customers' endpoints. Pure.

As the specification of Standard Webhooks 1.0 has it (https://www.standardwebhooks.com): three headers,
``webhook-id``, ``webhook-timestamp`` (Unix seconds) and ``webhook-signature``, the last of which is one or
more of ``v1,`` and the base64 of the HMAC-SHA256 of ``id.timestamp.body``, with a space between them. A
secret is ``whsec_`` and the base64 of its bytes. While a secret is being replaced, both sign.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import string
from collections.abc import Mapping, Sequence

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"

PREFIX = "whsec_"
# 24 bytes, the least that the specification takes and more than can be guessed.
SECRET_BYTES = 24
# What is older than this, or this far ahead, is refused by a receiver: somebody may be sending it again.
TOLERANCE_SECONDS = 300

_VERSION = "v1"
# Base64 without its two signs, so that a double click selects a secret whole and the filter of our logs knows it.
_LETTERS = string.ascii_letters + string.digits


class Forged(ValueError):
    """A message that did not come from us, or not now; the message says what is wrong with it."""


def new_secret() -> str:
    """A fresh secret: 32 letters and digits, which are the base64 of 24 bytes."""
    return PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(SECRET_BYTES * 4 // 3))


def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises ``ValueError`` for what is none."""
    text = secret.removeprefix(PREFIX)
    if text == secret or not text:
        raise ValueError(f"a secret begins with {PREFIX}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a secret ends in base64") from error


def sign(keys: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature`` by each of these keys."""
    assert keys, "somebody has to sign"
    content = signed_content(message_id=message_id, timestamp=timestamp, body=body)
    return " ".join(f"{_VERSION},{_digest(key, content)}" for key in keys)


def signed_content(*, message_id: str, timestamp: int, body: bytes) -> bytes:
    """What is signed. The id holds no dot, so nothing else reads like it."""
    assert "." not in message_id, "an id with a dot could be read as an id and a time"
    return f"{message_id}.{timestamp}.".encode() + body


def headers(keys: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a message."""
    return {
        ID: message_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: sign(keys, message_id=message_id, timestamp=timestamp, body=body),
    }


def verify(keys: Sequence[bytes], *, told: Mapping[str, str], body: bytes, now: int) -> None:
    """What a receiver does with the headers ``told`` (names in lower case) and the raw body, at Unix second ``now``.

    Raises ``Forged``. Who remembers the ids of the last five minutes also sees what is sent again within them.
    """
    message_id, stamp, signatures = (told.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not message_id or "." in message_id or not signatures:
        raise Forged("a header is missing")
    if not stamp.isascii() or not stamp.isdigit():
        raise Forged(f"{TIMESTAMP} is no whole number")
    if abs(now - int(stamp)) > TOLERANCE_SECONDS:
        raise Forged(f"{TIMESTAMP} is more than {TOLERANCE_SECONDS} s away")
    content = signed_content(message_id=message_id, timestamp=int(stamp), body=body)
    ours = [f"{_VERSION},{_digest(key, content)}".encode() for key in keys]
    theirs = [each.encode() for each in signatures.split(" ")]
    if not any(hmac.compare_digest(one, other) for one in ours for other in theirs):
        raise Forged("no signature is ours")


def _digest(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
