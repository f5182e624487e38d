"""Degraded images: parts of them, and noise and classes that are functions of (seed, task, image id) alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conffusion.store import open_store, write_store
from conffusion.tasks import DegradedImages, build_task

IDS = ("a", "b", "ü/3", "d")
SUPER_RESOLUTION, INPAINTING = build_task("super_resolution"), build_task("inpainting")


def images(ids: tuple[str, ...] = IDS, side: int = 8, **changes: Any) -> DegradedImages:
    condition = np.random.default_rng(0).random((len(ids), 3, side, side), dtype=np.float32)
    return replace(DegradedImages(INPAINTING, 1, ids, condition, INPAINTING.mask(condition.shape)), **changes)


def test_noise_of_an_image_ignores_the_others() -> None:
    together = images().noise("fill")
    assert together.shape == (4, 3, 8, 8) and together.dtype == np.float32
    np.testing.assert_array_equal(together[::-1], images(IDS[::-1]).noise("fill"))
    np.testing.assert_array_equal(together[2:3], images().part(slice(2, 3)).noise("fill"))
    np.testing.assert_array_equal(together[[3, 0, 3]], images().take([3, 0, 3]).noise("fill"))


@pytest.mark.parametrize(
    ("purpose", "changes", "call"),
    [
        ("forward", {}, ""),
        ("fill", {"seed": 2}, ""),
        ("fill", {"task": SUPER_RESOLUTION}, ""),
        ("fill", {}, "validation after step 20"),
    ],
)
def test_noise_depends_on_purpose_seed_task_and_call(purpose: str, changes: dict[str, Any], call: str) -> None:
    other = images(**changes).noise(purpose, call=call)
    assert not np.isclose(images().noise("fill"), other).any()
    np.testing.assert_array_equal(other, images(**changes).noise(purpose, call=call))


def test_noise_is_standard_normal() -> None:
    noise = images(tuple(str(k) for k in range(200)), 16).noise("fill")
    assert abs(noise.mean()) < 5 / noise.size**0.5
    assert abs(noise.std() - 1) < 0.01


def test_classes_are_uniform_and_stay_with_their_image() -> None:
    ids = tuple(str(k) for k in range(3000))
    some = images(ids, 4, seed=5)
    classes = some.classes(9)
    np.testing.assert_array_equal(classes[::-1], images(ids[::-1], 4, seed=5).classes(9))
    counts = np.bincount(classes, minlength=9)
    assert len(counts) == 9
    assert (np.abs(counts - 3000 / 9) < 5 * (3000 / 9) ** 0.5).all()
    for other in (images(ids, 4, seed=6).classes(9), some.classes(9, call="test")):
        assert (classes != other).mean() > 0.8


def test_part_of_a_store_holds_its_rows_alone(tmp_path: Path) -> None:
    some = images()
    write_store(tmp_path / "test.json", {"condition": some.condition, "mask": some.mask}, IDS, {"task": "inpainting"})
    stored = DegradedImages.of_store(open_store(tmp_path / "test.json"), 1)
    assert (len(stored), stored.shape, stored.task.name) == (4, (3, 8, 8), "inpainting")
    for rows in (slice(1, 3), slice(3, 9)):
        part = stored.part(rows)
        assert part.image_ids == IDS[rows] and isinstance(part.condition, np.ndarray)
        np.testing.assert_array_equal(part.condition, some.condition[rows])
        np.testing.assert_array_equal(part.mask, some.mask[rows])
