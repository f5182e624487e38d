"""Short fine-tuning runs as one process or as one of several: torchrun ... -m tests.training.together FILE."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conffusion.core.device import Device
from conffusion.training.finetune import RECORD_EVERY, BoundFitting, TrainingSet
from conffusion.training.loop import Optimisation, Training
from conffusion.training.objectives import OBJECTIVES, Sharpening
from conffusion.training.parallel import Processes, joined
from tests.methods.small_specs import SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
CASES = (("adm", "pinball"), ("sr3", "sharpening"), ("resnext", "pinball"))  # network and objective


def outcome(kind: str, objective: str, processes: Processes) -> dict[str, Any]:
    """Loss records, weights and statistics of 40 steps, and limits and generators of the states."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    condition = torch.rand(30, 3, 16, 16, generator=generator) - 0.5
    truth = nn.functional.avg_pool2d(condition, 3, 1, 1) + 0.1 * torch.randn(condition.shape, generator=generator)
    data = TrainingSet(condition, torch.ones_like(condition), truth, truth, None, 5 if kind == "adm" else 0)
    torch.manual_seed(5)
    predictor = SPECS[kind].build(None)
    loss = Sharpening(0.1, processes) if objective == "sharpening" else OBJECTIVES[objective]
    problem = BoundFitting(predictor, data, loss, 0.05, CPU)
    training = Training(problem, Optimisation(40, 11, 1e-4, 0.9), seed=1, processes=processes)
    states = [training.state() for _ in training.run("fine-tuning", RECORD_EVERY)]
    return {
        "records": training.losses,
        "weights": dict(predictor.network.state_dict()),
        "limits": [state["limits"] for state in states],
        "generators": len(states[-1]["torch"]),
    }


if __name__ == "__main__":
    with joined(torch.device("cpu")) as others:
        found = {f"{kind} {objective}": outcome(kind, objective, others) for kind, objective in CASES}
    torch.save(found, Path(f"{sys.argv[1]}-{os.environ['RANK']}.pt"))
