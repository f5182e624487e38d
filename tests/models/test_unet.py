"""The U-Nets have the official names and outputs; patching, heads and messages are ours."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from conffusion.errors import ConfigError, ShapeError
from conffusion.models import UNet, build_unet
from tests import conformance

KINDS = ("sr3", "palette", "adm")
LEVEL_NAMES = {"sr3": "noise_level", "palette": "gammas", "adm": "timesteps"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small_config(kind: str, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = conformance.load(f"{kind}/small_net")[0]["config"]
    return {**config, **changes}


def narrow(kind: str, **changes: Any) -> UNet:
    """A tiny network of each kind, made with the keys of its own configuration."""
    width = {"sr3": "inner_channel", "palette": "inner_channel", "adm": "num_channels"}[kind]
    config = small_config(kind, **{width: 8}, norm_groups=4, **changes)
    if kind == "palette":
        config["num_head_channels"] = 4
    return build_unet(kind, config, bounds=True).eval()


def example_inputs(net: UNet, n_images: int = 2, side: int = 16) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_images, net.in_channels, side, side, generator=generator)
    labels = torch.arange(n_images) % net.n_classes if net.n_classes else None
    return x, torch.rand(n_images, 1, generator=generator), labels


def check_heads(name: str) -> None:
    """Compare the three heads of our network with those of a fixture."""
    (description, arrays), kind = conformance.load(name), name.split("/")[0]
    net = build_unet(kind, description["config"], bounds=True).eval()
    conformance.fill_state_dict(net, prefix=description["weights"]["prefix"])
    inputs = {key: torch.from_numpy(conformance.make(rule)) for key, rule in description["inputs"].items()}
    level = inputs[LEVEL_NAMES[kind]]
    with torch.no_grad():
        outputs = net.heads(inputs["x"], level if kind == "adm" else level[:, None], inputs.get("y"))
    for head, output in zip(("final", "lower", "upper"), outputs, strict=True):
        assert conformance.max_diff(description, arrays, head, output) < description["tolerance"]["atol"], head


@pytest.mark.parametrize("kind", KINDS)
def test_small_network_matches_official_outputs(kind: str) -> None:
    check_heads(f"{kind}/small_net")


@pytest.mark.system
@pytest.mark.parametrize("name", ["sr3/full_net", "palette/full_net_64px", "palette/full_net", "adm/full_net"])
def test_full_network_matches_official_outputs(name: str) -> None:
    check_heads(name)


@pytest.mark.parametrize("kind", KINDS)
def test_small_network_has_official_names_in_order(kind: str) -> None:
    description, _ = conformance.load(f"{kind}/small_net")
    prefix = description["weights"]["prefix"]
    net = build_unet(kind, description["config"], bounds=True)
    ours = [[prefix + name, list(value.shape)] for name, value in net.state_dict().items()]
    assert ours == [entry for entry in description["keys"] if entry[0].startswith(prefix)]


@pytest.mark.parametrize("kind", KINDS)
def test_heads_agree_with_the_single_calls(kind: str) -> None:
    net = narrow(kind)
    conformance.fill_state_dict(net)
    inputs = example_inputs(net)
    with torch.no_grad():
        point, lower, upper = net.heads(*inputs)
        torch.testing.assert_close(net(*inputs), point)
        torch.testing.assert_close(net.bound_heads(*inputs), (lower, upper))
    assert not torch.equal(lower, upper)


@pytest.mark.parametrize("kind", KINDS)
def test_copied_heads_equal_the_ordinary_one_and_are_independent(kind: str) -> None:
    net = narrow(kind)
    conformance.fill_state_dict(net)
    net.copy_head_to_bounds()
    inputs = example_inputs(net)
    point, lower, upper = net.heads(*inputs)
    torch.testing.assert_close(lower, point)
    torch.testing.assert_close(upper, point)
    lower.sum().backward()
    heads = {name: value for name, value in net.named_parameters() if name.split(".")[0] not in ("downs", "mid")}
    assert any(value.grad is not None for name, value in heads.items() if name.startswith("lower"))
    assert all(value.grad is None for name, value in heads.items() if name.startswith(("upper", "out.", "final")))


@pytest.mark.parametrize("kind", KINDS)
def test_patches_keep_the_image_size_and_fold_pixels_into_channels(kind: str) -> None:
    net = narrow(kind, patch_size=2)
    stem = next(
        value for name, value in net.named_parameters() if name in ("downs.0.weight", "input_blocks.0.0.weight")
    )
    assert stem.shape[1] == 4 * net.in_channels
    for output in net.heads(*example_inputs(net, side=20)):
        assert output.shape == (2, net.out_channels, 20, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_placed_by_the_resolution_after_patching(kind: str) -> None:
    def attending(net: UNet) -> list[str]:
        return [name for name, _ in net.named_parameters() if name.endswith("qkv.weight")]

    # SR3 and ADM name a resolution of the feature maps (image side 32), Palette a rate counted from the patched image.
    unpatched = {"sr3": {"attn_res": 16}, "palette": {"attn_res": 2}, "adm": {"attention_resolutions": "16"}}[kind]
    patched = {"sr3": {"attn_res": 8}, "palette": {"attn_res": 2}, "adm": {"attention_resolutions": "8"}}[kind]
    same_place = attending(narrow(kind, **unpatched))
    assert len(same_place) == 4
    assert attending(narrow(kind, patch_size=2, **patched)) == same_place
    key = next(iter(patched))
    assert len(attending(narrow(kind, **{key: "" if kind == "adm" else []}))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_attributes(kind: str) -> None:
    net = narrow(kind)
    assert (net.kind, net.in_channels) == (kind, 3 if kind == "adm" else 6)
    assert net.out_channels == (6 if kind == "adm" else 3)
    assert net.n_classes == (1000 if kind == "adm" else 0)
    assert net.config["norm_groups"] == 4
    assert isinstance(copy.deepcopy(net), UNet)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_level_embedding_stay_in_single_precision_under_autocast(kind: str) -> None:
    net = narrow(kind)
    conformance.fill_state_dict(net)
    inputs = example_inputs(net)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(*inputs)
    assert half.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(half, net(*inputs), atol=0.1, rtol=0.1)


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        net = narrow("adm", use_checkpoint=recompute)
        conformance.fill_state_dict(net)
        net(*example_inputs(net)).square().mean().backward()
        gradients.append([value.grad for value in net.parameters() if value.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_half_precision_torso_gives_single_precision_outputs_close_to_the_exact_ones() -> None:
    exact, half = narrow("adm"), narrow("adm", use_fp16=True)
    for net in (exact, half):
        conformance.fill_state_dict(net)
    inputs = example_inputs(exact)
    with torch.no_grad():
        output = half(*inputs)
        torch.testing.assert_close(output, exact(*inputs), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"resblock_updown": False},
        {"resblock_updown": False, "conv_resample": False},
        {"use_new_attention_order": True, "num_head_channels": -1, "num_heads": 2, "num_heads_upsample": 4},
        {"use_scale_shift_norm": False},
        {"channel_mults": [1, 2, 2]},
    ],
)
def test_options_of_the_guided_family_run(options: dict[str, Any]) -> None:
    config = small_config("palette", inner_channel=8, norm_groups=4, num_head_channels=4)
    net = build_unet("palette", {**config, **options})
    x, level, _ = example_inputs(net)
    assert net(x, level).shape == (2, 3, 16, 16)


def test_num_classes_sets_the_class_table() -> None:
    net = narrow("adm", num_classes=5)
    assert (net.n_classes, net.label_emb.weight.shape) == (5, (5, 32))


def test_configuration_given_is_neither_changed_nor_shared() -> None:
    config = small_config("sr3")
    before = copy.deepcopy(config)
    net = build_unet("sr3", config)
    config["dropout"] = 0.9
    assert net.config == before


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("sr4", {}, "did you mean 'sr3'"),
        ("sr3", {"inner_chanel": 32}, "did you mean 'inner_channel'"),
        ("palette", {"channel_multiplier": [1]}, "unknown key 'channel_multiplier'"),
        ("palette", {"in_channel": 6}, "missing out_channel, inner_channel"),
        ("adm", {"image_size": 48}, "channel_mult"),
        ("adm", {"num_channels": 48}, "norm_groups"),
        ("sr3", {"dropout": 1.5}, "dropout"),
        ("sr3", {"res_blocks": 0}, "res_blocks = 0"),
        ("adm", {"num_heads": "four"}, "num_heads = 'four'"),
        ("sr3", {"channel_multiplier": []}, "at least one"),
        ("sr3", {"attn_res": ["sixteen"]}, "expected numbers"),
        ("adm", {"attention_resolutions": "16,0"}, "positive numbers"),
        ("adm", {"num_heads": 3}, "3 heads"),
    ],
)
def test_unfit_configurations_are_refused(kind: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_unet(kind, config)


def test_unfit_inputs_are_refused() -> None:
    net = narrow("sr3", patch_size=2)
    x, level, _ = example_inputs(net)
    with pytest.raises(ShapeError, match="multiples of 4"):
        net(x[..., :14], level)
    with pytest.raises(ShapeError, match="6, H, W"):
        net(x[:, :3], level)
    with pytest.raises(ShapeError, match="one value per image"):
        net(x, level[:1])
    with pytest.raises(ShapeError, match="no class_labels"):
        net(x, level, torch.zeros(2, dtype=torch.long))


def test_class_labels_are_required_by_a_class_conditional_network() -> None:
    net = narrow("adm")
    x, level, _ = example_inputs(net)
    with pytest.raises(ShapeError, match=r"pass class_labels \(N,\) in \[0, 1000\)"):
        net(x, level)


def test_bound_heads_need_bounds() -> None:
    net = build_unet("sr3", small_config("sr3"))
    for call in (net.bound_heads, net.heads):
        with pytest.raises(ConfigError, match="bounds=True"):
            call(*example_inputs(net))
    with pytest.raises(ConfigError, match="bounds=True"):
        net.copy_head_to_bounds()
