"""What a U-Net looks like: the three published variants as data, and one specification for all sizes.

What differs between the networks of SR3, Palette and ADM is written once: here in `VARIANTS` (names and habits that are
fixed for a variant), and in `unet_config` (what the keys of each official configuration mean).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockNames:
    """Dotted names of the parts of one residual block, relative to the block.

    `level_first` says whether official files list the level's projection before the first half.
    """

    first: str
    level: str
    second: str
    skip: str
    level_first: bool

    def official_order(self) -> tuple[str, ...]:
        """The names in the order of official files, which official optimiser states rely on."""
        start = (self.level, self.first) if self.level_first else (self.first, self.level)
        return (*start, self.second, self.skip)


@dataclass(frozen=True)
class Variant:
    """What is fixed for one published network, whatever its size.

    Attributes:
        title: Name for messages.
        embedding, downs, middle, ups, point_head: Names of the top-level parts.
        head_inner: Name of the layers inside a head, or "" where the head is the sequence itself.
        block: Names inside a residual block.
        residual, attention, attention_out: Names of block, attention and its last projection inside a stage; an empty
            `residual` means that the members of a stage are numbered instead.
        sine_first: The level embedding is [sin, cos]; else [cos, sin].
        leading_slots: Parameter-free places before the layers of the embedding network.
        embedding_expansion: Width of the embedding handed to the blocks, in units of the base width.
        activate_level: Each block applies SiLU to the embedding before projecting it.
        dropout_slot_everywhere: First halves and heads keep an empty place where second halves have dropout.
        attention_bias, attention_conv_dims: The query/key/value projection has a bias; dimensions of its kernel.
        zero_init: Last convolution of blocks, attention and heads starts at zero.
    """

    title: str
    embedding: str
    downs: str
    middle: str
    ups: str
    point_head: str
    head_inner: str
    block: BlockNames
    residual: str
    attention: str
    attention_out: str
    sine_first: bool
    leading_slots: int
    embedding_expansion: int
    activate_level: bool
    dropout_slot_everywhere: bool
    attention_bias: bool
    attention_conv_dims: int
    zero_init: bool


def _guided(title: str, embedding: str) -> Variant:
    """The family of guided diffusion: Palette and ADM differ in the name of the embedding network only."""
    return Variant(
        title=title,
        embedding=embedding,
        downs="input_blocks",
        middle="middle_block",
        ups="output_blocks",
        point_head="out",
        head_inner="",
        block=BlockNames("in_layers", "emb_layers", "out_layers", "skip_connection", level_first=False),
        residual="",
        attention="",
        attention_out="proj_out",
        sine_first=False,
        leading_slots=0,
        embedding_expansion=4,
        activate_level=True,
        dropout_slot_everywhere=False,
        attention_bias=True,
        attention_conv_dims=1,
        zero_init=True,
    )


VARIANTS: Mapping[str, Variant] = {
    "sr3": Variant(
        title="SR3",
        embedding="noise_level_mlp",
        downs="downs",
        middle="mid",
        ups="ups",
        point_head="final_conv",
        head_inner="block",
        block=BlockNames("block1.block", "noise_func.noise_func", "block2.block", "res_conv", level_first=True),
        residual="res_block",
        attention="attn",
        attention_out="out",
        sine_first=True,
        leading_slots=1,
        embedding_expansion=1,
        activate_level=False,
        dropout_slot_everywhere=True,
        attention_bias=False,
        attention_conv_dims=2,
        zero_init=False,
    ),
    "palette": _guided("Palette", "cond_embed"),
    "adm": _guided("ADM", "time_embed"),
}


@dataclass(frozen=True)
class UNetSpec:
    """One U-Net, independent of the vocabulary in which it was configured.

    Attributes:
        variant: Names and fixed habits.
        in_channels, out_channels: Before patching.
        base_channels: Unit of the widths and size of the sinusoidal embedding.
        stem_channels: Width after the first convolution.
        widths: Channels of each resolution level, finest first.
        n_blocks: Residual blocks per level on the way down (one more on the way up).
        attention_rates: Down-sampling rates, counted from the patched image, at which blocks attend.
        n_heads, n_heads_up: Attention heads on the way down and in the middle, and on the way up.
        head_channels: Channels per head; if given it decides the number of heads.
        heads_before_qkv: The projected channels are split into heads first, then into query, key and value.
        scale_shift: The level scales and shifts the second norm's output; else it is added before it.
        residual_resampling, conv_resampling: Resolution changes inside residual blocks; else a resampling layer with or
            without a convolution.
        n_classes: Size of the class table; 0 without classes.
        patch_size: Side of the pixel blocks folded into channels before the first convolution.
        checkpointing, half_torso: Recompute activations in the backward pass; run the torso in float16.
    """

    variant: Variant
    in_channels: int
    out_channels: int
    base_channels: int
    stem_channels: int
    widths: tuple[int, ...]
    n_blocks: int
    attention_rates: tuple[int, ...]
    dropout: float
    norm_groups: int
    patch_size: int
    n_heads: int = 1
    n_heads_up: int = 1
    head_channels: int | None = None
    heads_before_qkv: bool = True
    scale_shift: bool = False
    residual_resampling: bool = False
    conv_resampling: bool = True
    n_classes: int = 0
    checkpointing: bool = False
    half_torso: bool = False

    @property
    def embedding_channels(self) -> int:
        """Width of the level embedding that the blocks receive."""
        return self.base_channels * self.variant.embedding_expansion

    @property
    def size_multiple(self) -> int:
        """Number that must divide the height and the width of the input."""
        return self.patch_size << (len(self.widths) - 1)
