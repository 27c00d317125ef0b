"""Short secrets as they lie in the database: unreadable to who has the rows alone. Pure.

A webhook's secret must be readable to sign with, so unlike a key's it cannot be kept as a digest. It is
kept encrypted under the installation's ``SECRET_KEY``: a copy of the database forges no messages. The
product has no dependency with a cipher, and a secret is shorter than one block of HMAC-SHA256, so the
pad is one such block over a random nonce (a pseudo-random function used once a nonce), and a second
HMAC over all of it is checked first. Nothing longer than a block is taken.

To replace ``SECRET_KEY``, put the old one into ``SECRET_KEY_FALLBACKS``: what it sealed is still opened.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

PLAIN_BYTES_MAX = hashlib.sha256().digest_size
_VERSION = b"\x01"
_NONCE_BYTES = 16
_TAG_BYTES = 16


class Unreadable(ValueError):
    """Sealed under a key that is not known here, or for something else, or damaged."""


def seal(plain: bytes, *, context: bytes, master: str) -> bytes:
    """``plain`` (at most 32 bytes) encrypted; it is opened only with the same ``context``, such as a row's id."""
    assert len(plain) <= PLAIN_BYTES_MAX, "longer than the pad"
    nonce = secrets.token_bytes(_NONCE_BYTES)
    hidden = _xor(plain, _block(master, b"pad", context, nonce))
    return _VERSION + nonce + hidden + _tag(master, context, nonce, hidden)


def unseal(sealed: bytes, *, context: bytes, masters: Sequence[str]) -> bytes:
    """What was sealed under one of these keys. Raises ``Unreadable``."""
    nonce = sealed[1 : 1 + _NONCE_BYTES]
    hidden, tag = sealed[1 + _NONCE_BYTES : -_TAG_BYTES], sealed[-_TAG_BYTES:]
    if sealed[:1] == _VERSION and len(nonce) == _NONCE_BYTES and len(hidden) <= PLAIN_BYTES_MAX:
        for master in masters:
            if hmac.compare_digest(tag, _tag(master, context, nonce, hidden)):
                return _xor(hidden, _block(master, b"pad", context, nonce))
    raise Unreadable("sealed under a SECRET_KEY that neither it nor SECRET_KEY_FALLBACKS holds")


def _block(master: str, use: bytes, context: bytes, nonce: bytes, hidden: bytes = b"") -> bytes:
    """32 bytes that only who knows ``master`` can tell; the nonce is of one length and the rest's is told."""
    key = hmac.digest(master.encode(), b"tollbook.sealing.1." + use, hashlib.sha256)
    return hmac.digest(key, nonce + len(context).to_bytes(4, "big") + context + hidden, hashlib.sha256)


def _tag(master: str, context: bytes, nonce: bytes, hidden: bytes) -> bytes:
    return _block(master, b"tag", context, nonce, hidden)[:_TAG_BYTES]


def _xor(text: bytes, pad: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(text, pad, strict=False))
