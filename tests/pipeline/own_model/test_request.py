"""Which network a request starts from, and whether the configuration it makes can run."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from conffusion.config import Config, parse_config
from conffusion.data.splits import assign_splits
from conffusion.errors import ConfigError
from conffusion.pipeline.checks import check_dealt, checked_plan, units_needed
from conffusion.pipeline.own_model.planning import SHARES, choose_shares, find_workflow
from conffusion.pipeline.own_model.request import Request, method_of_request, overlay_of, planned_config
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.rule_settings import RuleSettings
from conffusion.pipeline.settings import StageSettings
from conffusion.training.priors import architecture_of
from tests.pipeline.configs import DEFAULT, ROOT

BASE = parse_config(DEFAULT)
FUNCTION = f"{ROOT}/tests/tasks/degradations.py:speckle"
SETTINGS: dict[str, dict[str, Any]] = {
    "super_resolution": {"factor": 4}, "inpainting": {"hole": 0.5}, "denoising": {"sigma": 0.1},
    "custom": {"function": FUNCTION},
}  # fmt: skip


def configured(folder: Path, task: str, side: int, method: str | None = None) -> tuple[str, Config]:
    request = Request(folder, task, SETTINGS[task], folder / "m.conffusion", method=method, image_size=side)
    chosen = method_of_request(request, BASE)
    overlay = overlay_of(request, BASE, chosen, SHARES)
    return chosen, parse_config(planned_config(overlay, DEFAULT, ROOT))


@pytest.mark.parametrize(
    ("task", "side", "method", "expected", "prior", "is_trained"),
    [
        ("super_resolution", 32, None, "n_conffusion", "sr3_faces", False),
        ("inpainting", 32, None, "n_conffusion", "palette_faces", False),
        ("denoising", 32, None, "g_conffusion", "adm_photos", False),
        ("custom", 32, None, "g_conffusion", "adm_photos", False),
        ("custom", 32, "n_conffusion", "n_conffusion", "custom_own", True),
        ("denoising", 64, None, "n_conffusion", "denoising_own", True),
        ("denoising", 64, "resnext", "resnext", "resnext_photos", False),
        ("super_resolution", 40, None, "n_conffusion", "super_resolution_own", True),
        ("inpainting", 128, None, "n_conffusion", "inpainting_own", True),
        ("inpainting", 64, "dm_sba", "dm_sba", "inpainting_own", True),
    ],
)
def test_every_request_makes_a_configuration_that_can_run(
    tmp_path: Path, task: str, side: int, method: str | None, expected: str, prior: str, is_trained: bool
) -> None:
    chosen, config = configured(tmp_path, task, side, method)
    plan = checked_plan(config)
    assert (chosen, plan.used_priors, config.priors_dir is None) == (expected, [prior], is_trained)
    if is_trained:
        assert plan.training_images(prior) == [f"results/own-m/{task}/images/finetune.json"]
        size = (1, 3 if config.priors[prior].network == "adm" else 6, side, side)
        network = architecture_of(config.priors[prior]).build_prior()
        with torch.inference_mode():
            assert network(torch.zeros(size), torch.full((1, 1), 0.5), None).shape == (1, 3, side, side)


def test_an_edited_function_makes_other_images_and_networks(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(image, generator):\n    return image / 2\n")
    request = Request(tmp_path, "custom", {"function": f"{file}:f"}, tmp_path / "m.conffusion", method="n_conffusion")
    plan = Plan(parse_config(planned_config(overlay_of(request, BASE, "n_conffusion", SHARES), DEFAULT, ROOT)))

    def settings() -> tuple[StageSettings, StageSettings]:
        make = RuleSettings(plan)
        return make("prepare_images", task="custom", folder="images"), make("train_prior", prior="custom_own")

    before = settings()
    file.write_text("def f(image, generator):\n    return image / 3\n")
    after = settings()
    assert before[0].digest != after[0].digest and before[1].digest != after[1].digest


def test_few_groups_go_where_they_are_needed() -> None:
    calibration = BASE.calibration
    needed = units_needed(calibration)
    assert needed == 22
    for n_groups in (82, 90, 147, 1000):
        table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n_groups)]})
        table = table.assign(group=table["image_id"], source=table["image_id"])
        counts = check_dealt(assign_splits(table, choose_shares(table, calibration), 0), calibration)
        assert sum(n_images for n_images, _ in counts.values()) == n_groups
        assert min(counts["selection"][0], counts["calibration"][0]) >= needed
        assert counts["finetune"][0] >= n_groups // 4
    assert choose_shares(table, calibration) == SHARES
    with pytest.raises(ConfigError, match="81 images are too few .* about 82 in all"):
        choose_shares(table[:81], calibration)


def test_the_workflow_is_the_current_folder_or_that_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_workflow(None) == find_workflow(ROOT) == ROOT
    with pytest.raises(ConfigError, match="holds no Snakefile and config.yaml of conffusion; give a clone"):
        find_workflow(tmp_path)
