"""One of several processes of a fine-tuning job: torchrun ... -m conffusion.pipeline.finetuning_process JSON."""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

import torch

from conffusion.core.device import select_device
from conffusion.pipeline.finetuning import FinetuningCall, finetune
from conffusion.pipeline.job import clear_errors, start_log
from conffusion.pipeline.records import job_name
from conffusion.training.parallel import joined


def main(arguments: Sequence[str]) -> None:
    """Take part in the job that the only argument describes (a `FinetuningCall` as JSON)."""
    call, rank = FinetuningCall.from_json(arguments[0]), int(os.environ["LOCAL_RANK"])
    name = job_name(call.log or "", "finetune_method")
    start_log(call.log, name, empty=False, level=logging.INFO if rank == 0 else logging.WARNING)
    threading.Thread(target=_end_with_the_job, daemon=True).start()
    with clear_errors():
        device = select_device(call.device, call.settings.precision, call.threads)
        if device.torch_device.type == "cuda":
            device = replace(device, torch_device=torch.device("cuda", rank))
            torch.cuda.set_device(device.torch_device)
        with joined(device.torch_device) as processes:
            finetune(call, device, processes)


def _end_with_the_job() -> None:
    """End this process when the job's own process is gone: the pipe from it closes then, even after kill -9."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written, so this is the end of the pipe
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
