"""Official files become checkpoints of this project, with their configuration and the source's checksum inside."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from conffusion.config.schema import PriorSettings
from conffusion.errors import CheckpointError
from conffusion.methods.models import PredictorSpec, load_predictor
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.networks import load_prior
from conffusion.models.official import official_lambda_hat, official_state_dict
from conffusion.models.unet import build_unet
from conffusion.pipeline.stages.importing import import_finetuned, import_prior
from conffusion.training.priors import architecture_of
from tests import conformance
from tests.pipeline.stages.small_run import SCHEDULE

NAMES = {"sr3": "I640000_E37_gen.pth", "palette": "200_Network.pth", "adm": "128x128_diffusion.pt"}


def settings(kind: str, checkpoint: Path | str | None) -> PriorSettings:
    config = conformance.load(f"{kind}/small_net")[0]["config"]
    schedule = {**SCHEDULE, "name": "cosine", "n_timesteps": 20}
    return PriorSettings(
        network=kind, options=config, schedule=schedule, task=None,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )  # fmt: skip


def official_file(kind: str, folder: Path) -> Path:
    """A published checkpoint in small: prefix, schedule arrays, torch's own format."""
    network = build_unet(kind, conformance.load(f"{kind}/small_net")[0]["config"])
    conformance.fill_state_dict(network)
    buffers = {"sr3": {"betas": torch.rand(2000)}, "palette": {"gammas": torch.rand(2000)}, "adm": {}}[kind]
    path = folder / NAMES[kind]
    torch.save({**buffers, **official_state_dict(network, "pretrained")}, path)
    return path


@pytest.mark.parametrize("kind", list(NAMES))
def test_official_file_becomes_a_prior(kind: str, tmp_path: Path) -> None:
    source, output = official_file(kind, tmp_path), tmp_path / "prior.safetensors"
    record = import_prior("mine", settings(kind, source), output)
    assert record["source"] == {"file": NAMES[kind], "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    architecture = architecture_of(settings(kind, source))
    weights = load_prior(output, architecture)
    expected = build_unet(kind, architecture.options)
    conformance.fill_state_dict(expected)
    assert weights.keys() == expected.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.state_dict().items())
    assert load_checkpoint(output)[1]["source"] == record["source"]


def test_weights_by_the_rule_are_those_of_the_fixtures(tmp_path: Path) -> None:
    output = tmp_path / "prior.safetensors"
    assert import_prior("mine", settings("adm", "rule"), output)["source"] == {"file": "rule"}
    expected = build_unet("adm", conformance.load("adm/small_net")[0]["config"])
    conformance.fill_state_dict(expected)
    weights, _ = load_checkpoint(output)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-7)


class Hostile:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_file_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    trace, path, output = tmp_path / "trace", tmp_path / NAMES["sr3"], tmp_path / "prior.safetensors"
    if zipped:
        torch.save({"denoise_fn.x": Hostile(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"denoise_fn.x": Hostile(trace)}))
    with pytest.raises(CheckpointError, match=r"I640000_E37_gen.pth: refused.*could run code"):
        import_prior("mine", settings("sr3", path), output)
    assert not trace.exists()
    assert not output.exists()


def test_wrong_network_truncated_file_and_missing_path_are_named(tmp_path: Path) -> None:
    output = tmp_path / "prior.safetensors"
    path = official_file("sr3", tmp_path)
    with pytest.raises(CheckpointError, match=r"is not a Palette checkpoint of the configured size.*missing"):
        import_prior("mine", settings("palette", path), output)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"I640000_E37_gen.pth: refused"):
        import_prior("mine", settings("sr3", path), output)
    with pytest.raises(CheckpointError, match="names no file"):
        import_prior("mine", settings("sr3", None), output)
    assert not output.exists()


@pytest.mark.parametrize("kind", list(NAMES))
def test_finetuned_network_becomes_a_predictor_with_its_scale(kind: str, tmp_path: Path) -> None:
    config = conformance.load(f"{kind}/small_net")[0]["config"]
    network = build_unet(kind, config, bounds=True)
    conformance.fill_state_dict(network)
    path, options = tmp_path / "best_network_gen.pth", tmp_path / "best_network_opt.pth"
    buffers = {"sr3": {"baseModel.betas": torch.rand(200)}, "palette": {"baseModel.gammas": torch.rand(200)}, "adm": {}}
    torch.save({**buffers[kind], **official_state_dict(network, "finetuned")}, path)
    optimizer = torch.optim.Adam(network.parameters()).state_dict()
    torch.save({"epoch": 3, "iter": 10000, "pred_lambda_hat": torch.tensor(1.05), "scheduler": None,
                "optimizer": optimizer}, options)  # fmt: skip
    prior = settings(kind, path)
    spec = PredictorSpec(architecture_of(prior), 0.1, has_holes=kind == "palette")
    record = import_finetuned("mine", prior, spec, options, tmp_path / "model.safetensors")
    assert record["lambda_hat"] == pytest.approx(1.05)
    predictor, training = load_predictor(tmp_path / "model.safetensors")
    assert training["lambda_hat"] == record["lambda_hat"] and training["source"]["file"] == "best_network_gen.pth"
    own = predictor.network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in network.state_dict().items())


def test_options_without_a_scale_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "I640000_E37_opt.pth")
    with pytest.raises(CheckpointError, match="has no pred_lambda_hat; expected best_network_opt.pth"):
        official_lambda_hat(tmp_path / "I640000_E37_opt.pth")
