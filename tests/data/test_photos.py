import importlib.util
import time

import numpy as np
import pytest

from conffusion.data import photos
from conffusion.data.photos import PHOTO_CREDITS, PHOTO_FILES, PhotoPatches, photo_sources
from conffusion.errors import ConfigError, DataError


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs the package skimage.*pip install 'conffusion\[priors\]'"):
        photo_sources()


def test_every_photograph_has_a_credit() -> None:
    assert set(PHOTO_CREDITS) == set(PHOTO_FILES)
    assert all(all(credit) for credit in PHOTO_CREDITS.values())


@pytest.fixture(scope="module")
def patches() -> PhotoPatches:
    pytest.importorskip("skimage", reason="the photographs need pip install 'conffusion[priors]'")
    pytest.importorskip("sklearn", reason="the photographs need pip install 'conffusion[priors]'")
    return PhotoPatches(32, seed=4)


def test_sources_are_colour_photographs(patches: PhotoPatches) -> None:
    sources = photo_sources()
    assert tuple(sources) == patches.class_names
    for photo in sources.values():
        assert photo.dtype == np.uint8 and photo.shape[2] == 3 and min(photo.shape[:2]) >= 300
        assert (photo[..., 0] != photo[..., 2]).mean() > 0.1


def test_retina_is_cut_inside_its_black_surroundings(patches: PhotoPatches) -> None:
    retina = photo_sources()["retina"]
    corners = retina[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners[:, 0] > 100).all()


def test_patches_are_functions_of_their_number(patches: PhotoPatches) -> None:
    images, labels = patches.batch(range(20))
    assert images.shape == (20, 3, 32, 32) and images.dtype == np.uint8
    assert labels.shape == (20,) and labels.dtype == np.int64
    again, again_labels = PhotoPatches(32, seed=4).batch([7, 3])
    np.testing.assert_array_equal(again, images[[7, 3]])
    np.testing.assert_array_equal(again_labels, labels[[7, 3]])
    assert not np.array_equal(PhotoPatches(32, seed=5).batch(range(20))[0], images)
    assert patches.batch([])[0].shape == (0, 3, 32, 32)


def test_photographs_are_drawn_evenly_and_fast(patches: PhotoPatches) -> None:
    start = time.process_time()
    images, labels = patches.batch(range(3000))
    assert time.process_time() - start < 3  # 0.25 s on a quiet machine
    counts = np.bincount(labels, minlength=len(patches.class_names))
    assert abs(counts - 3000 / len(counts)).max() < 100
    assert len(np.unique(images.reshape(3000, -1), axis=0)) == 3000


def test_splits_cut_from_disjoint_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (200, 250, 3))
    monkeypatch.setattr(photos, "photo_sources", lambda: {"ramp": columns})
    train = PhotoPatches(32, split="train").batch(range(200))[0]
    held_out = PhotoPatches(32, split="validation").batch(range(200))[0]
    assert train.max() < round(250 * 0.85) <= held_out.min()
    assert train.min() < 20 and held_out.max() > 240
    assert {bool(row[0, 0, 0] < row[0, 0, -1]) for row in train} == {True, False}  # mirrored or not


def test_crop_sides_cover_their_range() -> None:
    sides = [photos._crop_side(at, 32, 500) for at in np.linspace(0, 0.9999, 200)]
    assert min(sides) == 32 and max(sides) == 96
    assert max(photos._crop_side(at, 32, 67) for at in np.linspace(0, 0.9999, 200)) == 67


def test_settings_are_checked(patches: PhotoPatches) -> None:
    with pytest.raises(ConfigError, match="splits train, validation"):
        PhotoPatches(32, split="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="have 1 to 68 pixels"):
        PhotoPatches(128, split="validation")
