"""Where small things that cost time to find out again are remembered between commands."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """CONFFUSION_CACHE, by default ~/.cache/conffusion; None where that is set to nothing: keep nothing."""
    folder = os.environ.get("CONFFUSION_CACHE", str(Path.home() / ".cache" / "conffusion"))
    return Path(folder) if folder else None
