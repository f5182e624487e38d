"""The search over fine-tuning settings: what each trial tries."""

import math
from collections.abc import Sequence
from typing import Any

from conffusion.config.schema import MethodTuning, TuningSettings
from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError


def trial_settings(tuning: TuningSettings, kind: str, seed: int, trial: int) -> MethodTuning:
    """Settings of one trial for a kind of network ("sr3", "palette", "adm" or "encoder"), the same for every task.

    Each value list is shuffled and dealt out in turn (as in Latin hypercube sampling), so that few trials still visit
    many values; no combination repeats before all have been tried.

    Raises:
        ConfigError: If the search has no prediction times for this kind.
    """
    if kind not in tuning.prediction_time:
        raise ConfigError(f"tuning.prediction_time.{kind}: is missing; list values in [0, 1) for this kind of network")

    lists: dict[str, Sequence[Any]] = {
        "learning_rate": tuning.learning_rate,
        "prediction_time": tuning.prediction_time[kind],
        "n_steps": tuning.n_steps,
    }
    chosen: dict[str, Any] = {}
    size = 1
    for name, values in lists.items():
        together = math.lcm(size, len(values))  # after so many trials this list and those before come round together
        size *= len(values)
        place = trial % size + trial % size // together
        chosen[name] = values[keyed_generator("tuning", seed, name).permutation(len(values))[place % len(values)]]
    return MethodTuning(**chosen)
