"""Networks by name, and priors: pretrained networks with the configuration that rebuilds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from conffusion.core.choices import UNET_KINDS
from conffusion.errors import CheckpointError
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.encoder_unet import EncoderUNet
from conffusion.models.encoders import Encoder, build_encoder
from conffusion.models.schedules import NoiseSchedule, noise_schedule
from conffusion.models.unet import build_unet


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network.

    Attributes:
        network: "sr3", "palette", "adm" or the name of an encoder.
        options: The U-Net's configuration, or the encoder's keyword arguments; for encoders also
            `imagenet_statistics`, whether inputs are standardised as ImageNet classifiers expect.
        schedule: Keyword arguments of `noise_schedule`; None for an encoder.
    """

    network: str
    options: Mapping[str, Any]
    schedule: Mapping[str, Any] | None

    @property
    def kind(self) -> str:
        """How the network is used: its U-Net kind, or "encoder"."""
        return self.network if self.network in UNET_KINDS else "encoder"

    def build_schedule(self) -> NoiseSchedule | None:
        """The noise schedule of a diffusion network, else None."""
        return noise_schedule(**self.schedule) if self.schedule else None

    def build_prior(self) -> nn.Module:
        """The network as it is pretrained: without bound heads or decoder."""
        if self.kind == "encoder":
            return self._build_encoder()
        return build_unet(self.network, self.options)

    def build_with_bounds(self, prior: Mapping[str, Tensor] | None) -> nn.Module:
        """The network with bound heads, starting from a prior's weights or, with None, from scratch."""
        if self.kind == "encoder":
            encoder = self._build_encoder()
            if prior is not None:
                load_weights(encoder, prior)
            return EncoderUNet(encoder, standardise=bool(self.options.get("imagenet_statistics")))
        network = build_unet(self.network, self.options, bounds=True)
        if prior is not None:
            load_weights(network, prior, may_lack=("lower.", "upper."))
            network.copy_head_to_bounds()
        return network

    def _build_encoder(self) -> Encoder:
        return build_encoder(
            self.network, **{key: value for key, value in self.options.items() if key != "imagenet_statistics"}
        )

    def record(self) -> dict[str, Any]:
        """JSON-serialisable form, kept in checkpoints."""
        schedule = dict(self.schedule) if self.schedule else None
        return {"network": self.network, "options": dict(self.options), "schedule": schedule}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], *, may_lack: tuple[str, ...] = ()) -> None:
    """Copy weights into a network; names and shapes must agree, except names that start with one of `may_lack`.

    Raises:
        CheckpointError: Naming the first few differences.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    missing = [name for name in expected if name not in found and not name.startswith(may_lack or ("\0",))]
    wrong = [name for name in found if expected.get(name) != found[name]]
    if missing or wrong:
        shown = [
            f"{name}: {expected.get(name, 'not expected')} needed, {found.get(name, 'missing')} found"
            for name in (missing + wrong)[:3]
        ]
        raise CheckpointError(
            f"the weights belong to another architecture ({len(missing)} missing, {len(wrong)} unexpected or of "
            f"another shape): {'; '.join(shown)}"
        )
    network.load_state_dict(dict(weights), strict=not may_lack)


def load_prior(path: str | Path, architecture: Architecture) -> dict[str, Tensor]:
    """Weights of a prior whose record agrees with the configured architecture.

    Raises:
        CheckpointError: If the file is unreadable or was made with other options.
    """
    weights, record = load_checkpoint(path)
    if record.get("architecture") != architecture.record():
        raise CheckpointError(
            f"{path}: was trained as {record.get('architecture')} but the configuration asks for "
            f"{architecture.record()}; set priors_dir: null to train a new prior in the run"
        )
    return weights
