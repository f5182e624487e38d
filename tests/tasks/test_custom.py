"""A degradation of the user's own: what the function gets, how its faults are reported, when it is run at all."""

from pathlib import Path

import numpy as np
import pytest

from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError
from conffusion.tasks import build_task, pinned_settings, portable_settings

FILE = Path(__file__).parent / "degradations.py"
TARGET = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)


def apply(name: str, seed: int = 5, **settings: str) -> np.ndarray:
    return build_task("custom", function=f"{FILE}:{name}", **settings).apply(TARGET, ["a", "b"], seed)[0]


def test_function_gets_each_image_with_its_own_generator() -> None:
    expected = [
        np.clip(image * (1 + 0.3 * keyed_generator(5, "custom", name).standard_normal(image.shape)), 0, 1)
        for image, name in zip(TARGET, "ab", strict=True)
    ]
    np.testing.assert_array_equal(apply("speckle"), np.asarray(expected, dtype=np.float32))
    assert not np.array_equal(apply("speckle", seed=6), apply("speckle"))


def test_function_cannot_alter_the_truth() -> None:
    before = TARGET.copy()
    assert (apply("greedy") == 0.25).all()
    np.testing.assert_array_equal(TARGET, before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divides", r"degradations.py:divides failed on image 'a': .*degradations.py, line 18: ValueError: operands"),
        ("shrinks", r"on image 'a': returned shape \(3, 4, 4\); the corrupted image must have \(3, 8, 8\)"),
        ("overflows", r"returned values from 1.* they must lie in \[0, 1\]: end the function with np.clip"),
        ("breaks", "returned NaN or infinite values"),
        ("forgets", "returned NoneType; it must return an array"),
        ("absent", "degradations.py has no function 'absent'"),
        ("NUMBER", "has no function 'NUMBER'"),
    ],
)
def test_faults_name_file_line_and_image(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module\n", "line 1: ModuleNotFoundError"),
        ("def f(:\n", "line 1: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(ConfigError, match=f"wrong.py cannot be imported: .*{message}"):
        build_task("custom", function=f"{tmp_path}/wrong.py:f").apply(TARGET, ["a", "b"], 0)


@pytest.mark.parametrize("function", ["blur", "blur.py", "blur.txt:blur", "blur.py:1blur", 3])
def test_names_of_functions_are_checked(function: object) -> None:
    with pytest.raises(ConfigError, match="must be a Python file and a name in it"):
        build_task("custom", function=function)


def test_nothing_runs_before_images_are_corrupted(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("open('ran', 'w')\n")
    assert build_task("custom", function=f"{tmp_path}/loud.py:f").mask((1, 3, 4, 4)).all()
    assert not Path("ran").exists()


def test_settings_follow_the_files_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(image, generator):\n    return image * 0.5\n")
    settings = pinned_settings("custom", {"function": f"{file}:f"})
    task = build_task("custom", **settings)
    np.testing.assert_array_equal(task.apply(TARGET, ["a", "b"], 0)[0], TARGET * np.float32(0.5))
    file.write_text("def f(image, generator):\n    return image * 0.25\n")
    assert pinned_settings("custom", {"function": f"{file}:f"}) != settings
    with pytest.raises(ConfigError, match="mine.py was changed while it was in use"):
        task.apply(TARGET, ["a", "b"], 0)
    renewed = build_task("custom", function=f"{file}:f").apply(TARGET, ["a", "b"], 0)[0]
    np.testing.assert_array_equal(renewed, TARGET * np.float32(0.25))


def test_other_tasks_need_no_checksum_and_travel_whole() -> None:
    assert pinned_settings("denoising", {"sigma": 0.2}) == {"sigma": 0.2}
    assert portable_settings("denoising", {"sigma": 0.2}) == {"sigma": 0.2}
    assert portable_settings("custom", pinned_settings("custom", {"function": f"{FILE}:speckle"})) == {}


def test_without_a_function_pairs_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="packages carry no code.*--images and --targets"):
        build_task("custom").apply(TARGET, ["a", "b"], 0)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere.py cannot be read \(No such file"):
        pinned_settings("custom", {"function": "nowhere.py:f"})
