"""One forward pass from a degraded image to bounds: what each kind of network is shown, and how its heads are read."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from conffusion.models.denoiser import level_input
from conffusion.models.schedules import NoiseSchedule


class Bounds(NamedTuple):
    """Images in [-1, 1], each (N, C, H, W): point estimate, lower and upper bound."""

    point: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class OnePass:
    """How a kind of network sees the degraded image (docs/official_code.md, section 1).

    Attributes:
        second_input: What stands where the noisy image stood in diffusion training, after the condition:
            "zeros" (SR3), "condition" (Palette) or None for networks without a condition.
        fills_holes: Whether holes are filled with standard normal noise (Palette) or left mid-grey.
        adds_noise: Whether the input is noised to the level of the prediction step (guided diffusion).
    """

    second_input: str | None
    fills_holes: bool
    adds_noise: bool


ONE_PASS: dict[str, OnePass] = {
    "sr3": OnePass("zeros", True, False),
    "palette": OnePass("condition", True, False),
    "adm": OnePass(None, False, True),
    "encoder": OnePass(None, False, False),
}


class BoundPredictor(nn.Module):
    """Bounds of the clean image from one forward pass (Horwitz and Hoshen 2022, section 3).

    Each head's output e is read as a noise estimate and turned into an image by x_0 = a x_t - b e, clamped to
    [-1, 1], with a and b of the prediction step; without a schedule a = b = 1.

    Args:
        network: Module with `.heads(...)`; a diffusion U-Net with bound heads, or an encoder with a decoder.
        kind: Key of `ONE_PASS`.
        schedule: Noise schedule of a diffusion network; None for an encoder.
        prediction_time: Place in the schedule, in [0, 1): 0 = its cleanest step.
        has_holes: Whether pixels where the mask is 1 are missing from the condition.
        maps_timestep: Whether a network that takes time steps is told the step of the schedule that it was trained on;
            the official G-Conffusion tells it the step of the respaced schedule (docs/official_code.md, section 1).
    """

    def __init__(
        self,
        network: nn.Module,
        kind: str,
        schedule: NoiseSchedule | None,
        prediction_time: float,
        has_holes: bool,
        *,
        maps_timestep: bool = True,
    ) -> None:
        super().__init__()
        self.network, self._style, self._kind, self._has_holes = network, ONE_PASS[kind], kind, has_holes
        self._abar, self._timestep, self._coefficients = 1.0, 0, (1.0, 1.0)
        if schedule is not None:
            step = int(prediction_time * schedule.n_timesteps + 1e-9)  # 0.29 * 100 falls short of 29
            self._abar = float(schedule.alphas_cumprod[step])
            self._timestep = int(schedule.timestep_map[step]) if maps_timestep else step
            self._coefficients = schedule.clean_image_coefficients(step)

    @property
    def noise_purpose(self) -> str:
        """What the `noise` argument of `forward` is for: "fill" (holes) or "forward" (noise added to the input)."""
        return "forward" if self._style.adds_noise else "fill"

    @property
    def takes_noise(self) -> bool:
        """Whether the `noise` argument of `forward` has any effect."""
        return self._style.adds_noise or (self._style.fills_holes and self._has_holes)

    def forward(self, condition_pm1: Tensor, mask: Tensor, noise: Tensor, labels: Tensor | None = None) -> Bounds:
        """Bounds of a batch.

        Args:
            condition_pm1: (N, C, H, W) degraded images in [-1, 1].
            mask: (N, C, H, W), 1 at evaluated pixels (the hole, or everything).
            noise: (N, C, H, W) standard normal; fills holes, or is added, where the kind of network wants it.
            labels: (N,) class labels for class-conditional networks.
        """
        x_t = self._visible(condition_pm1, mask, noise)
        outputs = self._heads(x_t, labels)
        a, b = self._coefficients
        bounds = Bounds(*((a * x_t - b * output.float()).clamp(-1, 1) for output in outputs))
        if self._has_holes:  # known pixels are known: a zero-width interval outside the hole
            return Bounds(*(torch.where(mask > 0, bound, condition_pm1) for bound in bounds))
        return bounds

    def _visible(self, condition: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        if self._style.fills_holes and self._has_holes:
            return condition * (1 - mask) + noise * mask
        if self._style.adds_noise:
            return condition * self._abar**0.5 + noise * (1 - self._abar) ** 0.5
        return condition

    def _heads(self, x_t: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        channels = x_t.shape[1]
        if self._kind == "encoder":
            outputs = self.network.heads(x_t)  # type: ignore[operator]
        else:
            level = level_input(self._kind, self._abar, self._timestep, x_t)
            outputs = self.network.heads(self._network_input(x_t), level, labels)  # type: ignore[operator]
        return tuple(output[:, :channels] for output in outputs)  # drops the variances of ADM

    def _network_input(self, x_t: Tensor) -> Tensor:
        if self._style.second_input is None:
            return x_t
        second = torch.zeros_like(x_t) if self._style.second_input == "zeros" else x_t
        return torch.cat([x_t, second], dim=1)
