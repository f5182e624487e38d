"""The compared systems: the contract's names, and help for a misspelt one."""

import re
from pathlib import Path

import pytest

from conffusion.config import load_config
from conffusion.errors import ConfigError
from conffusion.methods.registry import METHODS, get_method
from conffusion.training.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]
PAPER = ["adm_uq", "dm_sb", "dm_sba", "n_conffusion", "g_conffusion", "resnext", "resnest"]


def test_methods_of_the_paper_are_there_and_every_method_is_found_by_its_name() -> None:
    assert set(PAPER) <= set(METHODS)
    assert all(get_method(name).name == name for name in METHODS)


def test_default_configuration_runs_all_of_them_and_resolves_their_networks() -> None:
    config = load_config(ROOT / "config.yaml")
    assert sorted(config.methods) == sorted(PAPER)
    roles = {METHODS[name].network for name in config.methods} - {None, "task"}
    assert roles == set(config.networks)


def test_only_dm_sb_samples_and_every_other_method_has_an_objective() -> None:
    assert [name for name in PAPER if METHODS[name].is_sampled] == ["dm_sb"]
    assert all(method.loss in OBJECTIVES for method in METHODS.values() if not method.is_sampled)


def test_paper_settings_of_each_method() -> None:
    """ADM_UQ starts from scratch with a point estimate; DM_SBA imitates DM_SB; the rest is quantile regression."""
    assert not METHODS["adm_uq"].pretrained
    assert all(METHODS[name].pretrained for name in PAPER if name != "adm_uq")
    assert METHODS["adm_uq"].loss == "pinball_and_squared_error"
    assert (METHODS["dm_sba"].target, METHODS["dm_sba"].loss) == ("sampled_bounds", "squared_error")
    assert METHODS["adm_uq"].network == METHODS["g_conffusion"].network  # one architecture, one output form
    for name in ("n_conffusion", "g_conffusion", "resnext", "resnest"):
        assert (METHODS[name].target, METHODS[name].loss) == ("truth", "pinball")


@pytest.mark.parametrize(("name", "hint"), [("n_confusion", "n_conffusion"), ("resnet", "resne"), ("dmsb", "dm_sb")])
def test_misspelt_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*did you mean '{re.escape(hint)}"):
        get_method(name)


def test_unrecognisable_name_gets_the_list() -> None:
    with pytest.raises(ConfigError, match="known: adm_uq, .*resnext"):
        get_method("zzz")
