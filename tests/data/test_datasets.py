import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conffusion.data.datasets import DATASETS, Dataset, build_dataset
from conffusion.data.faces_dataset import FacesDataset
from conffusion.data.splits import has_groups
from conffusion.errors import ConfigError, DataError


@pytest.fixture(params=sorted(DATASETS))
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    if request.param == "faces":
        return build_dataset("faces", image_size=16, population="wide", seed=1, n_images=5)
    for k in range(5):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    return build_dataset(request.param, image_size=16, path=tmp_path)


def test_contract_of_every_dataset(dataset: Dataset) -> None:
    table = dataset.table()
    assert list(table.columns) == ["image_id", "group", "source"]
    assert len(table) == 5 and table["image_id"].is_unique
    assert all(isinstance(cell, str) and cell for cell in table.to_numpy().ravel())
    assert has_groups(table) or list(table["group"]) == list(table["image_id"])
    ids = list(table["image_id"])
    images = dataset.load(ids)
    assert images.shape == (5, 3, 16, 16) and images.dtype == np.float32
    assert 0 <= images.min() and images.max() <= 1 and images.std() > 0.05
    np.testing.assert_array_equal(dataset.load([ids[4], ids[1]]), images[[4, 1]])
    with pytest.raises(DataError, match="stranger"):
        dataset.load(["stranger"])


def test_every_dataset_has_its_images_at_another_side(dataset: Dataset) -> None:
    small, table = dataset.at_side(8), dataset.table()
    assert small.table().equals(table)
    ids = list(table["image_id"])
    images, reduced = dataset.load(ids), small.load(ids)
    assert reduced.shape == (5, 3, 8, 8)
    means = images.reshape(5, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    distances = np.abs(reduced[:, None] - means[None]).mean(axis=(2, 3, 4))
    assert list(distances.argmin(axis=1)) == list(range(5))
    np.testing.assert_array_equal(small.at_side(16).load(ids), images)


def test_names_and_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="dataset 'face' is unknown; did you mean 'faces'"):
        build_dataset("face", image_size=16)
    with pytest.raises(ConfigError, match="no setting 'populaton'; did you mean 'population'"):
        build_dataset("faces", image_size=16, populaton="wide")
    with pytest.raises(ConfigError, match="needs the setting 'path'"):
        build_dataset("folder", image_size=16)
    with pytest.raises(ConfigError, match="population = 'narrow': must be one of wide, shifted"):
        build_dataset("faces", image_size=16, population="narrow")
    with pytest.raises(ConfigError, match="n_images = 0"):
        build_dataset("faces", image_size=16, n_images=0)


def test_face_ids() -> None:
    faces = FacesDataset(16, n_images=2200)
    table = faces.table()
    assert table["image_id"].iloc[123] == "face-000123"
    assert set(table["source"]) == {"faces/shifted"}
    for image_id in ("face-002200", "face-x", "000001"):
        with pytest.raises(DataError, match=f"'{image_id}' is not one of the portraits face-000000 to face-002199"):
            faces.load([image_id])


def test_populations_and_seeds_differ() -> None:
    ids = ["face-000000", "face-000001"]
    first = FacesDataset(16, "wide", seed=0).load(ids)
    assert not np.array_equal(first, FacesDataset(16, "shifted", seed=0).load(ids))
    assert not np.array_equal(first, FacesDataset(16, "wide", seed=1).load(ids))


def test_tables_need_neither_torch_nor_the_packages_of_the_photographs() -> None:
    code = (
        "import sys, conffusion.tasks, conffusion.data.photos; from conffusion.data.datasets import build_dataset;"
        "build_dataset('faces', image_size=32).table();"
        "sys.exit(bool({'torch', 'skimage', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
