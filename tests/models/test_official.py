"""Official checkpoints load key for key, are written under their names, and cannot run code."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from conffusion.errors import CheckpointError
from conffusion.models import build_encoder, build_unet, load_official, official_state_dict
from tests import conformance
from tests.models.test_unet import KINDS, narrow, small_config

FILES = [
    ("sr3", "pretrained"),
    ("sr3", "with_bounds"),
    ("sr3", "finetuned"),
    ("palette", "pretrained"),
    ("palette", "with_bounds"),
    ("palette", "finetuned"),
    ("adm", "pretrained"),
    ("adm", "with_bounds"),
]


def full_size(kind: str, *, bounds: bool) -> nn.Module:
    """Network of the official size without memory for its weights."""
    with torch.device("meta"):
        return build_unet(kind, conformance.load(f"{kind}/full_net")[0]["config"], bounds=bounds)


def official_entries(kind: str, file: str) -> list[list[Any]]:
    return conformance.load(f"{kind}/keys_{file}")[0]["keys"]


def listed(state: dict[str, Tensor]) -> list[list[Any]]:
    return [[name, list(value.shape), str(value.dtype).removeprefix("torch.")] for name, value in state.items()]


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def filled(kind: str, *, bounds: bool) -> nn.Module:
    net = build_unet(kind, small_config(kind), bounds=bounds)
    conformance.fill_state_dict(net)
    return net


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_full_size_names_shapes_types_and_order_are_official(kind: str, file: str) -> None:
    net = full_size(kind, bounds=file != "pretrained")
    schedule_free = [entry for entry in official_entries(kind, file) if kind == "adm" or "denoise_fn." in entry[0]]
    assert listed(official_state_dict(net, file)) == schedule_free


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_full_size_official_files_are_accepted(kind: str, file: str) -> None:
    entries = {name: torch.empty(shape, device="meta") for name, shape, _ in official_entries(kind, file)}
    load_official(full_size(kind, bounds=True), entries)


def test_fine_tuned_adm_names() -> None:
    state = official_state_dict(narrow("adm"), "finetuned")
    assert all(name.startswith("model.") for name in state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["with_bounds", "finetuned"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip_through_a_file(kind: str, file: Any, suffix: str, tmp_path: Path) -> None:
    net, path = filled(kind, bounds=True), tmp_path / f"best_network_gen{suffix}"
    state = official_state_dict(net, file)
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = build_unet(kind, small_config(kind), bounds=True)
    load_official(loaded, path)
    assert same_weights(loaded, net)


@pytest.mark.parametrize("kind", KINDS)
def test_bare_names_and_arrays_are_accepted(kind: str) -> None:
    net, loaded = filled(kind, bounds=True), build_unet(kind, small_config(kind), bounds=True)
    load_official(loaded, {name: value.numpy() for name, value in net.state_dict().items()})
    assert same_weights(loaded, net)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_file_fills_the_bound_heads_and_its_schedule_is_ignored(kind: str) -> None:
    schedule = {name: torch.zeros(shape) for name, shape, _ in official_entries(kind, "pretrained") if len(shape) == 1}
    buffers = {name: value for name, value in schedule.items() if "." not in name}
    assert len(buffers) == {"sr3": 12, "palette": 6, "adm": 0}[kind]
    pretrained, net = filled(kind, bounds=False), build_unet(kind, small_config(kind), bounds=True)
    load_official(net, {**buffers, **official_state_dict(pretrained)})
    state, head = net.state_dict(), net.spec.variant.point_head
    for name in [name for name in state if name.startswith(f"{head}.")]:
        for bound in ("lower", "upper"):
            assert torch.equal(state[name], state[name.replace(head, bound, 1)])
    assert same_weights(pretrained, _without_bounds(net, kind))


def _without_bounds(net: nn.Module, kind: str) -> nn.Module:
    plain = build_unet(kind, small_config(kind))
    load_official(plain, official_state_dict(net, "pretrained"))
    return plain


def test_missing_unexpected_and_misshapen_entries_are_listed_and_nothing_is_loaded() -> None:
    net = narrow("sr3")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = official_state_dict(filled("sr3", bounds=True))
    state = {name: torch.ones_like(value) for name, value in official_state_dict(net).items()} | {
        "denoise_fn.downs.0.bias": state["denoise_fn.downs.0.bias"],
        "denoise_fn.extra": torch.zeros(1),
    }
    del state["denoise_fn.downs.0.weight"]
    with pytest.raises(CheckpointError) as raised:
        load_official(net, state)
    for part in ("SR3", "1 missing (downs.0.weight)", "1 unexpected (extra)", "downs.0.bias (16,) instead of (8,)"):
        assert part in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_half_of_the_bound_heads_is_an_error() -> None:
    net = narrow("palette")
    state = {name: value for name, value in official_state_dict(net).items() if ".upper." not in name}
    with pytest.raises(CheckpointError, match="4 missing"):
        load_official(net, state)


def test_bound_heads_without_a_place_are_an_error() -> None:
    plain = build_unet("sr3", small_config("sr3"))
    with pytest.raises(CheckpointError, match="build the network with bounds=True"):
        load_official(plain, official_state_dict(filled("sr3", bounds=True), "finetuned"))


def test_another_network_is_named() -> None:
    with pytest.raises(CheckpointError, match="is not a Palette checkpoint"):
        load_official(narrow("palette"), official_state_dict(narrow("sr3")))


def test_a_schedule_of_another_network_is_not_ignored() -> None:
    net = narrow("palette")
    with pytest.raises(CheckpointError, match="betas"):
        load_official(net, {"betas": torch.zeros(3), **official_state_dict(net)})


class RunsCode:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def test_a_malicious_file_is_refused_without_running_it(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "gen.pth"
    torch.save({"denoise_fn.x": RunsCode(witness)}, path)
    with pytest.raises(CheckpointError, match="objects other than tensors") as raised:
        load_official(narrow("sr3"), path)
    assert not witness.exists()
    assert "mkdir" in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("name", ["junk.pth", "junk.safetensors", "empty.pth"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"" if name.startswith("empty") else b"no weights " * 50)
    with pytest.raises(CheckpointError, match=name):
        load_official(narrow("sr3"), path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    net, path = narrow("sr3"), tmp_path / "gen.pth"
    torch.save(official_state_dict(net), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_official(net, path)


def test_absent_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_official(narrow("sr3"), tmp_path / "absent.pth")
    torch.save({"epoch": 3, "iter": 5, "optimizer": {}}, tmp_path / "opt.pth")
    with pytest.raises(CheckpointError, match="not an optimiser"):
        load_official(narrow("sr3"), tmp_path / "opt.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_official(narrow("sr3"), tmp_path / "list.pth")


def test_kinds_of_file_that_do_not_fit_are_refused() -> None:
    plain: Any = build_unet("sr3", small_config("sr3"))
    with pytest.raises(CheckpointError, match="must be 'pretrained'"):
        official_state_dict(plain, "tuned")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has none"):
        official_state_dict(plain, "finetuned")


def test_encoders_keep_their_names(tmp_path: Path) -> None:
    encoder, loaded = build_encoder("resnest_small", 4), build_encoder("resnest_small", 4)
    save_file(official_state_dict(encoder), tmp_path / "resnest.safetensors")
    load_official(loaded, tmp_path / "resnest.safetensors")
    assert same_weights(loaded, encoder)
    with pytest.raises(CheckpointError, match="fc.weight"):
        load_official(build_encoder("resnest_small", 5), official_state_dict(encoder))
