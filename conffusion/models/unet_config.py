"""The official configurations of SR3, Palette and ADM, read into one `UNetSpec`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from conffusion.core.names import lookup, nearest_hint
from conffusion.errors import ConfigError
from conffusion.models.unet_spec import VARIANTS, UNetSpec, Variant

REQUIRED = object()  # marks a key without a default in the official code

_OURS: dict[str, Any] = {"patch_size": 1, "norm_groups": 32}

_POSITIVE = frozenset(
    ("in_channel", "out_channel", "inner_channel", "res_blocks", "num_channels", "num_res_blocks", "num_heads")
    + ("num_classes", "norm_groups", "patch_size", "image_size")
)

_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "sr3": {
        "in_channel": 6,
        "out_channel": 3,
        "inner_channel": 32,
        "channel_multiplier": (1, 2, 4, 8, 8),
        "attn_res": (8,),
        "res_blocks": 3,
        "dropout": 0.0,
        "image_size": 128,
        "finetune_bounds": False,  # says what official code builds; here the argument `bounds` does
        **_OURS,
    },
    "palette": {
        "in_channel": REQUIRED,
        "out_channel": REQUIRED,
        "inner_channel": REQUIRED,
        "res_blocks": REQUIRED,
        "attn_res": REQUIRED,
        "channel_mults": (1, 2, 4, 8),
        "dropout": 0.0,
        "image_size": 256,  # unused: attention is placed by rate
        "conv_resample": True,
        "use_checkpoint": False,
        "use_fp16": False,
        "num_heads": 1,
        "num_head_channels": -1,
        "num_heads_upsample": -1,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "use_new_attention_order": False,
        "finetune_bounds": False,
        **_OURS,
    },
    "adm": {
        "image_size": 64,
        "num_channels": 128,
        "num_res_blocks": 2,
        "num_heads": 4,
        "num_heads_upsample": -1,
        "num_head_channels": -1,
        "attention_resolutions": "16,8",
        "channel_mult": "",
        "dropout": 0.0,
        "class_cond": False,
        "use_checkpoint": False,
        "use_scale_shift_norm": True,
        "resblock_updown": False,
        "use_fp16": False,
        "use_new_attention_order": False,
        "learn_sigma": False,
        "num_classes": 1000,
        # the rest of the official configuration speaks to the sampler, not to the network
        "diffusion_steps": 1000,
        "noise_schedule": "linear",
        "timestep_respacing": "",
        "use_kl": False,
        "predict_xstart": False,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
        "finetune_bounds": False,
        **_OURS,
    },
}

_ADM_MULTIPLIERS: Mapping[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


def _read_sr3(c: Mapping[str, Any], variant: Variant) -> UNetSpec:
    """SR3 names the *resolutions* with attention; they are those of the feature maps, hence after patching."""
    base, widths = c["inner_channel"], _widths(c["inner_channel"], c["channel_multiplier"])
    side = c["image_size"] // c["patch_size"]
    rates = tuple(2**k for k in range(len(widths)) if side // 2**k in _numbers(c["attn_res"]))
    return UNetSpec(
        variant=variant,
        in_channels=c["in_channel"],
        out_channels=c["out_channel"],
        base_channels=base,
        stem_channels=base,
        widths=widths,
        n_blocks=c["res_blocks"],
        attention_rates=rates,
        dropout=c["dropout"],
        norm_groups=c["norm_groups"],
        patch_size=c["patch_size"],
    )


def _read_palette(c: Mapping[str, Any], variant: Variant) -> UNetSpec:
    """Palette's `attn_res` are down-sampling *rates*, counted from the patched image."""
    widths = _widths(c["inner_channel"], c["channel_mults"])
    return UNetSpec(
        variant=variant,
        in_channels=c["in_channel"],
        out_channels=c["out_channel"],
        base_channels=c["inner_channel"],
        stem_channels=widths[0],
        widths=widths,
        n_blocks=c["res_blocks"],
        attention_rates=tuple(int(rate) for rate in _numbers(c["attn_res"])),
        conv_resampling=c["conv_resample"],
        **_guided_options(c),
    )


def _read_adm(c: Mapping[str, Any], variant: Variant) -> UNetSpec:
    """ADM names resolutions (after patching); the widths follow from the image size unless given."""
    multipliers = _numbers(c["channel_mult"]) or _ADM_MULTIPLIERS.get(c["image_size"])
    if multipliers is None:
        raise ConfigError(
            f"adm channel_mult = {c['channel_mult']!r}: image_size {c['image_size']} has no official multipliers "
            f"(only {sorted(_ADM_MULTIPLIERS)}); give them, for example '1,2,2'"
        )
    widths = _widths(c["num_channels"], multipliers)
    side = c["image_size"] // c["patch_size"]
    return UNetSpec(
        variant=variant,
        in_channels=3,
        out_channels=6 if c["learn_sigma"] else 3,
        base_channels=c["num_channels"],
        stem_channels=widths[0],
        widths=widths,
        n_blocks=c["num_res_blocks"],
        attention_rates=tuple(int(side // size) for size in _numbers(c["attention_resolutions"])),
        n_classes=c["num_classes"] if c["class_cond"] else 0,
        **_guided_options(c),
    )


def _guided_options(c: Mapping[str, Any]) -> dict[str, Any]:
    """Fields whose keys Palette and ADM share; -1 means "not given" in official configurations."""
    return {
        "dropout": c["dropout"],
        "norm_groups": c["norm_groups"],
        "patch_size": c["patch_size"],
        "n_heads": c["num_heads"],
        "n_heads_up": c["num_heads"] if c["num_heads_upsample"] == -1 else c["num_heads_upsample"],
        "head_channels": None if c["num_head_channels"] == -1 else c["num_head_channels"],
        "heads_before_qkv": not c["use_new_attention_order"],
        "scale_shift": c["use_scale_shift_norm"],
        "residual_resampling": c["resblock_updown"],
        "checkpointing": c["use_checkpoint"],
        "half_torso": c["use_fp16"],
    }


_READERS: Mapping[str, Callable[[Mapping[str, Any], Variant], UNetSpec]] = {
    "sr3": _read_sr3,
    "palette": _read_palette,
    "adm": _read_adm,
}


def read_spec(kind: str, config: Mapping[str, Any]) -> UNetSpec:
    """Specification of a U-Net from its official configuration.

    Args:
        kind: "sr3", "palette" or "adm".
        config: Keys of the official configuration of that network; a missing key or None takes the official default.
            Ours: `patch_size` (1), `norm_groups` (32; official for SR3, fixed at 32 in the others) and, for "adm",
            `num_classes` (1000). Attention resolutions and rates refer to the image after patching.
    Returns:
        The checked specification.
    Raises:
        ConfigError: If the kind or a key is unknown, a key without default is missing, or a number does not fit.
    Source:
        Saharia et al. 2021 (SR3); Saharia et al. 2022 (Palette); Dhariwal and Nichol 2021 (ADM, table 4); defaults as
        in the public code of the three.
    """
    variant = lookup(VARIANTS, kind, "U-Net kind")
    spec = _READERS[kind](_complete(kind, config), variant)
    _check(kind, spec)
    return spec


def _complete(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its defaults filled in; unknown keys and impossible sizes are refused."""
    defaults = _DEFAULTS[kind]
    for key in config:
        if key not in defaults:
            raise ConfigError(f"{kind} configuration: unknown key {key!r}{nearest_hint(str(key), defaults)}")
    full = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    missing = [key for key, value in full.items() if value is REQUIRED]
    if missing:
        raise ConfigError(f"{kind} configuration: missing {', '.join(missing)} (no official default)")
    for key in _POSITIVE & full.keys():
        if not isinstance(full[key], int) or full[key] < 1:
            raise ConfigError(f"{kind} configuration: {key} = {full[key]!r}: must be a positive integer")
    return full


def _check(kind: str, spec: UNetSpec) -> None:
    """Refuse numbers from which no network can be built."""
    if not isinstance(spec.dropout, (int, float)) or not 0 <= spec.dropout < 1:
        raise ConfigError(f"{kind} configuration: dropout = {spec.dropout!r}: must lie in [0, 1)")
    for width in (spec.stem_channels, *spec.widths):
        if width < 1 or width % spec.norm_groups:
            raise ConfigError(
                f"{kind} configuration: width {width} must be a multiple of norm_groups {spec.norm_groups}"
            )


def _widths(base: int, multipliers: Any) -> tuple[int, ...]:
    """Channels per level, finest first."""
    widths = tuple(int(base * factor) for factor in _numbers(multipliers))
    if not widths:
        raise ConfigError("channel multipliers: expected at least one, for example [1, 2]")
    return widths


def _numbers(value: Any) -> tuple[float, ...]:
    """Positive numbers of a list, a single number, or a comma-separated text such as "32,16,8"."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    try:
        numbers = [float(part) for part in (value if isinstance(value, Iterable) else [value])]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{value!r}: expected numbers, for example [1, 2] or '1,2'") from error
    if any(number <= 0 for number in numbers):
        raise ConfigError(f"{value!r}: expected positive numbers")
    return tuple(int(number) if number.is_integer() else number for number in numbers)
