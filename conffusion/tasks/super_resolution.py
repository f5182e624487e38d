"""Super-resolution: the image is reduced bicubically, stored in 8 bits, and enlarged again."""

from collections.abc import Sequence
from functools import partial

from conffusion.arrays import FloatArray
from conffusion.data.resize import resize_bicubic
from conffusion.errors import ConfigError, ShapeError
from conffusion.tasks.task import Task


def super_resolution(*, factor: int = 4) -> Task:
    """The task of undoing a reduction by `factor` a side.

    Args:
        factor: At least 2; must divide both sides of the images. The paper has 8 (16 to 128 pixels).
    Raises:
        ConfigError: If the factor is not a whole number of at least 2.
    """
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
        raise ConfigError(f"super_resolution: factor = {factor!r} must be a whole number of at least 2")
    return Task("super_resolution", "Super-resolution", degrade=partial(reduce_and_enlarge, factor=factor))


def reduce_and_enlarge(target: FloatArray, image_ids: Sequence[str], seed: int, *, factor: int) -> FloatArray:
    """Low-resolution image, enlarged to the size of the target; nothing in it is random.

    Source:
        Official data preparation; checked against the fixture images/degradation by tests/tasks/test_tasks.py.
    """
    height, width = target.shape[-2:]
    if height % factor or width % factor:
        raise ShapeError(f"super_resolution: factor = {factor} does not divide the image size {width}x{height}")
    return resize_bicubic(resize_bicubic(target, height // factor, width // factor), height, width)
