"""Configuration files: overlays merge without side effects, and every mistake is named with its key."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from conffusion.config import Config, load_config, merge, parse_config, read_yaml
from conffusion.config.load import RENAMED_KEYS
from conffusion.errors import ConfigError

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "config.yaml"
OVERLAYS = sorted((ROOT / "config").glob("*.yaml"))
ABSENT = object()


def changed(key: str, value: Any) -> dict[str, Any]:
    """The default configuration with one dotted key set, or taken out."""
    values = copy.deepcopy(read_yaml(DEFAULT))
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return values


def message_of(key: str, value: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(key, value), source="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    return message


# ---- files


def test_default_configuration_is_valid_and_frozen() -> None:
    config = load_config(DEFAULT)
    assert config.run == "default"
    for section, name in ((config, "seed"), (config.calibration, "alpha"), (config.dataset.splits, "test")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_is_valid_and_goes_to_a_folder_of_its_own(overlay: Path) -> None:
    config = load_config(DEFAULT, overlay)
    assert config.run != load_config(DEFAULT).run


def test_smoke_overlay_is_among_them() -> None:
    assert "smoke" in [overlay.stem for overlay in OVERLAYS]


def test_later_files_win(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("seed: 1\ncalibration: {alpha: 0.2, delta: 0.3}\n")
    second.write_text("calibration: {alpha: 0.4}\n")
    config = load_config(DEFAULT, first, second)
    assert (config.seed, config.calibration.alpha, config.calibration.delta) == (1, 0.4, 0.3)
    assert config.calibration.ucb == load_config(DEFAULT).calibration.ucb


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("a: [", "not valid YAML"),
        ("- 1\n", "must hold a mapping"),
        ("", "must hold a mapping"),
    ],
)
def test_unreadable_file_is_named(content: str | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"mine.yaml.*{complaint}"):
        read_yaml(path)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a string, because the point is missing."""
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("calibration: {alpha: 5e-2}\n")
    assert load_config(DEFAULT, overlay).calibration.alpha == 0.05


def test_sharpening_is_off_unless_asked_for() -> None:
    for overlays in ([], [ROOT / "config" / "paper.yaml"]):
        assert load_config(DEFAULT, *overlays).finetuning.sharpening.n_steps == 0


# ---- no hidden defaults


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Section types inside an annotation such as `dict[str, PriorSettings]` or `ScheduleSettings | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (dict, list, Union, UnionType) or get_args(annotation):
        for part in get_args(annotation):
            yield from sections(part)


def all_sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for section in sections(field.annotation):
            yield from all_sections(section)


def test_no_key_has_a_default_in_the_code() -> None:
    """What is not required could be left out of config.yaml, and a reader would not find it there; None is absence."""
    models = set(all_sections(Config))
    assert len(models) >= 15
    hidden = [
        f"{m.__name__}.{name}"
        for m in models
        for name, field in m.model_fields.items()
        if not field.is_required() and field.default is not None
    ]
    assert hidden == []


def leaves(values: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(values, dict) and values:
        for name, value in values.items():
            yield from leaves(value, f"{prefix}{name}.")
    else:
        yield prefix.rstrip(".")


# Keys below these are named by users.
FREE = ("degradation", "options", "tuned", "priors", "networks", "tasks", "prediction_time", "solvers")


@pytest.mark.parametrize(
    "key", [key for key in leaves(read_yaml(DEFAULT)) if not any(part in FREE for part in key.split("."))]
)
def test_every_key_is_required(key: str) -> None:
    assert f"{key}: is missing" in message_of(key, ABSENT)


@pytest.mark.parametrize(
    "line", [line for line in DEFAULT.read_text().splitlines() if line[:1].isalpha() and line[-1:] != ":"]
)
def test_every_setting_at_the_top_is_explained(line: str) -> None:
    assert "#" in line or line.startswith("methods:")


# ---- mistakes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("calibration.alpha", value) for value in (0, 1, 1.5, -0.1, "much", None, float("nan"))],
        *[("calibration.delta", value) for value in (0, 1, 2.0)],
        ("calibration.ucb", "clt"),
        ("calibration.ucb", "conformal_risk_control"),
        ("calibration.families", []),
        ("run", "two words"),
        ("run", "../elsewhere"),
        ("run", ""),
        ("seed", -1),
        ("seed", 1.5),
        ("device", "gpu"),
        ("precision", "float16"),
        ("threads", 0),
        ("replicates", 0),
        ("ignore_code_changes", "perhaps"),
        ("image_size", 4),
        ("image_size", [32, 32]),
        ("dataset.name", "photos"),
        ("dataset.faces.population", "narrow"),
        ("dataset.folder.fit", "stretch"),
        ("dataset.folder.tile_size", 0),
        ("tasks", {}),
        ("tasks.inpainting.degradation", 0.5),
        ("methods", []),
        ("methods", "dm_sb"),
        ("priors.sr3_faces.network", "sr4"),
        ("priors.sr3_faces.training.n_steps", 0),
        ("priors.sr3_faces.training.learning_rate", 0),
        ("priors.sr3_faces.training.ema", 1),
        ("priors.sr3_faces.training.images", "paintings"),
        ("priors.sr3_faces.schedule.name", "cosin"),
        ("priors.adm_photos.schedule.respacing", 0),
        ("sampling.solver", "euler"),
        ("sampling.n_variants", 1),
        ("sampling.n_steps", 0),
        ("sampling.batch_size", -3),
        ("sampling.images_per_shard", 0),
        ("sampling.dtype", "int8"),
        ("finetuning.validate_every", 0),
        ("finetuning.micro_batch_size", 0),
        ("finetuning.patience", 0),
        ("finetuning.processes", 0),
        ("finetuning.checkpoint_every_minutes", -1),
        ("finetuning.ema", 1.0),
        ("finetuning.sharpening.n_steps", -1),
        ("finetuning.sharpening.n_steps", 1.5),
        ("finetuning.sharpening.learning_rate_factor", 0),
        ("finetuning.tuned.inpainting.resnext.learning_rate", -1e-3),
        ("finetuning.tuned.inpainting.resnext.prediction_time", 1.0),
        ("tuning.n_trials", 0),
        ("validity.n_draws", 0),
        ("report.n_bootstrap", 99),
        ("report.n_examples", "four"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_value_is_named_with_its_key(key: str, value: Any) -> None:
    assert f"{key} = {value!r}: " in message_of(key, value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None])
def test_bad_split_size_is_named(value: Any) -> None:
    message = message_of("dataset.splits.calibration", value)
    assert "dataset.splits.calibration" in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("value", "place"), [([0], "validity.calibration_sizes.0 = 0"), ("all", "validity.calibration_sizes = 'all'")]
)
def test_bad_list_entry_is_named(value: Any, place: str) -> None:
    assert place in message_of("validity.calibration_sizes", value)


@pytest.mark.parametrize(("former", "key"), RENAMED_KEYS.items(), ids=str)
def test_renamed_key_is_told_its_new_name(former: str, key: str) -> None:
    message = message_of(former, 1)
    assert f"{former}: is now called {key}" in message
    section = load_config(ROOT / "config.yaml")
    for part in key.split("."):
        section = getattr(section, part)  # the new name exists


def test_all_mistakes_are_reported_at_once() -> None:
    values = changed("calibration.alpha", 2)
    values["sampling"]["n_variants"] = 0
    values["sed"] = 1
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert all(
        part in str(caught.value) for part in ("calibration.alpha = 2", "sampling.n_variants = 0", "sed: unknown")
    )


@pytest.mark.parametrize("run", [".", "..", ".hidden"])
def test_run_cannot_leave_the_results(run: str) -> None:
    assert f"run = {run!r}: " in message_of("run", run)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sed", "seed"),
        ("methdos", "methods"),
        ("calibration.alhpa", "alpha"),
        ("sampling.n_step", "n_steps"),
        ("dataset.split", "splits"),
        ("dataset.splits.calibrate", "calibration"),
        ("dataset.folder.tilesize", "tile_size"),
        ("tasks.inpainting.degradatoin", "degradation"),
        ("priors.sr3_faces.training.learning_rte", "learning_rate"),
        ("priors.sr3_faces.schedule.n_timestep", "n_timesteps"),
        ("finetuning.tuned.inpainting.resnext.n_step", "n_steps"),
    ],
)
def test_unknown_key_gets_the_nearest(key: str, nearest: str) -> None:
    assert f"{key}: unknown key (did you mean '{nearest}'?)" in message_of(key, 1)


def test_unrecognisable_key_gets_the_list() -> None:
    assert "calibration.zzz: unknown key (known keys here: alpha, delta, families, ucb)" in message_of(
        "calibration.zzz", 1
    )


def test_folder_needs_a_path() -> None:
    assert "dataset.folder.path must name the folder" in message_of("dataset.name", "folder")


@pytest.mark.parametrize("key", ["tasks.inpainting.prior", "networks.generic"])
def test_unknown_prior_is_named_with_the_known_ones(key: str) -> None:
    message = message_of(key, "palette_cats")
    assert f"{key} = 'palette_cats' is not one of the priors" in message
    assert "palette_faces" in message


# ---- merging

MAPPINGS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(0, 3), st.none(), st.lists(st.integers(0, 3)))),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(inner, st.integers(0, 3))),
    max_leaves=8,
)


@given(MAPPINGS, MAPPINGS)
def test_merging_changes_neither_and_the_overlay_wins(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    before = copy.deepcopy((base, overlay))
    merged = merge(base, overlay)
    assert (base, overlay) == before
    assert merge(base, {}) == base
    assert merge({}, overlay) == overlay
    assert merge(merged, overlay) == merged
    assert set(merged) == set(base) | set(overlay)
    for key, value in merged.items():
        inner, over = base.get(key), overlay.get(key)
        if isinstance(inner, dict) and isinstance(over, dict):
            assert value == merge(inner, over)
        else:
            assert value == (over if key in overlay else inner)


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_overlays_may_be_merged_beforehand(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    """Unless one of them replaces a section by a plain value."""
    if merge(merge(a, b), c) != merge(a, merge(b, c)):
        assert any(replaces_a_section(*pair) for pair in ((a, b), (b, c), (merge(a, b), c), (a, merge(b, c))))


def replaces_a_section(base: dict[str, Any], overlay: dict[str, Any]) -> bool:
    shared = [(base[key], overlay[key]) for key in set(base) & set(overlay)]
    return any(
        isinstance(under, dict) != isinstance(over, dict)
        or (isinstance(under, dict) and isinstance(over, dict) and replaces_a_section(under, over))
        for under, over in shared
    )


def test_merged_configuration_survives_a_file() -> None:
    config = load_config(DEFAULT, *OVERLAYS[-1:])
    again = yaml.safe_load(yaml.safe_dump(config.model_dump(), sort_keys=False))
    assert parse_config(again) == config
