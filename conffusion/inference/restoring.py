"""Images through a predictor, in order, a few at a time."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from conffusion.core.progress import Progress
from conffusion.inference.inputs import Inputs, Item
from conffusion.inference.predictor import Predictor
from conffusion.inference.unscaled import Unscaled


def restore(predictor: Predictor, inputs: Inputs, names: list[str], label: str) -> Iterator[tuple[Item, Unscaled]]:
    """Bounds before the scale of the named images, with what they were made from."""
    progress = Progress(label, len(names), unit="images")
    read: deque[Item] = deque()

    def images() -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8] | None]]:
        for name in names:
            item = inputs.load(name)
            read.append(item)
            yield item.image, item.mask

    for unscaled in predictor.unscaled(images()):
        yield read.popleft(), unscaled
        progress.update()
