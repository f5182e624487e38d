"""Runs one command; when its standard input closes, it kills all that came of the command, daemons and orphans too.

As a process of its own: `python keeper.py COMMAND...`. So a test cluster ends with the test that started it, however
that ends, and a node can be killed as by a power cut: everything at once, and nothing outside it.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # orphans become children of this process, not of init (prctl(2))


def descendants(ancestor: int) -> list[int]:
    """Processes that came of `ancestor`, parents before their children."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if after_name[0] != "Z":
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found = [ancestor]
    for process in found:
        found.extend(children.get(process, []))
    return found[1:]


def cut_power(ancestor: int) -> None:
    """Kill all that came of `ancestor`; all stand still first, so that none reports the end of another."""
    while processes := descendants(ancestor):
        for kill in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                try:
                    os.kill(process, kill)
                except ProcessLookupError:
                    pass


def _reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, _reap)
    subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    sys.stdin.buffer.read()
    cut_power(os.getpid())
