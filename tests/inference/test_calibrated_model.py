"""`CalibratedModel`: any restoration model, calibrated on pairs of any sizes, saved and loaded."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conffusion import CalibratedModel, Pair, Predictor
from conffusion.bounds import sampled_bounds
from conffusion.calibration import calibrate
from conffusion.errors import CalibrationError, ConfigError, DataError, PackageError
from conffusion.metrics import image_losses
from tests.inference.small_package import small_package

NOISE = 0.05


def denoise(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Eight samples around a noisy image, a function of the image alone."""
    generator = np.random.default_rng(int(image.sum() * 1e6))
    return image + 0.6 * NOISE * generator.standard_normal((8, *image.shape))


def pairs(n_pairs: int, seed: int = 0, side: int | None = None, noise: float = NOISE) -> Iterator[tuple]:
    generator = np.random.default_rng(seed)
    for _ in range(n_pairs):
        height, width = (side, side) if side else generator.integers(6, 14, 2)
        target = generator.uniform(0.2, 0.8, (2, height, width)).astype(np.float32)
        yield target + noise * generator.standard_normal(target.shape), target


@pytest.fixture(scope="module")
def calibrated() -> CalibratedModel:
    return CalibratedModel.calibrate(denoise, pairs(40), 0.1, 0.1)


def test_lambda_hat_is_that_of_calibrate() -> None:
    groups = [f"scene {k // 2}" for k in range(24)]
    with_groups = [(*pair, None, group) for pair, group in zip(pairs(24, side=8), groups, strict=True)]
    found = CalibratedModel.calibrate(denoise, with_groups, 0.3, 0.3, scaling="additive", quantiles=(0.2, 0.7))
    bounds = [sampled_bounds(denoise(image), 0.2, 0.7) for image, *_ in with_groups]
    lower, upper = (np.stack(ends) for ends in zip(*bounds, strict=True))
    target = np.stack([target for _, target, *_ in with_groups])
    expected = calibrate(
        lower, upper, target, alpha=0.3, delta=0.3, scaling="additive", ucb="star", groups=groups, order_seed=0
    )
    assert found.calibration.lambda_hat == pytest.approx(expected.lambda_hat, abs=1e-12)
    assert (found.calibration.n, found.calibration.unit, found.calibration.n_images) == (12, "group", 24)
    losses, _ = image_losses(*expected.apply(lower, upper), target)
    np.testing.assert_allclose(found.evidence.losses, losses, atol=1e-12)
    assert len(set(found.evidence.groups)) == 12


def test_quantiles_follow_alpha() -> None:
    assert CalibratedModel.calibrate(denoise, pairs(8), 0.3, 0.3).quantiles == (0.15, 0.85)


def test_an_interval_is_the_model_s_bounds_scaled(calibrated: CalibratedModel) -> None:
    ((image, target),) = pairs(1, seed=1)
    interval = calibrated(image)
    lower, upper = calibrated.calibration.apply(*sampled_bounds(denoise(image), *calibrated.quantiles))
    np.testing.assert_array_equal(interval.lower, lower.astype(np.float32))
    np.testing.assert_array_equal(interval.upper, upper.astype(np.float32))
    np.testing.assert_allclose(interval.estimate, denoise(image).mean(axis=0), atol=1e-7)
    assert interval.estimate_kind == "mean_of_variants" and interval.mask is None
    assert interval.contains(target).mean() > 0.8 and 0 < interval.image_p_value <= 1


def test_images_of_many_sizes_are_judged(calibrated: CalibratedModel) -> None:
    evaluation = calibrated.evaluate(pairs(80, seed=2))
    intervals = [(calibrated(image), target) for image, target in pairs(80, seed=2)]
    risks = [interval.risk(target) for interval, target in intervals]
    assert evaluation.measured.risk == pytest.approx(np.mean(risks)) and evaluation.measured.n == 80
    assert evaluation.interval_size_mean == pytest.approx(np.mean([interval.size_mean for interval, _ in intervals]))
    assert evaluation.measured.risk < 0.1 and "Risk controlled on these images" in evaluation.verdict
    assert evaluation.drift.p_value > 0.01 and evaluation.drift.n_new == 80


def test_images_unlike_those_of_the_calibration_violate_it_and_are_noticed(calibrated: CalibratedModel) -> None:
    evaluation = calibrated.evaluate((image * 0.3 + 0.1, target) for image, target in pairs(60, seed=3))
    assert "VIOLATED" in evaluation.verdict and "drift test" in evaluation.verdict
    assert evaluation.drift.p_value < 0.01


def test_groups_of_a_test_set_are_what_is_counted(calibrated: CalibratedModel) -> None:
    data = [Pair(*pair, group=k // 4) for k, pair in enumerate(pairs(40, seed=4))]
    measured = calibrated.evaluate(data).measured
    risks = [calibrated(pair.image).risk(pair.target) for pair in data]
    assert (measured.n, measured.unit) == (10, "group")
    assert measured.risk == pytest.approx(np.mean(np.reshape(risks, (10, 4)).mean(axis=1)))


def test_only_restored_pixels_are_judged() -> None:
    def fill(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.where(mask == 1, 0.3, 0.0) * np.ones_like(image), np.where(mask == 1, 0.7, 0.0) * np.ones_like(image)

    def holes(n_pairs: int, seed: int) -> Iterator[Pair]:
        for _, target in pairs(n_pairs, seed):
            mask = np.zeros(target.shape[1:], np.uint8)
            mask[1:4, 2:5] = 1
            yield Pair(target * (1 - mask), target, mask)

    filling = CalibratedModel.calibrate(fill, holes(30, 0), 0.3, 0.3)
    (pair,) = holes(1, 1)
    interval = filling(pair.image, pair.mask)
    np.testing.assert_array_equal(interval.mask, pair.mask)
    np.testing.assert_array_equal(interval.lower[:, pair.mask == 0], pair.target[:, pair.mask == 0])
    np.testing.assert_array_equal(interval.upper[:, pair.mask == 0], pair.target[:, pair.mask == 0])
    assert filling.calibration.risk == pytest.approx(filling.evidence.losses.mean())
    assert 0.1 < filling.evaluate(holes(60, 2)).measured.risk < 0.3


def test_a_model_without_bounds_gets_intervals_of_one_width() -> None:
    plain = CalibratedModel.calibrate(lambda image: (image, image), pairs(25), scaling="additive")
    ((image, _),) = pairs(1, seed=5)
    reach = plain.calibration.lambda_hat
    expected = (image + reach).clip(0, 1) - (image - reach).clip(0, 1)
    np.testing.assert_allclose(plain(image).size, expected, atol=1e-6)
    assert plain(image).estimate_kind == "midpoint"
    with pytest.raises(CalibrationError, match="bounds or targets"):
        CalibratedModel.calibrate(lambda image: (image, image), pairs(25), scaling="interval")


def test_a_predictor_is_a_restoration_model(tmp_path: Path) -> None:
    predictor = Predictor(small_package(tmp_path), device="cpu")
    generator = np.random.default_rng(0)
    data = [(generator.random((3, 4, 4)), generator.random((3, 16, 16))) for _ in range(10)]
    calibrated = CalibratedModel.calibrate(predictor, data, 0.3, 0.3, scaling="additive")
    before, after = predictor(data[0][0]), calibrated(data[0][0])
    reach = calibrated.calibration.lambda_hat
    np.testing.assert_allclose(after.lower, (before.lower - reach).clip(0, 1), atol=1e-6)
    assert after.estimate_kind == "midpoint"
    np.testing.assert_allclose(after.estimate, (after.lower + after.upper) / 2, atol=1e-6)


def test_too_few_pairs_are_told_how_many_are_needed(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"about \d+ images would be needed"):
        CalibratedModel.calibrate(denoise, pairs(6), folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"delta": 0}, "delta"),
        ({"scaling": "learned"}, "scaling = 'learned'"),
        ({"ucb": "none"}, "ucb"),
        ({"quantiles": (0.9, 0.1)}, "quantiles"),
    ],
)
def test_bad_settings_are_refused_before_the_model_is_asked(settings: dict[str, object], message: str) -> None:
    def never(image: np.ndarray) -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match=message):
        CalibratedModel.calibrate(never, pairs(1), **settings)


def test_pairs_are_asked_for_one_at_a_time() -> None:
    events = []

    def data() -> Iterator[tuple]:
        for number, pair in enumerate(pairs(8)):
            events.append(f"pair {number}")
            yield pair

    def model(image: np.ndarray) -> np.ndarray:
        events.append("model")
        return denoise(image)

    CalibratedModel.calibrate(model, data(), 0.3, 0.3)
    assert events == [event for number in range(8) for event in (f"pair {number}", "model")]


def test_what_was_saved_predicts_the_same(calibrated: CalibratedModel, tmp_path: Path) -> None:
    path = tmp_path / "denoiser.safetensors"
    calibrated.save(path)
    loaded = CalibratedModel.load(path, denoise)
    ((image, _),) = pairs(1, seed=6)
    before, after = calibrated(image), loaded(image)
    np.testing.assert_array_equal(after.lower, before.lower)
    np.testing.assert_array_equal(after.upper, before.upper)
    assert after.image_p_value == before.image_p_value and loaded.calibration == calibrated.calibration
    assert loaded.verdict == calibrated.verdict and "at most 10 % of the true pixel values" in loaded.verdict


def test_damaged_and_strange_files_are_refused(calibrated: CalibratedModel, tmp_path: Path) -> None:
    path = tmp_path / "denoiser.safetensors"
    calibrated.save(path)
    content = path.read_bytes()
    newer = content.replace(b'{\\"format\\":2', b'{\\"format\\":3')
    assert newer != content
    from safetensors.numpy import save

    for bad in (b"", content[: len(content) // 2], b"not a file" * 50, newer, save({"x": np.zeros(3)})):
        path.write_bytes(bad)
        with pytest.raises(PackageError, match="denoiser.safetensors: cannot be read as a calibrated model"):
            CalibratedModel.load(path, denoise)
    with pytest.raises(PackageError, match="cannot be read"):
        CalibratedModel.load(tmp_path / "missing", denoise)


def test_the_file_is_a_record_in_json_beside_the_evidence(calibrated: CalibratedModel, tmp_path: Path) -> None:
    from safetensors import safe_open

    calibrated.save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="np") as file:
        record = json.loads(file.metadata()["conffusion"])
        assert set(file.keys()) == {"losses", "features"}
    assert record["calibration"]["lambda_hat"] == calibrated.calibration.lambda_hat
    assert record["quantiles"] == [0.05, 0.95]


def test_a_bad_pair_is_named(tmp_path: Path) -> None:
    data = [*pairs(2), (np.zeros((1, 4, 4)), np.full((1, 4, 4), 7.0))]
    with pytest.raises(DataError, match="pair 2: the truth holds values outside"):
        CalibratedModel.calibrate(denoise, data, folder=tmp_path)
    assert not list(tmp_path.iterdir())
