"""Signatures of Standard Webhooks: a vector worked by hand, every way to be forged, and secrets that are replaced."""

import base64
import hashlib
import hmac
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import logs
from ops import signatures
from ops.signatures import Forged
from tests.database import ROOT

# Worked out with `openssl dgst -sha256 -mac HMAC`; the same secret, id and time as in the specification's libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1614265330
BODY = b'{"test": 2432232314}'
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
GUIDE = ROOT / "docs" / "guides" / "webhooks.md"
KEY = signatures.key_of(SECRET)
TOLD = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNED}

keys = st.binary(min_size=24, max_size=64)
ids = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=40)


def test_the_known_message_has_the_known_signature() -> None:
    assert signatures.headers([KEY], message_id=ID, timestamp=AT, body=BODY) == TOLD
    signatures.verify([KEY], told=TOLD, body=BODY, now=AT)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"webhook-id": "msg_other"}, "no signature"),
        ({"webhook-id": ""}, "missing"),
        ({"webhook-id": "msg.1"}, "missing"),
        ({"webhook-timestamp": str(AT + 1)}, "no signature"),
        ({"webhook-timestamp": ""}, "whole number"),
        ({"webhook-timestamp": "-1"}, "whole number"),
        ({"webhook-timestamp": "١٦١٤٢٦٥٣٣٠"}, "whole number"),
        ({"webhook-signature": ""}, "missing"),
        ({"webhook-signature": SIGNED.removeprefix("v1,")}, "no signature"),
        ({"webhook-signature": SIGNED.replace("v1,", "v1a,")}, "no signature"),
        ({"webhook-signature": SIGNED[:-2] + "A="}, "no signature"),
        ({"webhook-signature": "v1,é"}, "no signature"),
    ],
)
def test_what_is_changed_is_forged(changed: dict[str, str], why: str) -> None:
    with pytest.raises(Forged, match=why):
        signatures.verify([KEY], told={**TOLD, **changed}, body=BODY, now=AT)


def test_a_changed_body_is_forged_whatever_its_meaning() -> None:
    with pytest.raises(Forged, match="no signature"):
        signatures.verify([KEY], told=TOLD, body=b'{"test":2432232314}', now=AT)


@pytest.mark.parametrize(("now", "taken"), [(AT - 301, False), (AT - 300, True), (AT + 300, True), (AT + 301, False)])
def test_a_message_is_taken_for_five_minutes(now: int, taken: bool) -> None:
    if taken:
        signatures.verify([KEY], told=TOLD, body=BODY, now=now)
        return
    with pytest.raises(Forged, match="away"):
        signatures.verify([KEY], told=TOLD, body=BODY, now=now)


@given(old=keys, new=keys, message_id=ids, at=st.integers(0, 2**40), body=st.binary(max_size=200))
def test_while_a_secret_is_replaced_either_takes_it(
    old: bytes, new: bytes, message_id: str, at: int, body: bytes
) -> None:
    told = signatures.headers([new, old], message_id=message_id, timestamp=at, body=body)
    for known in (old, new):
        signatures.verify([known], told=told, body=body, now=at)
    content = message_id.encode() + b"." + str(at).encode() + b"." + body
    by_hand = base64.b64encode(hmac.new(old, content, hashlib.sha256).digest()).decode()
    assert told["webhook-signature"].split(" ")[1] == f"v1,{by_hand}"


@given(key=keys, other=keys, body=st.binary(max_size=50), extra=st.binary(min_size=1, max_size=5))
def test_nobody_else_can_sign(key: bytes, other: bytes, body: bytes, extra: bytes) -> None:
    told = signatures.headers([key], message_id="evt_1", timestamp=AT, body=body)
    with pytest.raises(Forged):
        signatures.verify([key], told=told, body=body + extra, now=AT)
    if hmac.new(key, b"", hashlib.sha256).digest() != hmac.new(other, b"", hashlib.sha256).digest():
        with pytest.raises(Forged):
            signatures.verify([other], told=told, body=body, now=AT)


def test_a_new_secret_is_24_bytes_never_the_same_and_the_logs_know_it() -> None:
    made = {signatures.new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert len(signatures.key_of(secret)) == 24
        assert logs.redact(f"with {secret}!") == "with whsec_[redacted]!"


def test_the_guides_own_example_takes_what_we_sign_and_nothing_else() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    known: dict[str, Any] = {}
    exec(code, known)
    now = int(time.time())
    told = signatures.headers([KEY, b"another" * 4], message_id="evt_1", timestamp=now, body=BODY)
    known["verify"](SECRET, told, BODY)
    late = signatures.headers([KEY], message_id="evt_1", timestamp=now - 400, body=BODY)
    for headers, body in ((told, BODY + b" "), (late, BODY), ({**told, "webhook-id": "evt_2"}, BODY)):
        with pytest.raises(ValueError, match=r"too old|not signed"):
            known["verify"](SECRET, headers, body)


@pytest.mark.parametrize("secret", ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_a", "whsec_ab-c"])
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="a secret"):
        signatures.key_of(secret)


def test_an_id_with_a_dot_is_never_signed() -> None:
    with pytest.raises(AssertionError, match="dot"):
        signatures.sign([KEY], message_id="evt_1.2", timestamp=AT, body=b"")
