"""Super-resolution: the image is reduced bicubically, stored in 8 bits, and enlarged again."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from conffusion.core.arrays import FloatArray
from conffusion.errors import ConfigError, ShapeError
from conffusion.images.resize import resize_bicubic
from conffusion.tasks.task import Photographs, Task


def super_resolution(*, factor: int = 4, reduce: Literal["target", "photograph"] = "target") -> Task:
    """The task of undoing a reduction by `factor` a side.

    Args:
        factor: At least 2; must divide both sides of the images. The paper has 8 (16 to 128 pixels).
        reduce: What is reduced: "target", the image itself, or "photograph", the file that the image was resized from,
            as in the official data preparation.
    Raises:
        ConfigError: If a setting is out of range.
    """
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
        raise ConfigError(f"super_resolution: factor = {factor!r} must be a whole number of at least 2")
    if reduce not in get_args(Literal["target", "photograph"]):
        raise ConfigError(f"super_resolution: reduce = {reduce!r} must be 'target' or 'photograph'")
    degrade = partial(reduce_and_enlarge, factor=factor, original=reduce == "photograph")
    return Task("super_resolution", "Super-resolution", degrade=degrade, factor=factor)


def reduce_and_enlarge(
    target: FloatArray,
    image_ids: Sequence[str],
    seed: int,
    photographs: Photographs | None,
    *,
    factor: int,
    original: bool,
) -> FloatArray:
    """Low-resolution image, enlarged to the size of the target; nothing in it is random.

    Source:
        Official data preparation; checked against the fixture images/degradation by tests/tasks/test_tasks.py.
    """
    height, width = target.shape[-2:]
    if height % factor or width % factor:
        raise ShapeError(f"super_resolution: factor = {factor} does not divide the image size {width}x{height}")
    if not original:
        return resize_bicubic(resize_bicubic(target, height // factor, width // factor), height, width)
    if photographs is None:
        raise ConfigError("super_resolution: reduce = 'photograph' needs the original files; set reduce: target here")
    return resize_bicubic(photographs(height // factor), height, width)
