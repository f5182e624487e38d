"""A tiny predictor of every kind, for tests that need real networks in milliseconds."""

from typing import Any

from conffusion.methods.models import PredictorSpec
from conffusion.models.networks import Architecture

SIDE = 16
COSINE: dict[str, Any] = {"name": "cosine", "n_timesteps": 20}
SR3: dict[str, Any] = {
    "in_channel": 6, "out_channel": 3, "inner_channel": 8, "channel_multiplier": [1, 2], "norm_groups": 4,
    "res_blocks": 1, "attn_res": [], "dropout": 0.0, "image_size": SIDE, "patch_size": 2,
}  # fmt: skip
PALETTE: dict[str, Any] = {
    "in_channel": 6, "out_channel": 3, "inner_channel": 8, "channel_mults": [1, 2], "num_head_channels": 4,
    "norm_groups": 4, "res_blocks": 1, "attn_res": [], "dropout": 0.0, "image_size": SIDE, "patch_size": 2,
}  # fmt: skip
ADM: dict[str, Any] = {
    "num_channels": 8, "channel_mult": "1,2", "num_res_blocks": 1, "num_heads": 2, "attention_resolutions": "",
    "class_cond": True, "num_classes": 5, "learn_sigma": False, "dropout": 0.0, "image_size": SIDE, "patch_size": 2,
    "norm_groups": 4,
}  # fmt: skip
SPECS: dict[str, PredictorSpec] = {
    "sr3": PredictorSpec(Architecture("sr3", SR3, COSINE), 0.3, False),
    "palette": PredictorSpec(Architecture("palette", PALETTE, COSINE), 0.5, True),
    "adm": PredictorSpec(Architecture("adm", ADM, {**COSINE, "respacing": 10}), 0.2, True),
    "resnext": PredictorSpec(Architecture("resnext_small", {"n_classes": 5}, None), 0.0, False),
}
