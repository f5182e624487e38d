"""Reading and writing weights under the names of the official checkpoint files; weights only, never code."""

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conffusion.errors import CheckpointError
from conffusion.models.unet import BOUND_HEADS, UNet

OfficialFile: TypeAlias = Literal["pretrained", "with_bounds", "finetuned"]
N_LISTED = 3  # names shown per kind of difference


@dataclass(frozen=True)
class FileFormat:
    """How one implementation names things in its files.

    Attributes:
        description: For messages: what was expected, and typical file names.
        pretrained, finetuned: What stands before the network's own names in either file.
        schedule_buffers: Noise-schedule arrays in the same file, named relative to the diffusion module; never loaded.
    """

    description: str
    pretrained: str = ""
    finetuned: str = ""
    schedule_buffers: tuple[str, ...] = ()

    def prefix(self, file: OfficialFile) -> str:
        """Prefix of the network's names in a kind of file."""
        return self.finetuned if file == "finetuned" else self.pretrained


_FORMATS: Mapping[str, FileFormat] = {
    "sr3": FileFormat(
        "an SR3 checkpoint of the configured size (I640000_E37_gen.pth, or best_network_gen.pth after fine-tuning)",
        "denoise_fn.",
        "baseModel.denoise_fn.",
        (
            "betas",
            "alphas_cumprod",
            "alphas_cumprod_prev",
            "sqrt_alphas_cumprod",
            "sqrt_one_minus_alphas_cumprod",
            "log_one_minus_alphas_cumprod",
            "sqrt_recip_alphas_cumprod",
            "sqrt_recipm1_alphas_cumprod",
            "posterior_variance",
            "posterior_log_variance_clipped",
            "posterior_mean_coef1",
            "posterior_mean_coef2",
        ),
    ),
    "palette": FileFormat(
        "a Palette checkpoint of the configured size (200_Network.pth, or best_network_gen.pth after fine-tuning)",
        "denoise_fn.",
        "baseModel.denoise_fn.",
        (
            "gammas",
            "sqrt_recip_gammas",
            "sqrt_recipm1_gammas",
            "posterior_log_variance_clipped",
            "posterior_mean_coef1",
            "posterior_mean_coef2",
        ),
    ),
    "adm": FileFormat(
        "an ADM checkpoint of the configured size (128x128_diffusion.pt, or best_network.pt after fine-tuning)",
        "",
        "model.",
    ),
}


def load_official(module: nn.Module, path_or_mapping: str | PathLike[str] | Mapping[str, Any]) -> None:
    """Load an official checkpoint into a network, in place.

    Pretrained and fine-tuned prefixes are recognised, noise-schedule arrays in the file are ignored. Where the module
    has bound heads and the file has none, both are copied from the ordinary head. After an error it is unchanged.

    Args:
        module: A U-Net or an encoder of this package (or any module, whose names are then taken as they are).
        path_or_mapping: A `.safetensors` file, a torch file, or names with tensors or arrays.
    Raises:
        CheckpointError: If the file is unreadable or holds anything but tensors, or if names or shapes differ.
    Source:
        Copying of heads: Conffusion's official code, all branches, at the start of fine-tuning.
    """
    given, copies_heads = _checked_weights(module, path_or_mapping)
    module.load_state_dict({**module.state_dict(), **given})
    if isinstance(module, UNet) and copies_heads:
        module.copy_head_to_bounds()


def check_official(module: nn.Module, path: str | PathLike[str]) -> None:
    """Compare names and shapes of an official checkpoint with a network, which may live on the meta device.

    Raises:
        CheckpointError: As `load_official`.
    """
    _checked_weights(module, path)


def _checked_weights(
    module: nn.Module, path_or_mapping: str | PathLike[str] | Mapping[str, Any]
) -> tuple[dict[str, Tensor], bool]:
    """A file's weights under the network's own names, and whether its bound heads have to be copied."""
    source = "the mapping" if isinstance(path_or_mapping, Mapping) else fspath(path_or_mapping)
    raw = path_or_mapping if isinstance(path_or_mapping, Mapping) else _read_file(Path(path_or_mapping))
    expected = module.state_dict()
    given = _strip(_as_tensors(raw, source), expected, _format_of(module))
    copies_heads = isinstance(module, UNet) and module.has_bounds and not any(map(_is_bound_head, given))
    wanted = {name: value for name, value in expected.items() if not (copies_heads and _is_bound_head(name))}
    _check_same(wanted, given, f"{source} is not {_format_of(module).description}")
    return given, copies_heads


def official_lambda_hat(path: str | PathLike[str]) -> float:
    """The calibrated scale in the options file of a fine-tuned checkpoint (best_network_opt.pth, best_options.pt).

    Raises:
        CheckpointError: If the file is unreadable, holds objects other than tensors and plain values, or has no scale.
    """
    content = _read_file(Path(path))
    if "pred_lambda_hat" not in content:
        raise CheckpointError(
            f"{fspath(path)}: has no pred_lambda_hat; expected best_network_opt.pth or best_options.pt, which the "
            "official code writes beside the best fine-tuned network"
        )
    return float(content["pred_lambda_hat"])


def official_state_dict(module: nn.Module, file: OfficialFile | None = None) -> dict[str, Tensor]:
    """Weights of a network under the names of an official checkpoint file.

    Args:
        module: A U-Net or an encoder of this package.
        file: "pretrained" (no bound heads), "with_bounds", or "finetuned" (other prefix, with bound heads); None means
            "with_bounds" if the module has bound heads, else "pretrained". Encoders have "pretrained" only.
    Returns:
        Names in the official order, prefix included, with the module's own (not copied) tensors; no schedule arrays.
    Raises:
        CheckpointError: If the kind of file is unknown or needs bound heads that the module lacks.
    """
    has_bounds = isinstance(module, UNet) and module.has_bounds
    file = file or ("with_bounds" if has_bounds else "pretrained")
    if file not in ("pretrained", "with_bounds", "finetuned"):
        raise CheckpointError(f"official file {file!r}: must be 'pretrained', 'with_bounds' or 'finetuned'")
    if file != "pretrained" and not has_bounds:
        raise CheckpointError(f"official file {file!r} has bound heads, this {type(module).__name__} has none")
    prefix = _format_of(module).prefix(file)
    return {
        prefix + name: value
        for name, value in module.state_dict().items()
        if not (has_bounds and file == "pretrained" and _is_bound_head(name))
    }


def _format_of(module: nn.Module) -> FileFormat:
    if isinstance(module, UNet):
        return _FORMATS[module.kind]
    return FileFormat(f"a checkpoint of this {type(module).__name__} (published names, same sizes and classes)")


def _read_file(path: Path) -> Mapping[str, Any]:
    """Contents of a weights file; nothing in it is executed."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # a damaged or hostile file can make the reader fail in any way
        raise CheckpointError(
            f"{path}: refused, {_reason(error)}. The file is damaged, or it holds objects other than tensors, "
            "which could run code when read; expected a state dict of tensors"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a flat state dict of tensors")
    return content


def _is_zip(path: Path) -> bool:
    """Whether torch can read tensors from the file when they are needed (its format since torch 1.6)."""
    return zipfile.is_zipfile(path)


def _reason(error: Exception) -> str:
    """What a reader disliked, without its advice to read the file unsafely."""
    asked_for = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it asks for {asked_for[1]}" if asked_for else f"{type(error).__name__} while reading"


def _as_tensors(raw: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The mapping with arrays turned into tensors and anything else refused."""
    tensors = {}
    for name, value in raw.items():
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise CheckpointError(
                f"{source}: entry {name!r} is a {type(value).__name__}, expected a flat state dict of tensors "
                "(not an optimiser or options file)"
            )
        tensors[name] = torch.as_tensor(value)
    return tensors


def _strip(given: Mapping[str, Tensor], expected: Iterable[str], form: FileFormat) -> dict[str, Tensor]:
    """The file's entries without schedule arrays and without the prefix that fits most of the expected names."""
    wrappers = ("", "baseModel.", "model.")
    ignored = {wrapper + name for wrapper in wrappers for name in form.schedule_buffers}
    kept = {name: value for name, value in given.items() if name not in ignored}
    names = list(expected)
    prefixes = dict.fromkeys((form.pretrained, form.finetuned, "", "denoise_fn.", "baseModel.denoise_fn.", "model."))
    best = max(prefixes, key=lambda prefix: sum(prefix + name in kept for name in names))
    # A name without the prefix stays as it is and is reported as unexpected.
    return {
        name[len(best) :] if name.startswith(best) else f"{name} (no prefix)": value for name, value in kept.items()
    }


def _check_same(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], headline: str) -> None:
    """Refuse any difference in names or shapes, naming the first few of each kind."""
    mismatched = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in given and given[name].shape != value.shape
    ]
    differences = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": mismatched,
    }
    parts = [f"{len(names)} {label} ({_first(names)})" for label, names in differences.items() if names]
    if any(_is_bound_head(name) for name in differences["unexpected"]):
        parts.append("the file has bound heads: build the network with bounds=True")
    if parts:
        raise CheckpointError(f"{headline}: {'; '.join(parts)}")


def _first(names: list[str]) -> str:
    return ", ".join(names[:N_LISTED]) + (", ..." if len(names) > N_LISTED else "")


def _is_bound_head(name: str) -> bool:
    return name.split(".", 1)[0] in BOUND_HEADS
