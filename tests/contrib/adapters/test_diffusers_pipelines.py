"""diffusers pipelines as restoration models: tiny real ones with random weights."""

from typing import Any

import numpy as np
import pytest

from conffusion import CalibratedModel
from conffusion.contrib.adapters import from_diffusers
from conffusion.errors import ConfigError, ShapeError
from tests.test_docs import blocks

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="needs diffusers: pip install diffusers")


@pytest.fixture(scope="module")
def enlarging(diffusers: Any) -> Any:
    """Latent super-resolution by 2, from 32 to 64 pixels."""
    import torch
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution import (
        LDMSuperResolutionPipeline,  # diffusers itself shows it only beside the transformers library
    )

    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    unet = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **blocks,
    )
    vqvae = diffusers.VQModel(
        latent_channels=3, num_vq_embeddings=16, vq_embed_dim=3,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks,
    )  # fmt: skip
    pipeline = LDMSuperResolutionPipeline(vqvae, unet, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def filling(diffusers: Any) -> Any:
    """A pipeline that notes what it was given, and paints noise where the mask is white."""
    import torch

    class FillingPipeline(diffusers.DiffusionPipeline):
        given: list[dict[str, Any]] = []

        def __call__(self, image, mask_image, generator, output_type, strength=1.0):
            self.given.append({"image": image, "mask": mask_image, "strength": strength})
            processor = diffusers.image_processor.VaeImageProcessor(do_resize=False, do_normalize=False)
            pixels = processor.preprocess(image)
            hole = torch.as_tensor(np.asarray(mask_image) > 0)
            noise = strength * torch.rand(pixels.shape, generator=generator)
            images = processor.postprocess(torch.where(hole, noise, pixels), output_type, do_denormalize=[False])
            return diffusers.ImagePipelineOutput(images=images)

    return FillingPipeline()


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_samples_are_those_of_the_pipeline(enlarging: Any) -> None:
    import torch
    from PIL import Image

    from conffusion.contrib.adapters.common import sample_seed

    small = image(3, 32, 32)
    samples = from_diffusers(enlarging, 3, num_inference_steps=2, eta=1.0)(small)
    assert samples.shape == (3, 3, 64, 64) and samples.dtype == np.float32
    assert samples.min() >= 0 and samples.max() <= 1 and not np.array_equal(samples[0], samples[1])
    picture = Image.fromarray(np.rint(small * 255).astype(np.uint8).transpose(1, 2, 0))
    torch.manual_seed(sample_seed(0, small, 1))
    generator = torch.Generator().manual_seed(sample_seed(0, small, 1))
    alone = enlarging(picture, num_inference_steps=2, eta=1.0, generator=generator, output_type="np").images[0]
    np.testing.assert_array_equal(samples[1], alone.transpose(2, 0, 1))


def test_the_same_image_always_gets_the_same_samples(enlarging: Any) -> None:
    model = from_diffusers(enlarging, 2, num_inference_steps=2, eta=1.0)
    np.testing.assert_array_equal(model(image(3, 32, 32)), model(image(3, 32, 32)))
    other = from_diffusers(enlarging, 2, seed=1, num_inference_steps=1)
    assert not np.array_equal(model(image(3, 32, 32)), other(image(3, 32, 32)))


def test_grey_images_are_shown_as_colour_and_averaged(enlarging: Any) -> None:
    model = from_diffusers(enlarging, 2, num_inference_steps=1)
    grey = image(32, 32)
    samples = model(grey)
    assert samples.shape == (2, 1, 64, 64)
    assert model(np.stack([grey] * 3)).shape == (2, 3, 64, 64)


def test_a_mask_and_options_reach_the_pipeline(filling: Any) -> None:
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 3:6] = 1
    model = from_diffusers(filling, 2, strength=0.5)
    samples = model(image(3, 8, 10), mask=mask)
    given = filling.given[-1]
    np.testing.assert_array_equal(np.asarray(given["mask"]), mask * 255)
    assert given["strength"] == 0.5 and given["image"].mode == "RGB"
    np.testing.assert_allclose(samples[0][:, mask == 0], image(3, 8, 10)[:, mask == 0], atol=0.5 / 255 + 1e-6)
    model(image(3, 8, 10), mask=mask, strength=0.25)
    assert filling.given[-1]["strength"] == 0.25


def test_a_calibrated_pipeline_controls_the_risk(filling: Any) -> None:
    def pairs(n_pairs: int, seed: int):
        generator = np.random.default_rng(seed)
        for _ in range(n_pairs):
            target = generator.random((3, 8, 8), dtype=np.float32)
            mask = np.zeros((8, 8), np.uint8)
            mask[2:6, 2:6] = 1
            yield target * (1 - mask), target, mask

    calibrated = CalibratedModel.calibrate(from_diffusers(filling, 8), pairs(20, 0), 0.3, 0.3)
    evaluation = calibrated.evaluate(pairs(40, 1))
    assert evaluation.measured.risk < 0.3 and "Risk controlled on these images" in evaluation.verdict


def test_snippet_of_the_page_on_python_runs(enlarging: Any) -> None:
    generator = np.random.default_rng(0)
    names = {"pipeline": enlarging, "pairs": [(generator.random((3, 32, 32)), np.full((3, 64, 64), 0.5))] * 40}
    (snippet,) = [block for block in blocks("docs/python.md") if "from_diffusers" in block]
    exec(snippet.replace("n_samples=20, num_inference_steps=50", "n_samples=2, num_inference_steps=1"), names)
    assert names["calibrated"].calibration.n == 40


def test_what_is_no_pipeline_is_refused(enlarging: Any) -> None:
    with pytest.raises(ConfigError, match="pipeline is a UNet2DModel: must be a diffusers.DiffusionPipeline"):
        from_diffusers(enlarging.unet, 4)
    with pytest.raises(ConfigError, match="n_samples = 1: must be at least 2"):
        from_diffusers(enlarging, 1)
    with pytest.raises(ShapeError, match=r"must be \(C, H, W\) with 1 or 3 channels"):
        from_diffusers(enlarging, 2)(image(4, 8, 8))
