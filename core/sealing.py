"""Secrets as they lie in the database: unreadable to who has the rows alone. Pure.

A secret that must be readable, such as a webhook's to sign with, cannot be kept as a digest, unlike a key's. It is
kept encrypted under the installation's ``SECRET_KEY`` with AES-256-GCM (NIST SP 800-38D), bound to what it
is the secret of: a copy of the database forges no messages, and nobody moves a secret to another row.

To replace ``SECRET_KEY``, put the old one into ``SECRET_KEY_FALLBACKS``: what it sealed is still opened.
"""

import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION = b"\x01"
_NONCE_BYTES = 12
_KEY_BYTES = 32


class Unreadable(ValueError):
    """Sealed under a key that is not known here, or for something else, or damaged."""


def seal(plain: bytes, *, context: bytes, master: str) -> bytes:
    """``plain`` encrypted; it is opened only with the same ``context``, such as a row's id."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(master).encrypt(nonce, plain, context)


def unseal(sealed: bytes, *, context: bytes, masters: Sequence[str]) -> bytes:
    """What was sealed under one of these keys. Raises ``Unreadable``."""
    nonce, hidden = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    if sealed[:1] == _VERSION and len(nonce) == _NONCE_BYTES:
        for master in masters:
            try:
                return _cipher(master).decrypt(nonce, hidden, context)
            except InvalidTag:
                continue
    raise Unreadable("sealed under a SECRET_KEY that neither it nor SECRET_KEY_FALLBACKS holds")


def _cipher(master: str) -> AESGCM:
    derived = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"tollbook.sealing.1")
    return AESGCM(derived.derive(master.encode()))
