"""The model card of a package: what it does, what it promises, on which images, and what it does not promise."""

from conffusion.inference.package import Package


def model_card(package: Package) -> str:
    """Markdown for people, from the facts in the package alone."""
    record, promise = package.record, package.calibration
    smallest, largest = record.calibrated_on.smallest, record.calibrated_on.largest
    sizes = _size(smallest) if smallest == largest else f"{_size(smallest)} to {_size(largest)}"
    facts = [
        ("Task", f"{package.task.label} ({_settings(record.degradation)})"),
        ("Method", f"{package.method.label}, protocol `{record.protocol}`"),
        ("Network", f"knows images of {record.image_size}x{record.image_size} pixels; larger ones are tiled"),
        ("Calibrated on", f"{record.calibrated_on.description}; {sizes} pixels"),
        ("Units behind the promise", f"{promise.n} ({promise.unit}s), {promise.n_images} images"),
        ("Risk on them", f"{promise.risk:.4f}, upper bound {promise.risk_ucb:.4f} by `{promise.ucb}`"),
        ("Scale", f"lambda_hat = {promise.lambda_hat:.6g}, set family `{promise.scaling}`"),
        ("Weights", f"SHA-256 `{package.weights_sha256}`"),
        ("Made by", f"conffusion {record.version}"),
        *((str(key).replace("_", " ").capitalize(), str(value)) for key, value in record.provenance.items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return f"""# {record.name}

{promise_in_words(package)}

| | |
| --- | --- |
{table}

## What this does not say

- Nothing about a single pixel or a single image: the share is a mean over pixels and images.
- Nothing about images unlike those that calibrated it: other cameras, subjects, degradations or sizes. `conffusion
  predict` tests each folder for such a drift and warns, but a test that finds nothing proves nothing.
- For your own images, calibrate on pairs of your own: `conffusion calibrate`.
"""


def promise_in_words(package: Package) -> str:
    """The promise as one sentence; says so where there is none."""
    promise = package.calibration
    if package.record.protocol != "guaranteed":
        return (
            f"No guarantee: the protocol `{package.record.protocol}` counts dependent values as independent samples. "
            f"It aims at {promise.alpha:.0%} of pixel values outside their intervals."
        )
    whole = "images" if promise.unit == "image" else "groups of images"
    return (
        f"With probability {1 - promise.delta:.0%} over the draw of the {promise.n} calibration {whole}, on average at "
        f"most {promise.alpha:.0%} of the true pixel values of new images like them lie outside their intervals."
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _settings(degradation: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in degradation.items()) or "no settings"
