"""Patches of the real photographs that scikit-image and scikit-learn ship; they play ImageNet for the generic prior.

The class of a patch is the photograph that it was cut from: a weak stand-in for ImageNet's labels. Nothing is
downloaded, and neither package is imported: the files are read from their installed folders.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError, DataError
from conffusion.images.image import open_images

Photo: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3)
PhotoSplit = Literal["train", "validation"]

VALIDATION_SHARE = 0.15  # of each photograph's width, at its right edge
CROP_SIDES = (1.0, 3.0)  # smallest and largest side of a crop, in multiples of image_size


class PhotoCredit(NamedTuple):
    """Who made a photograph, under which terms, and where it came from."""

    author: str
    licence: str
    source: str


class PhotoFile(NamedTuple):
    """Where a photograph lies inside an installed package, and what part of it is used."""

    package: str
    file: str
    margin: int = 0  # pixels left out at every edge


# Left out on purpose: grey images, drawings, the second half of the stereo pair, and the motorcycle altogether, because
# the package states no licence for it. The margin leaves out what is black around the retina.
PHOTO_FILES: Mapping[str, PhotoFile] = MappingProxyType(
    {
        "astronaut": PhotoFile("skimage", "data/astronaut.png"),
        "chelsea": PhotoFile("skimage", "data/chelsea.png"),
        "china": PhotoFile("sklearn", "datasets/images/china.jpg"),
        "coffee": PhotoFile("skimage", "data/coffee.png"),
        "flower": PhotoFile("sklearn", "datasets/images/flower.jpg"),
        "hubble_deep_field": PhotoFile("skimage", "data/hubble_deep_field.jpg"),
        "immunohistochemistry": PhotoFile("skimage", "data/ihc.png"),
        "retina": PhotoFile("skimage", "data/retina.jpg", margin=215),
        "rocket": PhotoFile("skimage", "data/rocket.jpg"),
    }
)

# As stated in the installed packages: the docstrings of skimage.data and sklearn/datasets/images/README.txt. For the
# flower that file repeats danielbuechele's name, but both of its links lead to vultilion.
PHOTO_CREDITS: Mapping[str, PhotoCredit] = MappingProxyType(
    {
        "astronaut": PhotoCredit(
            "NASA", "public domain, no known copyright restrictions", "NASA Great Images, https://flic.kr/p/r9qvLn"
        ),
        "chelsea": PhotoCredit("Stefan van der Walt", "CC0", "scikit-image"),
        "china": PhotoCredit(
            "danielbuechele", "CC BY 2.0", "https://www.flickr.com/photos/danielbuechele/6061409035/ by scikit-learn"
        ),
        "coffee": PhotoCredit("Rachel Michetti", "CC0", "scikit-image, courtesy of Pikolo Espresso Bar"),
        "flower": PhotoCredit(
            "vultilion", "CC BY 2.0", "https://www.flickr.com/photos/vultilion/6056698931/ by scikit-learn"
        ),
        "hubble_deep_field": PhotoCredit(
            "NASA", "public domain", "HubbleSite, http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"
        ),
        "immunohistochemistry": PhotoCredit(
            "Center for Microscopy And Molecular Imaging (CMMI)", "no known copyright restrictions", "scikit-image"
        ),
        "retina": PhotoCredit(
            "Mikael Häggström",
            "CC0 1.0",
            "https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg",
        ),
        "rocket": PhotoCredit("SpaceX", "public domain", "https://www.flickr.com/photos/spacexphotos/16511594820/"),
    }
)


def photo_sources() -> dict[str, Photo]:
    """The photographs by name, in the order of their class labels.

    Returns:
        Name to (H, W, 3) uint8; of the retina the central square without the black surroundings.
    Raises:
        DataError: If scikit-image or scikit-learn is not installed, or one of its files is missing.
    """
    return {name: _read_photo(entry) for name, entry in PHOTO_FILES.items()}


@dataclass(frozen=True)
class PhotoPatches:
    """An endless stream of patches; patch k is a function of (seed, split, k) alone.

    Every photograph is equally likely, whatever its size. A crop has a side of 1 to 3 times `image_size` (log-uniform,
    capped by the photograph), is reduced bicubically, and is mirrored with probability one half.

    Attributes:
        image_size: Side of the patches, in pixels.
        seed: Another seed gives other patches.
        split: `validation` cuts from the right 15 % of each photograph, `train` from the rest.

    Raises:
        ConfigError: If the split is unknown, or a photograph's region is smaller than `image_size`.
        DataError: As `photo_sources`.
    """

    image_size: int
    seed: int = 0
    split: PhotoSplit = "train"
    _regions: tuple[Image.Image, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the photographs."""
        if self.split not in get_args(PhotoSplit):
            raise ConfigError(f"split = {self.split!r}: photographs have the splits {', '.join(get_args(PhotoSplit))}")
        regions = tuple(Image.fromarray(_cut_region(photo, self.split)) for photo in photo_sources().values())
        smallest = min(min(region.size) for region in regions)
        if not 1 <= self.image_size <= smallest:
            raise ConfigError(
                f"image_size = {self.image_size}: patches of the split {self.split!r} have 1 to {smallest} pixels"
            )
        object.__setattr__(self, "_regions", regions)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of the photograph behind each label."""
        return tuple(PHOTO_FILES)

    def batch(self, indices: Iterable[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Patches and the photographs that they come from.

        Args:
            indices: Numbers of the patches, at least 0.
        Returns:
            (N, 3, image_size, image_size) uint8, and (N,) int64 labels, positions in `class_names`.
        """
        cut = [self._patch(int(k)) for k in indices]
        patches = np.empty((len(cut), self.image_size, self.image_size, 3), dtype=np.uint8)
        for k, (patch, _) in enumerate(cut):
            patches[k] = patch
        labels = np.array([label for _, label in cut], dtype=np.int64)
        return np.ascontiguousarray(patches.transpose(0, 3, 1, 2)), labels

    def _patch(self, k: int) -> tuple[Photo, int]:
        generator = keyed_generator("photos", self.seed, self.split, k)
        label = int(generator.integers(len(self._regions)))
        at_side, at_left, at_top, at_mirror = generator.random(4)
        region = self._regions[label]
        side = _crop_side(at_side, self.image_size, min(region.size))
        left, top = int(at_left * (region.width - side + 1)), int(at_top * (region.height - side + 1))
        box = (left, top, left + side, top + side)
        patch = region.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC, box)
        return np.asarray(patch)[:, ::-1] if at_mirror < 0.5 else np.asarray(patch), label


def _crop_side(at: float, image_size: int, largest: int) -> int:
    """Side of a crop in pixels, log-uniform for uniform `at` in [0, 1)."""
    low, high = (factor * image_size for factor in CROP_SIDES)
    return round(low * (min(high, largest) / low) ** at)


def _cut_region(photo: Photo, split: PhotoSplit) -> Photo:
    edge = round(photo.shape[1] * (1 - VALIDATION_SHARE))
    return np.ascontiguousarray(photo[:, :edge] if split == "train" else photo[:, edge:])


def _read_photo(entry: PhotoFile) -> Photo:
    spec = importlib.util.find_spec(entry.package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the dataset 'photos' needs the package {entry.package}, which is not installed: "
            "run pip install 'conffusion[priors]' (needed to train the priors only)"
        )
    photo = open_images(Path(spec.submodule_search_locations[0]) / entry.file)[0].samples  # 8 bits, colour
    height, width = photo.shape[:2]
    return photo[entry.margin : height - entry.margin, entry.margin : width - entry.margin]
