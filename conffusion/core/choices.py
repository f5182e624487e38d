"""Names to choose from, and the defaults: what configuration, command line and Python share stands here once."""

from typing import Literal, TypeAlias, get_args

ScalingName: TypeAlias = Literal["multiplicative", "additive", "interval"]
FamilyName: TypeAlias = Literal[ScalingName, "pixel_groups", "learned"]
FiniteSampleBound: TypeAlias = Literal[
    "star", "wsr", "hoeffding_bentkus", "bentkus", "hoeffding", "empirical_bernstein"
]  # hold for any number of independent losses
BoundName: TypeAlias = FiniteSampleBound | Literal["clt", "conformal_risk_control", "official"]
UnitName: TypeAlias = Literal["image", "group", "pixel"]
SolverName: TypeAlias = Literal["dpmpp_2m_sde", "dpmpp_2m", "ancestral"]
StoredType: TypeAlias = Literal["uint8", "float16", "float32"]  # of variants
ScheduleName: TypeAlias = Literal["linear", "cosine", "quad", "const", "warmup10", "warmup50"]
UNetKind: TypeAlias = Literal["sr3", "palette", "adm"]
EncoderName: TypeAlias = Literal[
    "resnext_small", "resnest_small", "resnext50_32x4d", "resnext101_32x8d", "resnest14d", "resnest50d", "resnest101e"
]
NetworkName: TypeAlias = Literal[UNetKind, EncoderName]

PLAIN_FAMILIES: tuple[ScalingName, ...] = get_args(ScalingName)
FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)
FINITE_SAMPLE_BOUNDS: tuple[FiniteSampleBound, ...] = get_args(FiniteSampleBound)
UNITS: tuple[UnitName, ...] = get_args(UnitName)
UNET_KINDS: tuple[UNetKind, ...] = get_args(UNetKind)

DEFAULT_ALPHA = 0.1
DEFAULT_DELTA = 0.1
DEFAULT_SCALING: ScalingName = "interval"
PAPER_SCALING: ScalingName = "multiplicative"
RECOMMENDED_BOUND: FiniteSampleBound = "star"  # what `ucb=None` stands for; on losses in the random order of ORDER_SEED
ORDER_SEED = 0
BATCH_SIZE = 64  # tiles per network call of a prediction
