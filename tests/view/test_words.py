from conffusion.view.gallery import Side
from conffusion.view.words import is_promised, promise


def side(**changes: object) -> Side:
    values = {"label": "N-Conffusion", "protocol": "guaranteed", "alpha": 0.1, "delta": 0.05, "lambda_hat": 1.02,
              "unit": "image", "n": 200, "n_images": 200, "estimate": "midpoint"}  # fmt: skip
    return Side(**{**values, **changes})  # type: ignore[arg-type]


def test_promise_names_levels_unit_and_number() -> None:
    text = promise(side())
    assert "at least 95 % over the draw of the calibration images" in text
    assert "at most 10 % of the true pixel values of new images" in text
    assert "n = 200 images, protocol guaranteed" in text


def test_groups_are_the_unit_where_they_were_counted() -> None:
    text = promise(side(unit="group", n=60, n_images=1300))
    assert "on average over groups" in text and "n = 60 groups from 1,300 images" in text


def test_counted_pixels_promise_nothing() -> None:
    for one in (side(protocol="paper", unit="pixel", n=614400), side(protocol="mine", unit="pixel", n=614400)):
        assert not is_promised(one) and promise(one).startswith("Nothing is promised") and "614,400" in promise(one)
