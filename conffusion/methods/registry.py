"""The compared systems as data: which network, where its weights start, what it is fitted to, by which loss."""

from dataclasses import dataclass
from typing import Literal

from conffusion.core.names import lookup


@dataclass(frozen=True)
class Method:
    """One system of the paper.

    Attributes:
        name: Name in the configuration and in file names.
        label: Name in tables and figures.
        network: "task" = the task's own diffusion network; otherwise a role of `networks` in the configuration;
            None = no network of its own, the bounds are quantiles of sampled variants.
        pretrained: Whether fine-tuning starts from the prior's weights.
        target: "truth", or "sampled_bounds" (the quantiles extracted for DM_SB).
        loss: Name in `conffusion.training.objectives`.
    """

    name: str
    label: str
    network: str | None
    pretrained: bool
    target: Literal["truth", "sampled_bounds"]
    loss: Literal["pinball", "pinball_and_squared_error", "squared_error"] | None

    @property
    def is_sampled(self) -> bool:
        """Whether the bounds come from sampling instead of one forward pass."""
        return self.network is None

    @property
    def has_point_head(self) -> bool:
        """Whether its network was fitted to a point estimate beside the bounds."""
        return self.loss == "pinball_and_squared_error"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("adm_uq", "ADM_UQ", "generic", False, "truth", "pinball_and_squared_error"),
        Method("dm_sb", "DM_SB", None, True, "truth", None),
        Method("dm_sba", "DM_SBA", "task", True, "sampled_bounds", "squared_error"),
        Method("n_conffusion", "N-Conffusion", "task", True, "truth", "pinball"),
        Method("g_conffusion", "G-Conffusion", "generic", True, "truth", "pinball"),
        Method("resnext", "ResNeXt", "resnext", True, "truth", "pinball"),
        Method("resnest", "ResNeSt", "resnest", True, "truth", "pinball"),
    )
}


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        ConfigError: If there is none; names the nearest.
    """
    return lookup(METHODS, name, "method")
