"""What is kept of the calibration images: their losses, to check the scale, and features, to compare new images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from conffusion.calibration.units import index_by_appearance
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels, IntArray, as_numpy
from conffusion.core.randomness import keyed_generator
from conffusion.evaluation.drift import Drift, check_drift, image_p_values


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is kept of the calibration images.

    Attributes:
        losses: (n_images,) share of each image's evaluated values outside its calibrated interval.
        features: (n_images, 14) `interval_features` of the bounds before the scale, on [0, 1], and
            `given_features` of what was restored; (n_images, 10) without these.
        groups: (n_images,) number of each image's group; None where every image is its own.
    """

    losses: FloatArray
    features: FloatArray
    groups: IntArray | None

    @classmethod
    def of(cls, losses: FloatArray, features: Sequence[FloatArray] | FloatArray, groups: GroupLabels | None) -> Self:
        """Evidence of images with the labels of their groups, or None."""
        numbers = None if groups is None else index_by_appearance(groups, len(losses))
        return cls(losses, np.asarray(features), numbers)

    def drift(self, features: ArrayLike, groups: GroupLabels | None = None, seed: int = 0) -> Drift:
        """Whether new images look like these.

        Args:
            features: (n_new, 10 or 14) as `features`.
            groups: (n_new,) label of each image's group. Where only one of the two sets has groups, each group is
                represented by one of its images, drawn at random, so that single images are compared.
            seed: Of permutations and draws.
        """
        if self.groups is not None and groups is not None:
            return check_drift(self.features, features, reference_groups=self.groups, new_groups=groups, seed=seed)
        known, new = _one_each(self.features, self.groups, seed), _one_each(as_numpy(features), groups, seed)
        return check_drift(known, new, seed=seed)

    def image_p_value(self, features: ArrayLike) -> float:
        """How typical one image is, by its (10,) or (14,) features: small where it is unlike these."""
        return float(image_p_values(self.features, as_numpy(features)[None], reference_groups=self.groups)[0])

    def arrays(self) -> dict[str, Any]:
        """Arrays by name, as they are kept in a file."""
        arrays: dict[str, Any] = {"losses": self.losses, "features": self.features}
        if self.groups is not None:
            arrays["groups"] = self.groups
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Inverse of `arrays`.

        Raises:
            ValueError: If an array is missing or they do not fit each other.
        """
        if not {"losses", "features"} <= arrays.keys():
            raise ValueError("losses or features are missing")
        evidence = cls(arrays["losses"], arrays["features"], arrays.get("groups"))
        n_images = len(evidence.losses)
        groups_fit = evidence.groups is None or evidence.groups.shape == (n_images,)
        if evidence.losses.ndim != 1 or evidence.features.shape[:1] != (n_images,) or not groups_fit:
            raise ValueError("its arrays are of different lengths")
        return evidence


def _one_each(features: FloatArray, groups: GroupLabels | None, seed: int) -> FloatArray:
    """One image of each group, drawn at random; all images where there are no groups."""
    if groups is None:
        return features
    order = keyed_generator("drift", "one of each group", seed).permutation(len(features))
    return features[np.sort(order[np.unique(as_numpy(groups)[order], return_index=True)[1]])]
