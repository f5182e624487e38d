"""One set of versions: pyproject.toml, the lock files, the Makefile and the conda environment agree."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-docs.lock")


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _requirements(lines: list[str]) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def _locked(name: str) -> dict[str, str]:
    """Versions in a lock file, by canonical name."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", _text(name), flags=re.MULTILINE))


def _version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


def _torch_pin() -> str:
    return _version(_requirements(PROJECT["dependencies"])["torch"])


def test_conda_environment_pins_the_locked_versions() -> None:
    environment = yaml.safe_load(_text("envs/conffusion.yaml"))
    (pip_lines,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    pins = {name: _version(requirement) for name, requirement in _requirements(pip_lines).items()}

    locked = _locked("requirements.lock") | {"torch": _torch_pin()}
    assert pins == {name: locked.get(name) for name in pins}
    missing = _requirements(PROJECT["dependencies"]).keys() - pins.keys()
    assert not missing, f"envs/conffusion.yaml lacks {sorted(missing)}"


def test_makefile_installs_the_pinned_torch() -> None:
    command = ["make", "--dry-run", "--always-make", "setup"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'"torch=={_torch_pin()}"' in plan


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_satisfies_pyproject(lock: str) -> None:
    wanted = list(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    if lock == "requirements-docs.lock":
        wanted += extras["docs"]
    if lock == "requirements-dev.lock":
        wanted += extras["priors"] + extras["cluster"]
        wanted += [line for line in extras["dev"] if not line.startswith("conffusion[")]
    locked = _locked(lock)
    for name, requirement in _requirements(wanted).items():
        if name != "torch":
            assert name in locked, f"{lock} lacks {name}: run `make lock`"
            assert requirement.specifier.contains(locked[name]), f"{lock} has {name} {locked[name]}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_what_torch_needs_but_not_torch(lock: str) -> None:
    locked = _locked(lock)
    assert "torch" not in locked
    for line in importlib.metadata.requires("torch") or []:
        requirement = Requirement(line)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and not requirement.name.startswith(("nvidia-", "cuda-", "triton")):
            assert requirement.name in locked, f"add {requirement.name} to requirements.in and run `make lock`"
            assert requirement.specifier.contains(locked[requirement.name])


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_hashed_and_names_no_index(lock: str) -> None:
    entries = [entry for entry in re.split(r"\n(?=\S)", _text(lock)) if not entry.startswith("#")]
    unhashed = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not unhashed
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links|--trusted-host", _text(lock))


def test_locks_agree() -> None:
    """All of them are installed into one environment."""
    runtime, development, documentation = (_locked(lock) for lock in LOCKS)
    assert runtime.items() <= development.items()
    assert runtime.items() <= documentation.items()
    common = development.keys() & documentation.keys()
    assert {name: development[name] for name in common} == {name: documentation[name] for name in common}
