"""A real server of the S3 protocol (moto) on loopback."""

import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / ".venv-moto" / "plugin"  # Snakemake's storage plugin, without what is installed anyway


def python_with_moto() -> str | None:
    """An interpreter that has moto, which does not go together with the locked versions of the project itself."""
    if importlib.util.find_spec("moto"):
        return sys.executable
    own = Path(os.environ.get("MOTO_PYTHON", ROOT / ".venv-moto" / "bin" / "python"))
    return str(own) if own.is_file() else None


@contextmanager
def moto_server(log: Path) -> Iterator[str]:
    """Address of a server on a free port of loopback. It logs every request, to a file: a pipe would fill up."""
    python = python_with_moto()
    if python is None:
        pytest.skip("no interpreter with moto: make .venv-moto, or set MOTO_PYTHON")
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=output, stderr=output
        )
    try:
        for _ in range(300):
            if "Running on" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield re.search(r"http://[\d.]+:\d+", log.read_text())[0]
    finally:
        process.kill()
        process.wait()


def environment(server: str) -> dict[str, str]:
    """Variables by which clients find the server."""
    return {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }  # fmt: skip


def empty_bucket(server: str) -> None:
    """Forget everything, and make the bucket called bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST"))
    urllib.request.urlopen(urllib.request.Request(f"{server}/bucket", method="PUT"))
