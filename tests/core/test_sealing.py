"""Sealed secrets: opened by who sealed them, for what they were sealed for, and by nobody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import sealing
from core.sealing import Unreadable

short = st.binary(max_size=100)
names = st.text(min_size=1, max_size=20)


@given(plain=short, context=st.binary(max_size=20), master=names, others=st.lists(names, max_size=2))
def test_what_is_sealed_is_opened_again_also_after_the_key_was_replaced(
    plain: bytes, context: bytes, master: str, others: list[str]
) -> None:
    sealed = sealing.seal(plain, context=context, master=master)
    assert sealing.unseal(sealed, context=context, masters=[*others, master]) == plain
    assert len(sealed) == 1 + 12 + len(plain) + 16


@given(plain=short, place=st.integers(0, 1000), bit=st.integers(0, 7))
def test_no_bit_can_be_changed(plain: bytes, place: int, bit: int) -> None:
    sealed = bytearray(sealing.seal(plain, context=b"row", master="m"))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(Unreadable):
        sealing.unseal(bytes(sealed), context=b"row", masters=["m"])


def test_a_secret_opens_with_its_own_row_and_key_only() -> None:
    sealed = sealing.seal(b"secret", context=b"one", master="m")
    for context, masters in ((b"two", ["m"]), (b"one", ["n"]), (b"one", []), (b"", ["m"])):
        with pytest.raises(Unreadable, match="SECRET_KEY"):
            sealing.unseal(sealed, context=context, masters=masters)
    for damaged in (b"", sealed[:20], sealed + b"x", sealed[1:]):
        with pytest.raises(Unreadable):
            sealing.unseal(damaged, context=b"one", masters=["m"])


def test_the_same_secret_never_looks_the_same_and_does_not_show() -> None:
    made = {sealing.seal(b"s" * 24, context=b"", master="m") for _ in range(50)}
    assert len(made) == 50
    assert not any(b"ssss" in each for each in made)
