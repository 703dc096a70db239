"""Picture files of all kinds, each pixel against what the file was made to say."""

import io
import random
import re
import struct
import subprocess
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from minigpt4.common.errors import BadSample, DataError
from minigpt4.processors import pictures
from minigpt4.processors.pictures import decode_picture, in_shape, open_picture
from tests.support.shards import encoded

HEIGHT, WIDTH = 10, 14
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
INDEX = RNG.integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (HEIGHT, WIDTH, 4), dtype=np.uint16)
PALETTE = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30], [250, 240, 230]], np.uint8)
OPACITY = np.array([255, 0, 100, 255], np.uint8)


def smooth(height: int = 40, width: int = 56) -> Image.Image:
    """Blurred noise: a picture that JPEG is made for."""
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 2))


def three(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(float) / 255
    return np.round(colours * share + 255 * (1 - share)).astype(np.uint8)


def stacked(colours: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.concatenate([colours, alpha[..., None]], axis=-1))


def indexed(**options) -> bytes:
    image = Image.fromarray(INDEX).convert("P")
    image.putdata(INDEX.ravel().tolist())
    image.putpalette(PALETTE.tobytes())
    return encoded(image, "PNG", **options)


def deep_png(values: np.ndarray) -> bytes:
    """16 bits a value; OpenCV wants blue first."""
    order = [2, 1, 0, 3][: values.shape[-1]]
    return cv2.imencode(".png", values[..., order])[1].tobytes()


HIDDEN = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) < 1  # the first pixel is the transparent one
DEEP_GREY = DEEP[..., 0]
FILES = {
    "png": (encoded(Image.fromarray(RGB), "PNG"), RGB),
    "grey": (encoded(Image.fromarray(GREY), "PNG"), three(GREY)),
    "black and white": (
        encoded(Image.fromarray(GREY > 127), "PNG"),
        three(np.where(GREY > 127, 255, 0).astype(np.uint8)),
    ),
    "palette": (indexed(), PALETTE[INDEX]),
    "palette, one hidden": (indexed(transparency=1), on_white(PALETTE[INDEX], np.where(INDEX == 1, 0, 255))),
    "palette with alpha": (
        indexed(transparency=OPACITY.tobytes()),
        on_white(PALETTE[INDEX], OPACITY[INDEX]),
    ),
    "alpha": (encoded(stacked(RGB, ALPHA), "PNG"), on_white(RGB, ALPHA)),
    "grey with alpha": (
        encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
        on_white(three(GREY), ALPHA),
    ),
    "one colour hidden": (
        encoded(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[0, 0].tolist())),
        np.where(HIDDEN[..., None], 255, RGB),
    ),
    "16-bit grey": (encoded(Image.fromarray(DEEP_GREY), "PNG"), three(DEEP_GREY // 256)),
    "16-bit grey, one hidden": (
        encoded(Image.fromarray(DEEP_GREY), "PNG", transparency=int(DEEP_GREY[0, 0])),
        three(np.where(HIDDEN, 255, DEEP_GREY // 256)),
    ),
    "16-bit colours": (deep_png(DEEP[..., :3]), DEEP[..., :3] // 256),
    "16-bit alpha": (deep_png(DEEP), on_white(DEEP[..., :3] // 256, DEEP[..., 3] // 256)),
    "webp": (encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "webp with alpha": (
        encoded(stacked(RGB, ALPHA), "WEBP", lossless=True, exact=True),
        on_white(RGB, ALPHA),
    ),
    "16-bit tiff": (encoded(Image.fromarray(DEEP_GREY), "TIFF"), three(DEEP_GREY // 256)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_gives_its_pixels(name) -> None:
    data, expected = FILES[name]
    pixels = decode_picture(data)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["L", "RGB"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}]
)
def test_opencv_reads_common_jpegs_as_pil_does(kind, options, monkeypatch) -> None:
    data = encoded(smooth().convert(kind), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    monkeypatch.delattr(pictures, "_decode_any")  # PIL is not asked
    np.testing.assert_array_equal(decode_picture(data), expected)


def inks() -> np.ndarray:
    """Four flat fields of 16x16 pixels, side by side: cyan, magenta, yellow, black."""
    fields = np.array([[0, 0, 0, 0], [200, 30, 0, 40], [255, 0, 255, 0], [10, 20, 30, 128]], np.uint8)
    return np.repeat(np.repeat(fields[None], 16, axis=0), 16, axis=1)


def printed(ink: np.ndarray) -> np.ndarray:
    """What is left of white light behind cyan, magenta and yellow, and then behind black."""
    left = 1 - ink.astype(float) / 255
    return 255 * left[..., :3] * left[..., 3:]


def test_cmyk_as_adobe_inverts_it() -> None:
    data = encoded(Image.fromarray(inks(), "CMYK"), "JPEG", quality=100, subsampling=0)
    assert data[data.index(b"Adobe") + 11] == 0  # the marker is there, and says CMYK
    assert np.abs(decode_picture(data) - printed(inks())).max() <= 3


def test_ycck_as_adobe_inverts_it() -> None:
    """The same planes, said to be luma, two chromas (ITU-T T.871) and black."""
    data = bytearray(encoded(Image.fromarray(inks(), "CMYK"), "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    luma, blue, red, black = np.moveaxis(255.0 - inks(), -1, 0)
    blue, red = blue - 128, red - 128
    ink = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue, 255 - black]
    expected = printed(np.clip(np.stack(ink, axis=-1), 0, 255))
    assert np.abs(decode_picture(bytes(data)) - expected).max() <= 4


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),  # clockwise
    7: lambda stored: np.rot90(stored.transpose(1, 0, 2), 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(orientation, kind) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(RGB)
    if kind == "JPEG":  # lossy: what is stored is what a file without EXIF data holds
        stored = Image.fromarray(decode_picture(encoded(stored, kind)))
        data = encoded(Image.fromarray(RGB), kind, exif=exif)
    else:
        data = encoded(stored, kind, exif=exif, **options)
    np.testing.assert_array_equal(decode_picture(data), UPRIGHT[orientation](np.asarray(stored)))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"]
)
def test_broken_exif_data_costs_no_picture(exif) -> None:
    data = encoded(smooth(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = decode_picture(data[:2] + segment + data[2:])
    np.testing.assert_array_equal(pixels, decode_picture(data))


def huge_jpeg(side: int, **options) -> bytes:
    """A small JPEG whose header says otherwise."""
    data = bytearray(encoded(smooth(), "JPEG", **options))
    at = next(data.index(mark) for mark in (b"\xff\xc0\0", b"\xff\xc2\0") if mark in data)
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def huge_png(side: int) -> bytes:
    data = bytearray(encoded(smooth(), "PNG"))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def huge_gif(side: int) -> bytes:
    data = bytearray(encoded(smooth().convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


BOMBS = {
    "jpeg": huge_jpeg(20_000),
    "largest jpeg": huge_jpeg(65_535),
    "progressive jpeg": huge_jpeg(20_000, progressive=True),
    "jpeg with exif": huge_jpeg(20_000, exif=Image.Exif().tobytes()),
    "png": huge_png(20_000),
    "png of 10 gigapixels": huge_png(100_000),
    "gif": huge_gif(20_000),
    "just too large": huge_png(10_001),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(name, monkeypatch) -> None:
    def never(*_) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(BadSample, match="image too large"):
        decode_picture(BOMBS[name])


def test_a_webp_bomb_is_refused() -> None:
    """Its largest side is 16,383: a grey field of that size takes 90 KB."""
    data = bytearray(encoded(Image.fromarray(np.zeros((16, 16, 4), np.uint8)), "WEBP", lossless=True))
    assert data[12:16] == b"VP8L"
    data[21:25] = struct.pack("<I", 16_382 | 16_382 << 14 | 1 << 28)
    with pytest.raises(BadSample, match=r"image too large|broken image"):
        decode_picture(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG with EXIF", "CMYK", "PNG", "WEBP"])
def test_nothing_is_made_up_where_a_file_is_cut(kind) -> None:
    """Cut anywhere, a file is bad, unless all pixels are before the cut."""
    options = {"exif": Image.Exif()} if kind == "JPEG with EXIF" else {}
    image = smooth(16, 24).convert("CMYK" if kind == "CMYK" else "RGB")
    data = encoded(image, "JPEG" if kind == "CMYK" else kind.split()[0], **options)
    whole, good = decode_picture(data), 0
    for length in range(len(data)):
        try:
            pixels = decode_picture(data[:length])
        except BadSample:
            continue
        np.testing.assert_array_equal(pixels, whole)
        good += 1
    assert good <= 21  # PNG: the end mark, and the checksum before it


def test_random_damage_is_bad_or_a_picture_of_that_size(capfd) -> None:
    rng = random.Random(0)
    for data in (encoded(smooth(), "JPEG"), encoded(smooth(), "PNG"), encoded(smooth(), "WEBP")):
        for _ in range(200):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 2, 5))):
                damaged[rng.randrange(len(data))] = rng.randrange(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    pixels = decode_picture(bytes(damaged))
                except BadSample:
                    continue
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "broken image"),
        (b"\xff\xd8\xff\xd9", "broken image"),
        (b"\xff\xd8\xff\xc0\xff\xd9", "broken image"),
        (encoded(Image.fromarray(RGB), "EPS"), "broken image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "broken image"),
        (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "image of unknown range"),
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "image of unknown range"),
    ],
)
def test_what_is_no_picture_is_bad_and_starts_no_program(data, reason, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(BadSample, match=reason):
        decode_picture(data)


def test_open_picture_names_the_file_that_is_broken(tmp_path) -> None:
    path = tmp_path / "dog.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 2), "red"), "PNG"))
    assert (open_picture(path).mode, open_picture(str(path)).size) == ("RGB", (4, 2))
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} cannot be read: broken image"):
        open_picture(path)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (None, (20, 20)),
        ((0, 0), (20, 20)),
        ((7, 7), (20, 20)),
        ((100, 200), (20, 40)),
        ((300, 200), (30, 20)),
        ((1, 50), (20, 80)),  # no longer than four times
    ],
)
def test_a_squared_picture_gets_its_shape_back(size: tuple[int, int] | None, shape: tuple[int, int]) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, 10:] = 200
    shown = in_shape(pixels, size)
    assert shown.shape == (*shape, 3) and shown.dtype == np.uint8
    assert (shown[:, 0] == 0).all() and (shown[:, -1] == 200).all()
