"""What a dataset is, and the datasets that the configuration can name."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import pandas as pd

from conffusion.core.arrays import FloatArray
from conffusion.core.names import build_named
from conffusion.data.faces_dataset import FacesDataset
from conffusion.data.folder import FolderDataset


class Dataset(Protocol):
    """Images with stable names."""

    def table(self) -> pd.DataFrame:
        """One row an image: image_id, group and source, all text; without groups, group is the image id."""

    def load(self, image_ids: Sequence[str]) -> FloatArray:
        """(N, 3, S, S) float32 in [0, 1], in the order of `image_ids`."""

    def at_side(self, side: int) -> "Dataset":
        """The same images under the same names, each made anew from its source with a side of `side` pixels."""


DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType({"faces": FacesDataset, "folder": FolderDataset})


def build_dataset(name: str, **settings: Any) -> Dataset:
    """Dataset called `name`.

    Args:
        name: A key of `DATASETS`.
        settings: Fields of its class; `image_size` is always needed.
    Raises:
        ConfigError: If the name or a setting is unknown, missing or out of range.
    """
    return build_named(DATASETS, name, settings, "dataset")
