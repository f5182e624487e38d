"""GPU indices of local jobs, by advisory locks that the kernel releases when the job dies."""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from conffusion.errors import ConfigError

_POLL_SECONDS = 0.5
_JOB_NUMBERS = ("PBS_JOBID", "LSB_JOBID", "JOB_ID")  # of PBS, LSF, Grid Engine


def visible_gpus() -> list[str]:
    """Indices of the GPUs that jobs may use, without importing torch: CUDA_VISIBLE_DEVICES, else all of the machine.

    A Slurm job without that variable was given none, whatever the driver shows.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "" if "SLURM_JOB_ID" in os.environ else None)
    if listed is not None:
        return [index.strip() for index in listed.split(",") if index.strip() not in ("", "-1")]
    try:
        names = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, _ in enumerate(line for line in names.splitlines() if line.startswith("GPU "))]


def gpus_per_job(device: str) -> int:
    """The `gpu` resource of a rule that runs networks: 1 on CUDA, 0 on the CPU."""
    if device == "auto":
        return int(bool(visible_gpus()))
    return int(device == "cuda")


def claim_gpus(n_gpus: int = 1, lock_folder: str | Path | None = None) -> list[IO[str]]:
    """Reserve GPU indices for this process and make them the only visible ones; call before torch is imported.

    Waits while fewer are free, and holds none meanwhile. Under a scheduler that hands out GPUs itself (Slurm) its
    choice is kept.

    Returns:
        The open lock files, to be kept open as long as the GPUs are used; none where no lock was needed.
    Raises:
        ConfigError: If more GPUs are wanted than there are.
    """
    gpus = visible_gpus()
    if not gpus or "SLURM_JOB_ID" in os.environ:
        return []
    if n_gpus > len(gpus):
        raise ConfigError(f"{n_gpus} GPUs are wanted and {len(gpus)} visible; lower finetuning.processes")
    folder = Path(lock_folder or Path(tempfile.gettempdir()) / _lock_name())
    folder.mkdir(exist_ok=True)
    while True:
        with (folder / "choosing.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # one job at a time looks around, so that two never hold half each
            free = {index: lock for index in gpus if (lock := _try_lock(folder / f"gpu-{index}.lock")) is not None}
            chosen = list(free)[:n_gpus] if len(free) >= n_gpus else []
            for index in free.keys() - chosen:
                free[index].close()
        if chosen:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
            return [free[index] for index in chosen]
        time.sleep(_POLL_SECONDS)


def _lock_name() -> str:
    """Locks are those of the machine; of the scheduler's job where it was given GPUs, whose numbers may be its own."""
    name = f"conffusion-gpus-{os.getuid()}"
    jobs = [os.environ[variable] for variable in _JOB_NUMBERS if variable in os.environ]
    return f"{name}-{jobs[0]}" if jobs and "CUDA_VISIBLE_DEVICES" in os.environ else name


def _try_lock(path: Path) -> IO[str] | None:
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
