"""Image files of any format, mode and orientation -> RGB pixels.

An image that is too large is refused by the size in its header, before any pixel is decoded.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from minigpt4.common.errors import BadSample, DataError
from minigpt4.common.files import open_regular

# The formats that are read, whatever a file's suffix says. (PIL would start other programs for some others.)
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Their suffixes. Of several files in one sample, the first in this order is used.
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "jpe", "jfif", "bmp", "tif", "tiff", "gif", "avif")
# Above this an image counts as a decompression bomb. Decoding a JPEG just below takes 0.6 GB; where PIL needs
# several copies of 4 bytes per pixel, for alpha and rotation, it takes up to 2 GB (a WebP): measured.
MAX_PIXELS = 100_000_000
# Larger files are not read.
MAX_FILE_BYTES = 100 * 2**20
# A picture is not shown more times as long as wide.
LONGEST_RATIO = 4
# How an image is turned upright, by its EXIF tag `Orientation`; 1 is upright.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# JPEG's markers (ITU-T T.81, table B.1).
_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all Huffman-coded
_SCAN, _EXIF = 0xDA, 0xE1
_SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {_EXIF}  # tables, comments, applications' data

# There are many reader processes already, and OpenCV's threads do not survive a fork.
cv2.setNumThreads(0)


def in_shape(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Pixels [H, W, 3] that were made square -> stretched along one side to the shape of the file.

    Args:
        pixels: uint8.
        size: (height, width) in the file; None, or no side, leaves the picture as it is.
    """
    if size is None or min(size) < 1:
        return pixels
    height, width = size
    high, wide = pixels.shape[:2]
    if height > width:
        high = min(round(wide * height / width), LONGEST_RATIO * wide)
    else:
        wide = min(round(high * width / height), LONGEST_RATIO * high)
    return cv2.resize(pixels, (wide, high), interpolation=cv2.INTER_CUBIC)


def decode_picture(data: bytes) -> np.ndarray:
    """The bytes of an image file -> its pixels [H, W, 3], uint8 RGB, upright by its EXIF data.

    The first frame is taken; transparent parts become white; of 16 bits the upper 8 are kept.

    Raises:
        BadSample: if it is not an image, is broken, truncated or too large, or has values of unknown range.
    """
    size = _plain_jpeg_size(data)
    if size is None:
        return _decode_any(data)
    _check_size(*size)
    # OpenCV uses libjpeg as PIL does: the same pixels, without PIL's four bytes per pixel in between.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return _decode_any(data) if pixels is None else pixels


def read_picture(path: str | Path) -> np.ndarray:
    """The path of an image file -> what `decode_picture` makes of it.

    Raises:
        BadSample: as `decode_picture`, and for a file of more than MAX_FILE_BYTES.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadSample("image too large")
    return decode_picture(data)


def open_picture(path: str | Path) -> Image.Image:
    """The path of an image file -> the image that `decode_picture` makes of it.

    Raises:
        DataError: where `read_picture` raises BadSample.
        OSError: if there is no such file.
    """
    try:
        return Image.fromarray(read_picture(path))
    except BadSample as bad:
        raise DataError(f"The image {path} cannot be read: {bad}.") from bad


def on_white(image: Image.Image) -> Image.Image:
    """An image of any mode -> RGB, its transparent parts on white. Raises BadSample."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # PIL would clip these at 255. The higher byte is what its decoder leaves of 16-bit colours.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadSample("image of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _check_size(width: int, height: int) -> None:
    # PIL has a limit of its own, and raises at twice that.
    if width * height > min(MAX_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)):
        raise BadSample("image too large")


def _decode_any(data: bytes) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        _check_size(*image.size)
        image.load()
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
        image = on_white(image)
        return np.array(image if turn is None else image.transpose(turn))
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("image too large") from error
    except Exception as error:
        # PIL's decoders raise many kinds of errors for data that is not an image, or only part of one.
        raise BadSample("broken image") from error


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a complete JPEG of the common kind; None for everything that PIL should decode.

    Common means grey or three colours of 8 bits, no EXIF or XMP data that may rotate it, and an end marker
    where it belongs. What can be saved of a truncated file, if anything, is left to PIL.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    size, place = None, len(_START)
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SCAN:
            return size
        if marker in _FRAMES and size is None:
            # Length of the segment (2 bytes), bits per value, height (2), width (2), colours.
            bits, colours = data[place + 4], data[place + 9]
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (place + 5, place + 7))
            if bits != 8 or colours not in (1, 3) or not width * height:
                return None
            size = width, height
        elif marker not in _SKIPPED:
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
