"""Quantiles of variants beside torch.quantile, and how the time of sampling grows with images and variants.

`.venv/bin/python -m benchmarks.sampling --output sampling.json`
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.common import Record, Side, common_options, measure, network_of_fixture, report
from conffusion.bounds import sampled_bounds
from conffusion.core.device import Device, select_device
from conffusion.models import UNet
from conffusion.models.schedules import noise_schedule
from conffusion.sampling import ChainSampler, Solver, draw_variants
from conffusion.tasks import DegradedImages, build_task

PARTS = ("quantiles", "scaling")
LEVELS = (0.05, 0.95)
GROWTH = (1, 2, 4, 8)
N_STEPS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for."""
    parser = common_options("Quantiles beside torch.quantile; sampling time against images and variants.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args(arguments)
    device = select_device(options.device, "auto", options.threads)
    rows: list[Record] = []
    if "quantiles" in options.parts:
        rows += quantiles(options.rounds, small=options.small)
    if "scaling" in options.parts:
        rows += scaling(options.rounds, device, small=options.small)
    report("sampling", options, device.torch_device, rows)
    return 0


def quantiles(n_rounds: int, *, small: bool) -> list[Record]:
    """Both bounds of one image of 3x128x128 from 200 and from 20 variants, ours and torch.quantile."""
    rows = []
    side = 16 if small else 128
    for n_variants in (20, 200):
        drawn = np.random.default_rng(0).normal(0.5, 0.1, (n_variants, 3, side, side)).clip(0, 1)
        for name, variants in (("uint8", (255 * drawn).astype(np.uint8)), ("float32", drawn.astype(np.float32))):
            as_floats, levels = torch.from_numpy(variants).float(), torch.tensor(LEVELS)
            sides = [
                Side("ours", partial(sampled_bounds, variants, *LEVELS)),
                Side("torch.quantile", partial(torch.quantile, as_floats, levels, dim=0), official=True),
            ]
            measured = measure(sides, torch.device("cpu"), n_rounds)
            rows.append(
                {
                    "measurement": f"quantiles, J = {n_variants}, {name}",
                    "ours_seconds": measured["ours"].median,
                    "reference_seconds": measured["torch.quantile"].median,
                    "times_faster": 1 / measured["ours"].ratio_to(measured["torch.quantile"]),
                    "slope": None,
                }
            )
    return rows


def scaling(n_rounds: int, device: Device, *, small: bool) -> list[Record]:
    """Slopes of log time against log images and log J, of medians of interleaved runs."""
    network = network_of_fixture("sr3/small_net")
    device.place(network)
    base = 1 if small else 8
    rows = []
    for what in ("images", "variants"):
        sides = [Side(str(k), call) for k, call in _draws(what, base, network, device)]
        measured = measure(sides, device.torch_device, n_rounds)
        seconds = [measured[str(k)].median for k in GROWTH]
        slope = float(np.polyfit(np.log(GROWTH), np.log(seconds), 1)[0])
        rows.append(
            {
                "measurement": f"sampling time against {what}, x {', '.join(map(str, GROWTH))}",
                "ours_seconds": seconds[0],
                "reference_seconds": None,
                "times_faster": None,
                "slope": slope,
            }
        )
    return rows


def _draws(what: str, base: int, network: UNet, device: Device) -> Iterator[tuple[int, Callable[[], None]]]:
    """Draws of growing size in batches of constant size."""
    side = network.config["image_size"]
    schedule = noise_schedule("cosine", 200)
    for k in GROWTH:
        n_images, n_variants = (base * k, base) if what == "images" else (base, base * k)
        images = np.full((n_images, 3, side, side), 0.5, np.float32)
        ids = tuple(str(number) for number in range(n_images))
        task, mask = build_task("super_resolution"), np.ones(images.shape, np.uint8)
        inputs = DegradedImages(task, 0, ids, images, mask)
        sampler = ChainSampler(network, schedule, inputs, Solver("dpmpp_2m_sde", N_STEPS), "uint8", device)
        batch_size = math.ceil(base * base / 2)
        yield k, partial(_exhaust, sampler, inputs, n_variants, batch_size)


def _exhaust(sampler: ChainSampler, inputs: DegradedImages, n_variants: int, batch_size: int) -> None:
    for _ in draw_variants(sampler, inputs, n_variants, batch_size):
        pass


if __name__ == "__main__":
    sys.exit(main())
