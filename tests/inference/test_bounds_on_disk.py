"""Images of many sizes as rows of arrays on disk."""

from pathlib import Path

import numpy as np
import pytest

from conffusion import Interval
from conffusion.calibration import calibrate
from conffusion.errors import StoreError
from conffusion.inference.bounds_on_disk import calibrated_losses, temporary_bounds


def images(n_images: int) -> list[tuple[Interval, np.ndarray]]:
    generator, made = np.random.default_rng(0), []
    for k in range(n_images):
        target = generator.uniform(0.2, 0.8, (3, 4 + k % 5, 6))
        middle = target + 0.1 * generator.standard_normal(target.shape)
        mask = (generator.random(target.shape[1:]) > 0.5).astype(np.uint8) if k % 2 else None
        made.append((Interval(middle - 0.1, middle + 0.1, middle, "midpoint", mask), target))
    return made


def test_rows_hold_the_restored_values_and_nothing_else(tmp_path: Path) -> None:
    made = images(6)
    with temporary_bounds(tmp_path / "new") as on_disk:
        for k, (interval, target) in enumerate(made):
            on_disk.append(f"image {k}", interval, target)
        bounds = on_disk.labelled(list("aabbcc"))
        assert bounds.n_units == 3
        mask = np.asarray(bounds.mask[:])
        for row, (interval, target) in enumerate(made):
            chosen = mask[row] == 1
            for found, expected in ((bounds.lower, interval.lower), (bounds.target, target)):
                np.testing.assert_array_equal(
                    np.asarray(found[row])[chosen], expected[:, interval.restored].reshape(-1)
                )
        np.testing.assert_array_equal(bounds.count_evaluated(), [3 * one.restored.sum() for one, _ in made])
    assert not list((tmp_path / "new").iterdir())


def test_losses_are_the_risks_of_the_calibrated_intervals(tmp_path: Path) -> None:
    made = images(40)
    with temporary_bounds(tmp_path) as on_disk:
        for interval, target in made:
            on_disk.append("image", interval, target)
        bounds = on_disk.labelled()
        found = calibrate(
            bounds.lower, bounds.upper, bounds.target, mask=bounds.mask, scaling="additive", alpha=0.3, delta=0.3
        )
        losses = calibrated_losses(bounds, found)
    ends = [(found.apply(interval.lower, interval.upper), interval.mask, target) for interval, target in made]
    risks = [Interval(*bound, bound[0], "midpoint", mask).risk(target) for bound, mask, target in ends]
    np.testing.assert_allclose(losses, risks, atol=1e-12)
    assert found.risk == pytest.approx(losses.mean())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: cannot be written"), temporary_bounds(tmp_path / "file"):
        pass
