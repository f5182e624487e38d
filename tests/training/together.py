"""Short fine-tuning runs as one process or as one of several: torchrun ... -m tests.training.together FILE."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conffusion.core.device import Device
from conffusion.training.finetune import TrainingSet, finetune
from conffusion.training.loop import Optimisation, Resumption
from conffusion.training.objectives import OBJECTIVES, Sharpening
from conffusion.training.parallel import Processes, joined
from tests.methods.small_specs import SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
CASES = (("adm", "pinball"), ("sr3", "sharpening"), ("resnext", "pinball"))  # network and objective


def outcome(kind: str, objective: str, processes: Processes) -> dict[str, Any]:
    """Loss records, weights and statistics of 40 steps, those validated included, and the limits of the last state."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    condition = torch.rand(30, 3, 16, 16, generator=generator) - 0.5
    truth = nn.functional.avg_pool2d(condition, 3, 1, 1) + 0.1 * torch.randn(condition.shape, generator=generator)
    data = TrainingSet(condition, torch.ones_like(condition), truth, truth, None, 5 if kind == "adm" else 0)
    torch.manual_seed(5)
    predictor = SPECS[kind].build(None)
    loss = Sharpening(0.1, processes) if objective == "sharpening" else OBJECTIVES[objective]
    validated: list[int] = []
    states: list[Any] = []
    records = finetune(
        predictor, data, loss, 0.05, Optimisation(40, 11, 1e-4, 0.9), CPU, seed=1, stops=(20, 40),
        on_validation=validated.append, after_step=loss.settle if isinstance(loss, Sharpening) else lambda: None,
        resumption=Resumption(None, lambda: processes.is_first, states.append), processes=processes,
    )  # fmt: skip
    return {
        "records": records,
        "weights": dict(predictor.network.state_dict()),
        "validated": validated,
        "limits": [state["limits"] for state in states],
        "generators": len(states[-1]["torch"]),
    }


if __name__ == "__main__":
    with joined(torch.device("cpu")) as others:
        found = {f"{kind} {objective}": outcome(kind, objective, others) for kind, objective in CASES}
    torch.save(found, Path(f"{sys.argv[1]}-{os.environ['RANK']}.pt"))
