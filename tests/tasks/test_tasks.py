import pickle
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.images.resize import from_uint8, resize_bicubic, to_uint8
from conffusion.tasks import TASKS, Task, build_task
from conffusion.tasks.inpainting import centre_mask
from tests.conformance import blocky_image, load, make

IDS = ["a", "b", "c", "d"]
SETTINGS = {"custom": {"function": f"{Path(__file__).parent / 'degradations.py'}:speckle"}}  # what has no default


def photographs(size: int = 32, n_images: int = 4) -> np.ndarray:
    cells = np.stack([blocky_image(seed, size=size, cells=8) for seed in range(n_images)])
    return from_uint8(cells.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", sorted(TASKS))
def test_contract_of_every_task(name: str) -> None:
    task = build_task(name, **SETTINGS.get(name, {}))
    target = photographs()
    before = target.copy()
    condition, mask = task.apply(target, IDS, seed=0)
    assert task.name == name and task.label
    assert condition.shape == mask.shape == target.shape
    assert (condition.dtype, mask.dtype) == (np.float32, np.uint8)
    assert 0 <= condition.min() and condition.max() <= 1
    assert set(np.unique(mask)) <= {0, 1} and mask.any()
    assert not np.array_equal(condition, target)
    np.testing.assert_array_equal(target, before)
    if task.has_mask:
        np.testing.assert_array_equal(condition[mask == 0], target[mask == 0])
    else:
        assert mask.all()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_batches_do_not_matter(name: str) -> None:
    task = build_task(name, **SETTINGS.get(name, {}))
    target = photographs()
    whole, _ = task.apply(target, IDS, seed=7)
    for order in ([2, 0], [3]):
        part, _ = task.apply(target[order], [IDS[k] for k in order], seed=7)
        np.testing.assert_array_equal(part, whole[order])
    assert task.apply(target[:0], [], seed=7)[0].shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_tasks_are_plain_data(name: str) -> None:
    task = build_task(name, **SETTINGS.get(name, {}))
    copy = pickle.loads(pickle.dumps(task))
    np.testing.assert_array_equal(copy.apply(photographs(), IDS, 1)[0], task.apply(photographs(), IDS, 1)[0])
    with pytest.raises(FrozenInstanceError):
        task.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("seed", [701, 702])
def test_super_resolution_follows_the_official_pipeline(seed: int) -> None:
    meta, arrays = load("images/degradation")
    hr = resize_bicubic(from_uint8(blocky_image(seed).transpose(2, 0, 1))[None], 128, 128)
    assert to_uint8(hr).sum() == meta["values"][f"sums_{seed}"]["hr"]
    condition, _ = build_task("super_resolution", factor=8).apply(hr, ["photo"], 0)
    official = arrays[f"sr_{seed}"].astype(float)
    ours = to_uint8(condition)[0].transpose(1, 2, 0)[::4, ::4]
    # The official low-resolution image comes from the 256-pixel photograph, ours from the 128-pixel target.
    assert np.abs(ours - official).mean() < 2


def test_super_resolution_stores_the_small_image_in_8_bits() -> None:
    target = photographs()
    condition, mask = build_task("super_resolution", factor=4).apply(target, IDS, 0)
    small = to_uint8(resize_bicubic(target, 8, 8))
    np.testing.assert_array_equal(condition, resize_bicubic(from_uint8(small), 32, 32))
    assert mask.all()


def test_official_hole() -> None:
    meta, _ = load("masks/inpainting")
    box = meta["center_256"]
    rows, columns = np.nonzero(centre_mask(256, 256, hole=0.5))
    found = {"top": rows.min(), "left": columns.min(), "height": np.ptp(rows) + 1, "width": np.ptp(columns) + 1}
    assert found == box and len(rows) == box["height"] * box["width"]


@given(height=st.integers(2, 80), width=st.integers(2, 80))
def test_half_hole_equals_the_fixtures_rule(height: int, width: int) -> None:
    official = make({"rule": "center_mask", "shape": [height, width], "dtype": "uint8"})
    np.testing.assert_array_equal(centre_mask(height, width, hole=0.5), official)


@pytest.mark.parametrize("percent", range(1, 100))
def test_start_and_length_of_holes_are_those_of_exact_arithmetic(percent: int) -> None:
    """In floating point 10 (1 - 0.8) / 2 is below 1."""
    hole = Fraction(percent, 100)
    for size in range(2, 129):
        start, length = int(size * (1 - hole) / 2), int(size * hole)
        (rows,) = np.nonzero(centre_mask(size, 2 * size, hole=percent / 100).any(axis=1))
        assert rows.tolist() == list(range(start, start + length))


@given(size=st.integers(8, 64), hole=st.floats(0.15, 0.95))
def test_holes_are_centred(size: int, hole: float) -> None:
    rows = np.nonzero(centre_mask(size, size, hole=hole).any(axis=1))[0]
    assert abs(len(rows) - hole * size) < 1
    assert abs(rows[0] - (size - 1 - rows[-1])) <= 2  # start and length are both rounded down


def test_inpainting_stores_mid_grey_and_asks_for_noise() -> None:
    task = build_task("inpainting", hole=0.5)
    condition, mask = task.apply(photographs(), IDS, 0)
    assert (condition[mask == 1] == 0.5).all()
    assert mask.mean() == 0.25
    assert task.fill == "noise" and task.has_mask


def test_noise_is_a_function_of_seed_and_image() -> None:
    task = build_task("denoising", sigma=0.05)
    grey = np.full((2, 3, 64, 64), 0.5, np.float32)
    noisy, mask = task.apply(grey, ["a", "b"], seed=0)
    assert mask.all()
    assert abs((noisy - grey).std() - 0.05) < 0.002
    assert not np.array_equal(noisy[0], noisy[1])
    np.testing.assert_array_equal(task.apply(grey, ["b", "a"], seed=0)[0], noisy[::-1])
    assert not np.array_equal(task.apply(grey, ["a", "b"], seed=1)[0], noisy)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("superresolution", {}, "task 'superresolution' is unknown; did you mean 'super_resolution'"),
        ("x", {}, f"known: {', '.join(sorted(TASKS))}"),
        ("super_resolution", {"facter": 4}, "no setting 'facter'; did you mean 'factor'"),
        ("super_resolution", {"factor": 1}, "factor = 1"),
        ("super_resolution", {"factor": 2.5}, "factor = 2.5"),
        ("inpainting", {"hole": 1.0}, "hole = 1.0 must lie between 0 and 1"),
        ("inpainting", {"hole": "big"}, "hole = 'big'"),
        ("denoising", {"sigma": 0}, "sigma = 0 must be above 0"),
    ],
)
def test_names_and_settings_are_checked(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_task(name, **settings)


def test_images_are_checked() -> None:
    task = build_task("super_resolution", factor=5)
    with pytest.raises(ShapeError, match="factor = 5 does not divide the image size 32x32"):
        task.apply(photographs(), IDS, 0)
    with pytest.raises(ShapeError, match="expected"):
        task.apply(photographs()[0], IDS, 0)
    with pytest.raises(ShapeError, match="2 image ids for 4 images"):
        task.apply(photographs(), IDS[:2], 0)
    with pytest.raises(ShapeError, match="no pixel of a 32x32 image would be evaluated"):
        build_task("inpainting", hole=0.01).apply(photographs(), IDS, 0)


@pytest.mark.parametrize("value", [-0.1, 255.0, np.nan])
def test_values_outside_the_range_are_refused(value: float) -> None:
    target = photographs()
    target[2, 1, 4, 5] = value
    with pytest.raises(DataError, match=r"image 'c' holds values outside \[0, 1\]"):
        build_task("inpainting").apply(target, IDS, 0)


def test_a_task_of_ones_own_takes_a_few_lines() -> None:
    def to_grey(target: np.ndarray, image_ids: object, seed: int, photographs: object) -> np.ndarray:
        return np.repeat(target.mean(axis=1, keepdims=True), 3, axis=1)

    colourisation = Task("colourisation", "Colourisation", degrade=to_grey)
    condition, mask = colourisation.apply(photographs(), IDS, 0)
    assert np.ptp(condition, axis=1).max() == 0 and mask.all()
    assert replace(colourisation, label="Colour").label == "Colour"
