"""Processors against the original's, the fast square resize of batches against PIL's, and what they take."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.common.errors import BadSample
from minigpt4.common.registry import registry
from minigpt4.processors.blip_processors import (
    CLIP_MEAN,
    CLIP_STD,
    Blip2ImageEvalProcessor,
    BlipCaptionProcessor,
    normalize,
)
from minigpt4.processors.pictures import decode_picture
from tests.support import GOLDEN
from tests.support.shards import encoded, picture


def noise(height: int, width: int, coarse: int = 1) -> np.ndarray:
    """Independent pixels, the hardest there is; or fields of that many pixels with soft edges."""
    rng = np.random.default_rng([height, width])
    small = rng.integers(0, 256, (-(-height // coarse), -(-width // coarse), 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def by_pil(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


SHAPES = [(512, 512, 1), (512, 512, 8), (480, 640, 8), (1500, 1000, 8), (256, 256, 1), (225, 223, 1)]
# (Above 100 times as high as wide, today's PIL resizes the height first; the original's did not, nor do we.)
ODD_SHAPES = [(56, 300, 1), (1, 1, 1), (2, 3, 1), (1, 400, 1), (400, 4, 1)]


@pytest.mark.parametrize("size", [56, 224, 448])
@pytest.mark.parametrize(("height", "width", "coarse"), [*SHAPES, *ODD_SHAPES])
def test_pixels_of_a_batch_lie_beside_pils(height, width, coarse, size) -> None:
    """At most 2 of 255 beside, and one in forty by 1 (measured: 2 and 0.008 on most)."""
    pixels = noise(height, width, coarse)
    batch = Blip2ImageEvalProcessor(size).to_batch(pixels)
    assert batch.dtype == torch.uint8 and batch.shape == (3, size, size) and batch.is_contiguous()
    difference = np.abs(batch.permute(1, 2, 0).numpy().astype(int) - by_pil(pixels, size))
    assert difference.max() <= 2 and difference.mean() <= 0.025


def test_black_and_white_edges_do_not_wrap_around() -> None:
    """Bicubic weights are negative beside an edge: what overshoots is cut off, at 0 and at 255."""
    board = np.kron(np.indices((32, 32)).sum(axis=0) % 2, np.ones((16, 16)))[..., None].repeat(3, -1)
    pixels = (board * 255).astype(np.uint8)
    batch = Blip2ImageEvalProcessor(224).to_batch(pixels).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(batch - by_pil(pixels, 224)).max() <= 2


@pytest.mark.parametrize("own", [{}, {"mean": [0.5, 0.4, 0.3]}])
def test_a_picture_of_the_right_size_is_left_alone(own) -> None:
    pixels = noise(24, 24)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    processor = Blip2ImageEvalProcessor(24, **own)
    normalized = normalize(planes, own.get("mean", CLIP_MEAN), CLIP_STD)
    torch.testing.assert_close(processor(pixels), normalized)
    torch.testing.assert_close(processor.to_batch(pixels), normalized if own else planes, rtol=0, atol=0)


def test_called_directly_it_is_pils_to_the_bit() -> None:
    processor, pixels = Blip2ImageEvalProcessor(56), noise(100, 130)
    planes = torch.from_numpy(by_pil(pixels, 56).copy()).permute(2, 0, 1)
    expected = normalize(planes, CLIP_MEAN, CLIP_STD)
    for given in (pixels, Image.fromarray(pixels)):
        torch.testing.assert_close(processor(given), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_a_picture_in_memory_is_what_its_file_is(mode) -> None:
    image = Image.fromarray(noise(20, 30))
    image = Image.fromarray(np.asarray(image.convert("L")) * np.uint16(257)) if mode == "I;16" else image
    image = image if image.mode == mode else image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(noise(20, 30)[..., 1]))
    file = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    for processor in (Blip2ImageEvalProcessor(16), Blip2ImageEvalProcessor(16).to_batch):
        torch.testing.assert_close(processor(image), processor(decode_picture(file)), rtol=0, atol=0)


def test_values_of_unknown_range_are_refused() -> None:
    with pytest.raises(BadSample, match="unknown range"):
        Blip2ImageEvalProcessor(16).to_batch(Image.new("F", (20, 20)))


@pytest.mark.parametrize("name", ["train", "eval"])
def test_image_processors_are_the_originals(name) -> None:
    golden = torch.load(GOLDEN / "image_processor.pt", weights_only=True)
    image = Image.fromarray(golden["pixels"].numpy())
    processor = registry.get_processor_class(f"blip2_image_{name}").from_config({"image_size": 56})
    torch.testing.assert_close(processor(image), golden[name], rtol=0, atol=1e-6)


def test_caption_processor_is_the_originals(reference) -> None:
    processor = BlipCaptionProcessor()
    assert [processor(text) for text in reference["captions_in"]] == reference["captions_out"]


def test_prompt_and_number_of_words_of_a_caption() -> None:
    assert (
        BlipCaptionProcessor(prompt="a picture of ", max_words=2)("A Red, big car") == "a picture of a red,"
    )


def test_uint8_normalised_by_the_model_is_the_float_path(golden_model) -> None:
    processor = registry.get_processor_class("blip2_image_train").from_config({"image_size": 56})
    image = picture(size=56)  # nothing to resize
    batch = processor.to_batch(image)
    assert batch.dtype == torch.uint8 and batch.shape == (3, 56, 56)
    torch.testing.assert_close(
        golden_model.vision.normalized(batch[None])[0], processor(image), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("given", [{"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}, {"mean": [0, 0, 0]}])
def test_mean_and_std_of_the_yaml_are_honoured(golden_model, given) -> None:
    processor = registry.get_processor_class("blip2_image_eval").from_config({"image_size": 56, **given})
    batch = processor.to_batch(picture(size=56))
    pixels = torch.from_numpy(np.asarray(picture(size=56)).copy()).permute(2, 0, 1)
    std = given.get("std", CLIP_STD)
    torch.testing.assert_close(batch, normalize(pixels, given["mean"], std), rtol=0, atol=1e-6)
    assert batch.dtype == torch.float32
    # The model takes floats as they are.
    torch.testing.assert_close(golden_model.vision.normalized(batch[None])[0], batch, rtol=0, atol=0)
