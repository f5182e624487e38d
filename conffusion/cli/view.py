"""`conffusion view`: a page to look at predictions."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conffusion.errors import DataError

if TYPE_CHECKING:
    from conffusion.view.gallery import Gallery

PAGE = "view.html"


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "write one HTML page to look at predictions in a browser: no server, no network"
    command = commands.add_parser("view", help=purpose, description=purpose)
    command.add_argument(
        "path", nargs="+", help="a folder of predictions (or several of the same images, to compare methods), or a"
        " run of the workflow, results/<run>",
    )  # fmt: skip
    command.add_argument("--output", help=f"page to write (default: PATH/{PAGE})")
    command.add_argument("--task", help="task of a run (default: its first)")
    command.add_argument("--method", nargs="+", default=[], help="methods of a run (default: all)")
    command.add_argument(
        "--protocol", default="guaranteed", help="protocol of a run, guaranteed or paper (default: guaranteed)"
    )
    command.add_argument(
        "--max-side", type=_positive, metavar="PIXELS", help="reduce larger images to every k-th pixel (default: only "
        "where the page would be too large for a browser)",
    )  # fmt: skip
    command.add_argument("--first", type=_positive, metavar="N", help="show the first N images only (default: all)")
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    command.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> str:
    from conffusion.view.gallery import first_images
    from conffusion.view.page import write_page

    gallery = _gallery(options)
    if options.first is not None:
        gallery = first_images(gallery, options.first)
    page = write_page(gallery, options.output or Path(options.path[0]) / PAGE, options.max_side)
    if options.open:
        import webbrowser

        webbrowser.open(page.path.resolve().as_uri())
    reduced = f"; reduced to at most {page.max_side} pixels (--max-side)" if page.max_side else ""
    methods = ", ".join(side.label for side in gallery.sides)
    images = f"{page.n_images:,} image{'' if page.n_images == 1 else 's'}"
    return f"{page.path}: {images}, {methods}; {page.n_bytes / 1e6:.1f} MB{reduced}"


def _gallery(options: argparse.Namespace) -> "Gallery":
    from conffusion.view.predictions import is_predictions, open_predictions
    from conffusion.view.run import is_run, open_run

    for path in map(Path, options.path):
        if not path.is_dir():
            raise DataError(f"{path}: is not a folder; give a folder of predictions or a run, results/<run>")
    runs = [path for path in options.path if is_run(path)]
    if runs and len(options.path) > 1:
        raise DataError(f"{runs[0]}: is a run of the workflow; give it alone, its methods are compared by themselves")
    if runs:
        return open_run(runs[0], task=options.task, methods=options.method, protocol=options.protocol)
    for path in options.path:
        if not is_predictions(path):
            raise DataError(
                f"{path}: holds neither predictions (interval.json, summary.json) nor a run of the workflow"
                " (config.yaml, splits.csv)"
            )
    if options.task or options.method:
        raise DataError(
            "--task and --method choose from a run of the workflow; a folder of predictions has one of each"
        )
    return open_predictions(options.path)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number
