"""What the benchmarks share: common options, official code beside ours, interleaved timing, tables and files."""

import argparse
import importlib
import inspect
import json
import platform
import resource
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from conffusion.core.device import Device, keep_freed_memory
from conffusion.models import UNet, build_unet
from tests import conformance

OFFICIAL_URL = "https://github.com/eliahuhorwitz/Conffusion"
ALONE = f"Our times alone: give --official PATH, a clone of {OFFICIAL_URL}, to compare with the official code."

# Where a clone keeps what is measured; "bounds" wraps a diffusion model for fine-tuning.
OFFICIAL_FOLDERS: Mapping[str, str] = {
    "sr3": "super_resolution_n_conffusion/model/sr3_modules",
    "bounds": "super_resolution_n_conffusion/model/conffusion",
    "palette": "inpainting_n_conffusion/models/guided_diffusion_modules",
    "adm": "g_conffusion/guided_diffusion",
}
OFFICIAL_UNETS: Mapping[str, tuple[str, str]] = {
    "sr3": ("unet", "UNet"),
    "palette": ("unet", "UNet"),
    "adm": ("script_util", "create_model"),
}

Record = dict[str, Any]


class OfficialCode:
    """The official implementation, imported from a clone of its repository.

    Single files are imported, past the packages around them, which ask for libraries that nothing here uses.

    Raises:
        ArgumentTypeError: If the folder is not such a clone.
    """

    def __init__(self, folder: str) -> None:
        self._root = Path(folder).resolve()
        missing = [part for part in OFFICIAL_FOLDERS.values() if not (self._root / part).is_dir()]
        if missing:
            raise argparse.ArgumentTypeError(f"{folder} is not a clone of {OFFICIAL_URL}: it has no {missing[0]}")

    def load(self, part: str, module: str) -> ModuleType:
        """One file of a part named in `OFFICIAL_FOLDERS`."""
        package = f"official_{part}_{zlib.crc32(str(self._root).encode()):08x}"
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [str(self._root / OFFICIAL_FOLDERS[part])]
        with _stand_ins():
            return importlib.import_module(f"{package}.{module}")

    def unet(self, ours: UNet) -> nn.Module:
        """The official network with configuration, heads and weights of one of ours; in evaluation mode."""
        module, name = OFFICIAL_UNETS[ours.kind]
        build = getattr(self.load(ours.kind, module), name)
        options = {**ours.config, "finetune_bounds": ours.has_bounds}
        if "channel_multiplier" in options:  # the file's name for an argument of SR3
            options["channel_mults"] = options.pop("channel_multiplier")
        accepted = inspect.signature(build).parameters
        network: nn.Module = build(**{key: value for key, value in options.items() if key in accepted})
        network.load_state_dict(ours.state_dict())  # strict: every name and shape agrees
        return network.eval()


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Progress bars and identifiers that official files import and no measurement needs."""
    stand_ins = {"tqdm": ModuleType("tqdm"), "shortuuid": ModuleType("shortuuid")}
    vars(stand_ins["tqdm"])["tqdm"] = lambda items, **_: items
    hidden = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(hidden)


def network_of_fixture(name: str, *, bounds: bool = False) -> UNet:
    """Our network of a conformance fixture such as "sr3/full_net", filled by the fixtures' rule; evaluation mode."""
    network = build_unet(name.split("/")[0], conformance.load(name)[0]["config"], bounds=bounds)
    conformance.fill_state_dict(network)
    return network.eval()


@dataclass(frozen=True)
class Side:
    """One of the things that are timed against each other.

    Attributes:
        name: For the table.
        call: What is timed.
        n_items: Items (passes, variants, images) that one call handles.
        official: Whether it is the official code, hence a reference for the others.
    """

    name: str
    call: Callable[[], Any]
    n_items: int = 1
    official: bool = False


@dataclass(frozen=True)
class Measurement:
    """Seconds of every round, per item; peak memory of a call above what was held before it (CUDA only), in MiB."""

    seconds: tuple[float, ...]
    peak_mib: float | None

    @property
    def median(self) -> float:
        """Median seconds per item."""
        return statistics.median(self.seconds)

    def ratio_to(self, reference: "Measurement") -> float:
        """Median over the rounds of the ratio of both times, which shared load hardly moves; below 1 is faster."""
        return statistics.median(a / b for a, b in zip(self.seconds, reference.seconds, strict=True))


def measure(sides: Sequence[Side], device: torch.device, n_rounds: int) -> dict[str, Measurement]:
    """Times of all sides, interleaved: after a warm-up of each, every round calls one after the other.

    cuDNN chooses kernels by trial for official sides alone, as the official scripts ask it to. On a CPU, ours keep what
    tensors free, as jobs of the workflow do; official sides have the C library's own limits in their steady state.
    """
    for side in sides:
        _timed(side, device)
    rounds = [[_timed(side, device) for side in sides] for _ in range(n_rounds)]
    measurements = {}
    for side, results in zip(sides, zip(*rounds, strict=True), strict=True):
        seconds, peaks = zip(*results, strict=True)
        peak = max(peaks) if device.type == "cuda" else None
        measurements[side.name] = Measurement(tuple(value / side.n_items for value in seconds), peak)
    return measurements


def _timed(side: Side, device: torch.device) -> tuple[float, float]:
    """Seconds and peak MiB (0 without CUDA) of one call."""
    torch.backends.cudnn.benchmark = side.official
    if device.type == "cpu":
        keep_freed_memory(like_default=side.official)
    on_cuda, held = device.type == "cuda", 0
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    side.call()
    if on_cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated(device) - held) / 2**20 if on_cuda else 0.0


def common_options(description: str) -> argparse.ArgumentParser:
    """Parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--official", type=OfficialCode, help=f"a clone of {OFFICIAL_URL}; without it, our times alone")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--rounds", type=positive, default=5, help="timed calls of each side (default: 5)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (default: 1, as jobs have)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA if there is one"
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, to see that the script works")
    return parser


def positive(text: str) -> int:
    """A positive whole number from the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a positive whole number")
    return int(text)


def precision_of(device: Device) -> str:
    """Name of the precision for the tables."""
    return "bfloat16" if device.bfloat16 else "float32"


def set_tf32(allowed: bool) -> None:
    """Let float32 products and convolutions on CUDA round their inputs to TensorFloat32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def machine(device: torch.device) -> Record:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 and device.type == "cuda",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def process_peak_mib() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def report(name: str, options: argparse.Namespace, device: torch.device, rows: Sequence[Record]) -> Record:
    """Print the rows as a table, write them to `options.output` if given, and return what is written."""
    used = machine(device)
    content = {
        "benchmark": name,
        "official_code": options.official is not None,
        "machine": used,
        "settings": {key: value for key, value in vars(options).items() if key not in ("official", "output")},
        "process_peak_mib": process_peak_mib(),
        "rows": list(rows),
    }
    for key, value in used.items():
        print(f"{key}: {value}")
    print(f"peak memory of the whole process: {process_peak_mib():.0f} MiB\n")
    shown = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    table = [{key.replace("_", " "): _readable(row[key]) for key in shown} for row in rows]
    print(tabulate(table, headers="keys", tablefmt="github", missingval="-"))
    if options.official is None:
        print(f"\n{ALONE}")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=1) + "\n")
    return content


def _readable(value: Any) -> Any:
    """A cell of the table: three digits, and ratios with what they refer to."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_readable(part)} ({name})" for name, part in value.items())
    return f"{value:.3g}" if isinstance(value, float) else value
