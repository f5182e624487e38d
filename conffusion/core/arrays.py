"""Array aliases, value ranges and shape checks shared by the whole package.

Images at the borders of the package are (N, C, H, W) float32 in [0, 1]; names ending in `_pm1` hold [-1, 1].
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from conffusion.errors import ShapeError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
ArrayLike: TypeAlias = Any  # NumPy array, torch tensor or zarr array
GroupLabels: TypeAlias = Sequence[Any] | ArrayLike


def to_pm1(image_01: Any) -> Any:
    """Map values from [0, 1] to [-1, 1]."""
    return image_01 * 2 - 1


def to_01(image_pm1: Any) -> Any:
    """Map values from [-1, 1] to [0, 1]; values outside are not clipped."""
    return (image_pm1 + 1) / 2


def is_zarr(array: ArrayLike) -> bool:
    """Whether `array` is a zarr array, which is read in blocks and never whole."""
    return type(array).__module__.split(".")[0] == "zarr"


def as_numpy(array: ArrayLike) -> npt.NDArray[Any]:
    """NumPy view or copy of a NumPy array, a torch tensor (detached, on the CPU) or a zarr array (read whole)."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    return np.asarray(array)


def check_same_shape(**arrays: ArrayLike | None) -> tuple[int, ...]:
    """Return the common shape of the arrays that are not None.

    Raises:
        ShapeError: If two shapes differ; the message names both arrays.
    """
    named = {name: tuple(array.shape) for name, array in arrays.items() if array is not None}
    first = next(iter(named))
    for name, shape in named.items():
        if shape != named[first]:
            raise ShapeError(f"{name} has shape {shape} but {first} has {named[first]}: they must be equal")
    return named[first]


def iterate_blocks(n_rows: int, block_rows: int) -> Iterator[slice]:
    """Slices of at most `block_rows` rows that cover range(n_rows) in order."""
    for start in range(0, n_rows, block_rows):
        yield slice(start, min(start + block_rows, n_rows))
