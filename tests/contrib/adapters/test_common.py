"""What adapters share."""

import numpy as np
import pytest

from conffusion.contrib.adapters.common import needed_library, sample_seed
from conffusion.errors import ConfigError


def test_a_missing_library_is_named_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"no_such_library cannot be imported .*: pip install no_such_library"):
        needed_library("no_such_library")


def test_seeds_are_a_function_of_seed_content_and_number() -> None:
    image = np.random.default_rng(0).random((3, 4, 5))
    seeds = {sample_seed(seed, image, number) for seed in range(3) for number in range(5)}
    assert len(seeds) == 15 and all(0 <= seed < 2**32 for seed in seeds)
    assert sample_seed(0, image.copy(), 2) == sample_seed(0, image, 2) != sample_seed(0, image + 1e-9, 2)
