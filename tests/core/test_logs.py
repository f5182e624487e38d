import subprocess
import sys


def test_only_this_package_speaks_below_warnings() -> None:
    """In a process of its own, as the handlers of the root logger are set once."""
    code = """
import logging, sys, warnings
from conffusion.core.logs import log_to
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("%(message)s"))
log_to(handler)
logging.getLogger("conffusion.core.progress").info("ours")
logging.getLogger("conffusion.core.progress").debug("our details")
logging.getLogger("fontTools.subset").info("glyf pruned")
logging.getLogger("fontTools.subset").warning("theirs")
warnings.warn("mind this")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["ours", "theirs"] and "mind this" in lines[2]
    assert "details" not in done.stdout and "pruned" not in done.stdout and done.stderr == ""
