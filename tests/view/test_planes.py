import numpy as np
import pytest

from conffusion.view.planes import bits_plane, values_plane


@pytest.mark.parametrize(("top", "bits"), [(255, 8), (65535, 16)])
def test_levels_of_files_are_kept_exactly(top: int, bits: int) -> None:
    levels = np.random.default_rng(0).integers(0, top, (3, 5, 7), endpoint=True)
    plane = values_plane("lower", (levels / top).astype(np.float32))
    assert plane.layout == ("lower", 3, bits)
    steps = np.frombuffer(plane.content, np.uint8).astype(int)
    steps = steps if bits == 8 else steps[: levels.size] * 256 + steps[levels.size :]
    assert np.array_equal(np.cumsum(steps) % (top + 1), levels.reshape(-1))


def test_other_values_are_rounded_to_sixteen_bits() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (1, 8, 8))
    plane = values_plane("upper", values)
    steps = np.frombuffer(plane.content, np.uint8).astype(int)
    levels = np.cumsum(steps[:64] * 256 + steps[64:]) % 65536
    assert plane.bits == 16 and np.abs(levels / 65535 - values.reshape(-1)).max() <= 0.5 / 65535


def test_bits_are_packed_in_order() -> None:
    bits = np.zeros((1, 3, 3), dtype=bool)
    bits[0, 0, 0] = bits[0, 2, 2] = True
    assert bits_plane("mask", bits).content == bytes([0b10000000, 0b10000000])
