"""Rendered portraits as a dataset; the drawing itself is in `conffusion.demo`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import pandas as pd

from conffusion.core.arrays import FloatArray
from conffusion.errors import ConfigError, DataError
from conffusion.images.resize import from_uint8

Population = Literal["wide", "shifted"]
ID_PREFIX = "face-"


@dataclass(frozen=True)
class FacesDataset:
    """The first `n_images` portraits of a population.

    Attributes:
        image_size: Side of the square images, in pixels.
        population: `wide` plays FFHQ, `shifted` plays CelebA-HQ.
        seed: Another seed draws other portraits.
        n_images: Number of portraits in the table; each is a function of (seed, population, its number) alone.

    Raises:
        ConfigError: If the population is unknown or a count is below 1.
    """

    image_size: int
    population: Population = "shifted"
    seed: int = 0
    n_images: int = 2200

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.population not in get_args(Population):
            known = ", ".join(get_args(Population))
            raise ConfigError(f"dataset.faces.population = {self.population!r}: must be one of {known}")
        for key in ("image_size", "n_images"):
            if getattr(self, key) < 1:
                raise ConfigError(f"dataset.faces.{key} = {getattr(self, key)}: must be at least 1")

    def table(self) -> pd.DataFrame:
        """Columns image_id (`face-000123`), group (the image itself) and source (`faces/<population>`), all text."""
        ids = [f"{ID_PREFIX}{index:06d}" for index in range(self.n_images)]
        return pd.DataFrame({"image_id": ids, "group": ids, "source": f"faces/{self.population}"}, dtype=str)

    def load(self, image_ids: Sequence[str]) -> FloatArray:
        """Render portraits, in the order given.

        Returns:
            (len(image_ids), 3, image_size, image_size) float32 in [0, 1], multiples of 1/255.
        Raises:
            DataError: If an id is not one of the table's.
        """
        from conffusion.demo import render_faces  # heavy: only where pixels are wanted

        indices = [self._index(image_id) for image_id in image_ids]
        return from_uint8(render_faces(indices, self.image_size, population=self.population, seed=self.seed))

    def at_side(self, side: int) -> "FacesDataset":
        """The same portraits, rendered with a side of `side` pixels."""
        return replace(self, image_size=side)

    def _index(self, image_id: str) -> int:
        number = image_id.removeprefix(ID_PREFIX)
        if not image_id.startswith(ID_PREFIX) or not number.isdecimal() or int(number) >= self.n_images:
            last = f"{ID_PREFIX}{self.n_images - 1:06d}"
            raise DataError(f"{image_id!r} is not one of the portraits {ID_PREFIX}000000 to {last}; rebuild the splits")
        return int(number)
