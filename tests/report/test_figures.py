import re
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conffusion.errors import DataError, StoreError
from conffusion.report.figures import (
    plot_bounds,
    plot_examples,
    plot_methods,
    plot_position_risk,
    plot_risk_curve,
    plot_size_risk,
    plot_stratified_risk,
    plot_training,
    plot_validity,
)
from conffusion.report.figures.grid import Grid
from conffusion.report.figures.images import load_bounds, load_examples, shorten, spread
from conffusion.report.figures.style import METHOD_COLOURS, METHOD_MARKERS, facets, saved_figure
from conffusion.report.figures.training import _draw_method
from conffusion.store import open_store, write_store
from tests.report import tree

SOME = ("adm_uq", "dm_sb", "n_conffusion")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tree.Run:
    return tree.write_run(tmp_path_factory.mktemp("run"), methods=SOME)


def check(png: Path, min_width: int = 600, min_height: int = 400) -> tuple[int, int]:
    """The PNG is large enough and not blank; the PDF beside it is one. Returns the size in pixels."""
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] >= min_width and pixels.shape[0] >= min_height
    assert 0.02 < (pixels != 255).any(axis=2).mean() and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert not list(png.parent.glob(".*.tmp"))
    return pixels.shape[1], pixels.shape[0]


def test_examples(run: tree.Run, tmp_path: Path) -> None:
    method_run = run.method_runs("super_resolution")[-1]
    plot_examples(run.images("super_resolution"), method_run, tmp_path / "examples.png", n_examples=3)
    grid = Grid(3, 6)
    width, height = check(tmp_path / "examples.png")
    assert (width, height) == pytest.approx((grid.width * 160, grid.height * 160), abs=2)


def test_context_is_dimmed_and_the_hole_is_not(run: tree.Run, tmp_path: Path) -> None:
    plot_examples(run.images("inpainting"), run.method_runs("inpainting")[-1], tmp_path / "examples.png", n_examples=1)
    with Image.open(tmp_path / "examples.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    grid = Grid(1, 6)

    def mean_colour(column: int, place: float) -> np.ndarray:
        x, y = grid.left + column * (grid.cell + grid.gap) + place * grid.cell, grid.top + place * grid.cell
        return pixels[int(y * 160) - 3 : int(y * 160) + 4, int(x * 160) - 3 : int(x * 160) + 4].mean(axis=(0, 1))

    example = load_examples(run.images("inpainting"), 1)
    corner = 255 * example.target[0, :, 2, 2]  # an eighth of 16 pixels from the edge
    np.testing.assert_allclose(mean_colour(3, 0.156), corner, atol=12)
    np.testing.assert_allclose(mean_colour(1, 0.156), corner * 0.28 + 255 * 0.72, atol=12)


def test_bounds_are_scaled_by_lambda_hat(run: tree.Run) -> None:
    examples = load_examples(run.images("super_resolution"), 4)
    assert examples.rows == (1, 4, 7, 10)
    bounds = load_bounds(run.method_runs("super_resolution")[1], examples)
    assert bounds.label == "DM_SB (J = 20)" and bounds.lambda_hat == pytest.approx(1.03)
    inside = (examples.target >= bounds.lower) & (examples.target <= bounds.upper)
    np.testing.assert_allclose(bounds.risk(examples), 1 - inside.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(bounds.mean_size(examples), (bounds.upper - bounds.lower).mean(axis=(1, 2, 3)))


def test_bounds_of_other_images_are_refused(run: tree.Run, tmp_path: Path) -> None:
    image = np.zeros((2, 3, 8, 8), dtype=np.float32)
    arrays = {"target": image, "condition": image, "mask": image.astype(np.uint8)}
    write_store(tmp_path / "test.zarr", arrays, ["x", "y"], {})
    with pytest.raises(StoreError, match="other images"):
        load_bounds(run.method_runs("super_resolution")[0], load_examples(tmp_path / "test.zarr", 1))


def test_only_images_that_may_be_shown_are_examples(run: tree.Run) -> None:
    store = open_store(run.images("inpainting"))
    wanted = store.image_ids[3]
    assert load_examples(run.images("inpainting"), 4, f"^{re.escape(wanted)}$").rows == (3,)
    with pytest.raises(DataError, match=r"report.example_pattern = 'nobody'.*matches none"):
        load_examples(run.images("inpainting"), 1, "nobody")


def test_methods_side_by_side(run: tree.Run, tmp_path: Path) -> None:
    method_runs = run.method_runs("inpainting")
    images = [run.images("inpainting")] * len(method_runs)
    plot_methods(images, method_runs, tmp_path / "methods.png", n_examples=1)
    check(tmp_path / "methods.png")
    with pytest.raises(DataError, match="one task and one protocol"):
        plot_methods([run.images("inpainting")] * len(run.folders), run.folders, tmp_path / "methods.png")


def test_risk_figures(run: tree.Run, tmp_path: Path) -> None:
    plot_stratified_risk(run.folders, tmp_path / "strata.png", alpha=0.1)
    plot_size_risk(run.method_runs("inpainting"), tmp_path / "size.pdf", alpha=0.1)
    plot_risk_curve(run.method_runs("inpainting", "paper"), tmp_path / "curve.png", alpha=0.1)
    for name in ("strata", "size", "curve"):
        check(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="one task and one protocol"):
        plot_risk_curve(run.folders, tmp_path / "curve.png", alpha=0.1)


def test_risk_by_position(run: tree.Run, tmp_path: Path) -> None:
    shown = [folder for folder in run.folders if folder.parent.name in ("dm_sb", "n_conffusion")]
    guaranteed = [folder for folder in shown if folder.name == "guaranteed"]
    plot_position_risk(guaranteed, tmp_path / "position_risk.png", alpha=0.1)
    check(tmp_path / "position_risk.png")
    plot_position_risk(guaranteed[:1], tmp_path / "one.png", alpha=0.1)
    check(tmp_path / "one.png")
    shutil.copytree(guaranteed[0], tmp_path / "damaged")
    (tmp_path / "damaged" / "positions.npz").write_bytes(b"")
    with pytest.raises(StoreError, match="positions.npz: not a file of risks by position"):
        plot_position_risk([tmp_path / "damaged"], tmp_path / "x.png", alpha=0.1)


def test_several_replicates_share_bars_and_columns(tmp_path: Path) -> None:
    folders = [
        tree.write_numbers(tmp_path, tree.Numbers(tree.steady(0.1, 9), tree.steady(0.2, 9, 0.01, k), replicate=k))
        for k in range(2)
    ]
    plot_stratified_risk(folders, tmp_path / "strata.png", alpha=0.1)
    losses = "step,loss,protocol,lambda_hat,risk,interval_size\n10,0.2,,,,\n20,0.1,,,,\n20,,paper,,,inf\n"
    for folder in folders:
        (folder.parent / "training.csv").write_text(losses)
    plot_training([folder.parent / "training.csv" for folder in folders], tmp_path / "training.png")
    for name in ("strata", "training"):
        check(tmp_path / f"{name}.png")


def test_loss_of_the_sharpening_is_drawn_and_named_as_its_own(run: tree.Run, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"step": [1, 2, 3, 4], "loss": [0.4, 0.3, 0.9, 0.8], "phase": [None, None, "sharpening", "sharpening"]}
    )
    file = tmp_path / "inpainting" / "n_conffusion" / "training.csv"
    file.parent.mkdir(parents=True)
    pd.concat([table, pd.read_csv(run.trainings("inpainting")[0]).dropna(subset="protocol")]).to_csv(file, index=False)
    plot_training([file], tmp_path / "training.png")
    check(tmp_path / "training.png")
    _, axes = plt.subplots(2)
    _draw_method("n_conffusion", [file], *axes)
    fitted, sharpened = axes[0].get_lines()
    assert (fitted.get_linestyle(), list(fitted.get_ydata())) == ("-", [0.4, 0.3])
    assert (sharpened.get_linestyle(), list(sharpened.get_ydata())) == (":", [0.9, 0.8])
    plt.close("all")


def test_training(run: tree.Run, tmp_path: Path) -> None:
    plot_training(run.trainings("inpainting"), tmp_path / "training.png")
    check(tmp_path / "training.png")
    with pytest.raises(DataError, match="2 tasks"):
        plot_training([*run.trainings("inpainting"), *run.trainings("super_resolution")], tmp_path / "x.png")


def test_validity(tmp_path: Path) -> None:
    heights = []
    for sizes in ((200,), (50, 200)):
        table = tree.write_validity(tmp_path / "validity.csv", sizes)
        plot_validity(table, tmp_path / "validity.png", delta=0.1, n_variants=20)
        heights.append(check(tmp_path / "validity.png")[1])
    assert heights[1] > 1.5 * heights[0]  # a row of panels for each n


def test_bounds_are_compared(tmp_path: Path) -> None:
    table = tree.write_comparison(tmp_path / "validity.csv")
    plot_bounds(table, tmp_path / "bounds.png", delta=0.1, n_variants=20)
    check(tmp_path / "bounds.png")
    plot_validity(table, tmp_path / "validity.png", delta=0.1, n_variants=20)  # the protocols' rows alone
    plot_validity(tree.write_validity(tmp_path / "plain.csv"), tmp_path / "plain.png", delta=0.1, n_variants=20)
    assert (tmp_path / "validity.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_same_figure_same_bytes_and_no_trace(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("first", "second"):
        with saved_figure(tmp_path / f"{name}.png", 3, 2) as figure:
            facets(figure, 1, 1)[0][0].plot([1, 2], label="λ̂")
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_failed_figure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), saved_figure(tmp_path / "x.png", 2, 2):
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())


def test_methods_differ_in_more_than_colour() -> None:
    assert set(METHOD_COLOURS) == set(METHOD_MARKERS) == set(tree.METHODS)
    assert len(set(METHOD_COLOURS.values())) == len(set(METHOD_MARKERS.values())) == len(tree.METHODS)


def test_examples_are_spread_evenly() -> None:
    assert spread(800, 4) == (100, 300, 500, 700)
    assert spread(2, 5) == (0, 1)
    assert spread(3, 5) == (0, 1, 2)


def test_long_names_keep_their_end() -> None:
    assert shorten("short") == "short"
    assert shorten("people/anna/photo-0001") == "…anna/photo-0001" and len(shorten("x" * 40)) == 16
