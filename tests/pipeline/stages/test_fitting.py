"""Fine-tuning in parts of a batch, and its early end."""

from typing import Any

import pytest
import torch

from conffusion.config.schema import SharpeningSettings
from conffusion.errors import ConfigError
from conffusion.methods.competition import Score
from conffusion.pipeline.stages.fitting import FinetuningRun
from conffusion.training.parallel import Processes
from tests.pipeline.stages.small_run import CPU, FINETUNING, TUNED, SmallRun

SIZES = {"paper": [9, 8, 7, 6, 5, 4, 3, 2], "guaranteed": [5, 4, 6, 4, 4, 3, 9, 9]}


def finetuning(run: SmallRun, n_steps: int = 14, **changes: Any) -> FinetuningRun:
    tuned = TUNED.model_copy(update={"n_steps": n_steps})
    job = run.finetuning_job(tuned=tuned, finetuning=FINETUNING.model_copy(update=changes))
    return FinetuningRun(job, run.finetuning_inputs(), CPU)


def scored(sizes: dict[str, list[int]]) -> Any:
    """A validation that finds these sizes, one after the other."""
    left = {name: iter(values) for name, values in sizes.items()}
    return lambda step: {name: Score(1.0, 0.1, float(next(values))) for name, values in left.items()}


@pytest.mark.parametrize(("patience", "steps"), [(None, 7), (1, 3), (2, 4), (3, 5), (4, 7)])
def test_patience_ends_the_run_after_so_many_validations_without_a_better_one(
    patience: int | None, steps: int, copied: SmallRun
) -> None:
    """A tie with the best so far is not better; what the other protocol finds does not count."""
    run = finetuning(copied, patience=patience)
    run.run(scored(SIZES))
    assert list(run.competition.scores) == [2 * k for k in range(1, steps + 1)]
    assert [record["step"] for record in run.losses] == list(run.competition.scores)


def test_sharpening_follows_a_fitting_that_ended_early_and_has_patience_of_its_own(copied: SmallRun) -> None:
    sharpening = SharpeningSettings(n_steps=8, learning_rate_factor=0.3)
    run = finetuning(copied, patience=1, sharpening=sharpening)
    run.run(scored(SIZES))
    assert list(run.competition.scores) == [2, 4, 6, 8]  # 5, 4, then 6: sharpening starts after step 6; 4 is no better
    assert [record.get("phase") for record in run.losses] == [None, None, None, "sharpening"]
    assert run.competition.best("guaranteed")[1] == 4 and run.competition.best("paper")[1] == 8


def test_parts_of_a_batch_change_rounding_only(copied: SmallRun) -> None:
    weights = []
    for size in (None, 3):
        small = finetuning(copied, n_steps=6, micro_batch_size=size)
        seen: list[int] = []
        small.predictor.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        small.run(scored(SIZES))
        assert seen == ([8] * 6 if size is None else [2, 3, 3] * 6)
        weights.append(small.predictor.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-3)


def test_more_processes_than_a_batch_has_images_are_refused(copied: SmallRun) -> None:
    with pytest.raises(ConfigError, match="finetuning.processes = 9.*finetuning.batch_size is 8"):
        FinetuningRun(copied.finetuning_job(), copied.finetuning_inputs(), CPU, Processes(0, 9))


def test_kernels_are_asked_to_repeat(copied: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    finetuning(copied)
    assert torch.backends.cudnn.deterministic
