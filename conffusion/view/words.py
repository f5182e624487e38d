"""What is promised, in words."""

from conffusion.view.gallery import Side


def promise(side: Side) -> str:
    """What the calibration of a method promises, or that it promises nothing: one or two sentences."""
    share, confidence = _percent(side.alpha), _percent(1 - side.delta)
    if not is_promised(side):
        return (
            f"Nothing is promised. Protocol {side.protocol} counts {side.n:,} pixel values as if they were"
            f" independent, and aims at {share} of true values outside their intervals; it stands here for comparison."
        )
    images = f" from {side.n_images:,} images" if side.unit != "image" else ""
    units = {"image": "images", "group": "groups"}[side.unit]
    return (
        f"With probability at least {confidence} over the draw of the calibration {units}, at most {share}"
        f" of the true pixel values of new {units} like them lie outside these intervals, on average over {units}."
        f" Calibrated on n = {side.n:,} {units}{images}, protocol {side.protocol}."
    )


def is_promised(side: Side) -> bool:
    """Whether the calibration keeps a promise: it counted images or groups, not pixels."""
    return side.unit in ("image", "group") and side.protocol != "paper"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
