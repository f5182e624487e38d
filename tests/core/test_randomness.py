"""Keyed random numbers: a pure function of the keys, different for different keys, well distributed."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conffusion.core.randomness import keyed_generator, keyed_normal

KEYS = st.lists(st.one_of(st.integers(-(10**20), 10**20), st.text(max_size=20)), max_size=4)


def numbers(*keys: str | int) -> list[int]:
    return keyed_generator(*keys).integers(2**63, size=4).tolist()


@given(KEYS)
def test_same_keys_same_numbers(keys: list[str | int]) -> None:
    assert numbers(*keys) == numbers(*keys)


@given(KEYS, KEYS)
def test_other_keys_other_numbers(keys: list[str | int], others: list[str | int]) -> None:
    assume(keys != others)
    assume(not any("\x1f" in key for key in (*keys, *others) if isinstance(key, str)))  # the separator
    assert numbers(*keys) != numbers(*others)


def test_order_type_and_borders_of_keys_matter() -> None:
    variants = [("a", 1), (1, "a"), ("a", "1"), ("a1",), ("a", 1, ""), ("", "a", 1)]
    assert len({tuple(numbers(*keys)) for keys in variants}) == len(variants)


def test_numbers_are_the_same_in_another_process() -> None:
    """Python's own hash is salted per process; ours must not be."""
    script = (
        "from conffusion.core.randomness import keyed_generator as k;"
        " print(k('größe', 7).integers(2**63, size=4).tolist())"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert outputs == {f"{numbers('größe', 7)}\n"}


def test_stream_is_philox_keyed_by_a_digest_of_the_keys() -> None:
    """The derivation, written out again: changing it would change every result of earlier runs."""
    digest = hashlib.blake2b("str:größe\x1fint:7".encode(), digest_size=16).digest()
    expected = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)).random_raw(3)
    assert keyed_generator("größe", 7).bit_generator.random_raw(3).tolist() == expected.tolist()


@pytest.mark.parametrize(("key", "same"), [(np.int64(7), 7), (np.str_("a"), "a")])
def test_scalars_of_numpy_are_the_numbers_and_texts_they_hold(key: str | int, same: str | int) -> None:
    assert numbers(key) == numbers(same)


def test_normal_numbers_are_standard_and_float32() -> None:
    noise = keyed_normal((100, 100), "a", 1)
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.03
    np.testing.assert_array_equal(noise, keyed_normal((100, 100), "a", 1))


def test_neighbouring_keys_are_uncorrelated() -> None:
    noise = np.stack([keyed_normal((500,), "variant", 1, j) for j in range(20)])
    correlation = np.corrcoef(noise) - np.eye(20)
    assert np.abs(correlation).max() < 5 / 500**0.5


def test_global_generators_are_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    keyed_normal((10,), "a")
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
