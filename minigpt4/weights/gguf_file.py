"""Reads GGUF, llama.cpp's model files, and checks all counts, lengths and offsets against the file size.

The layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape

from minigpt4.common.errors import CheckpointError

VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
# kind of value -> its code in `struct`
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# The largest vocabularies have a million words.
MOST_ITEMS = 1 << 24
MOST_DIMENSIONS = 4
# Other types are packed and are returned as bytes.
PLAIN = {
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.F64: np.float64,
    GGMLQuantizationType.I8: np.int8,
    GGMLQuantizationType.I16: np.int16,
    GGMLQuantizationType.I32: np.int32,
    GGMLQuantizationType.I64: np.int64,
}


class Field(NamedTuple):
    """A metadata value, like `gguf.ReaderField`: `data` indexes the parts of the value."""

    parts: list[Any]
    data: range
    types: list[int]

    def value(self) -> Any:
        """A number, a text, or a list of them."""
        values = [parsed(part, self.types) for part in self.parts]
        return values if self.types[0] == ARRAY else values[0]


def parsed(part: Any, _types: list[int]) -> Any:
    """One of `Field.parts` as a number or a text, as transformers' `_gguf_parse_value` does slowly."""
    return part.decode() if isinstance(part, bytes) else part[0]


class Tensor(NamedTuple):
    """A memory-mapped tensor, like `gguf.ReaderTensor`."""

    name: str
    tensor_type: GGMLQuantizationType
    data: np.ndarray


class GgufFile:
    """Metadata and tensors; replaces `gguf.GGUFReader`, which is 40 times slower.

    Args:
        path: the file; its tensors are memory-mapped.

    Attributes:
        fields: metadata by its keys.
        tensors: in the file's order.

    Raises:
        CheckpointError: if it is not GGUF, is truncated, or is inconsistent.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.size = self.path.stat().st_size
        if not self.size:
            raise CheckpointError(f"{path} is empty")
        self.bytes = np.memmap(path, mode="r", dtype=np.uint8)
        self._view, self._place = self.bytes.data, 0
        if self._take(4) != b"GGUF":
            raise CheckpointError(f"{path} is not a GGUF file")
        (version,) = self._numbers("I", 1)
        if version not in VERSIONS:
            raise CheckpointError(
                f"{path} has version {version} of GGUF, not {' or '.join(map(str, VERSIONS))}"
            )
        tensors, fields = self._count(), self._count()
        self.fields = {}
        for _ in range(fields):
            key = self._take(self._length()).decode()
            if key in self.fields:
                raise CheckpointError(f"{path} is damaged: it has {key!r} twice")
            self.fields[key] = self._field()
        entries = [self._entry() for _ in range(tensors)]
        self.tensors = self._tensors(entries)

    def _take(self, length: int) -> bytes:
        """The next bytes."""
        start, self._place = self._place, self._place + length
        if self._place > self.size:
            raise CheckpointError(f"{self.path} is damaged: {length:,} more bytes are missing")
        return bytes(self._view[start : self._place])

    def _numbers(self, code: str, count: int) -> tuple:
        layout = f"<{count}{code}"
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _length(self) -> int:
        return self._numbers("Q", 1)[0]

    def _count(self) -> int:
        count = self._length()
        if count > MOST_ITEMS:
            raise CheckpointError(f"{self.path} is damaged: it contains a list of {count:,}")
        return count

    def _field(self) -> Field:
        (kind,) = self._numbers("I", 1)
        types, count = [kind], 1
        if kind == ARRAY:
            (kind,) = self._numbers("I", 1)
            types, count = [ARRAY, kind], self._count()
        if kind == STRING:
            parts: list[Any] = [self._take(self._length()) for _ in range(count)]
        elif kind in SCALARS:
            parts = [(number,) for number in self._numbers(SCALARS[kind], count)]
        else:
            raise CheckpointError(f"{self.path} is damaged: it has a value of the unknown type {kind}")
        return Field(parts, range(count), types)

    def _entry(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        """Name, shape, type and place of a tensor."""
        name = self._take(self._length()).decode()
        (dimensions,) = self._numbers("I", 1)
        if dimensions > MOST_DIMENSIONS:
            raise CheckpointError(f"{self.path} is damaged: {name} has {dimensions:,} dimensions")
        shape = self._numbers("Q", dimensions)[::-1]
        (kind,) = self._numbers("I", 1)
        return name, shape, GGMLQuantizationType(kind), self._length()

    def _tensors(self, entries: list) -> list[Tensor]:
        alignment = self.fields["general.alignment"].value() if "general.alignment" in self.fields else 32
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self.path} is damaged: its alignment is {alignment!r}")
        first = -(-self._place // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in entries:
            values, size = GGML_QUANT_SIZES[kind]
            length, start = prod(shape) // values * size, first + offset
            if start + length > self.size:
                raise CheckpointError(
                    f"{self.path} is damaged: {name} {list(shape)} ends beyond it, at {start + length:,} of "
                    f"{self.size:,} bytes"
                )
            if name in tensors:
                raise CheckpointError(f"{self.path} is damaged: it has {name} twice")
            raw = self.bytes[start : start + length].view(np.ndarray)
            plain = kind in PLAIN
            data = raw.view(PLAIN[kind]) if plain else raw
            tensors[name] = Tensor(
                name, kind, data.reshape(shape if plain else quant_shape_to_byte_shape(shape, kind))
            )
        return list(tensors.values())


@lru_cache(maxsize=1)
def read_gguf(path: str) -> GgufFile:
    """The file that `reading_once` gives to transformers, cached."""
    return GgufFile(path)


@contextmanager
def reading_once() -> Iterator[None]:
    """Make transformers use `GgufFile`, once per file.

    By itself it creates a new reader for the config, the tokenizer and the weights, parses the vocabulary
    letter by letter each time, and makes a table of all tensor names for each module of the model.
    """
    from transformers import modeling_gguf_pytorch_utils as library

    ours = [(gguf, "GGUFReader", read_gguf), (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))]
    if hasattr(library, "_gguf_parse_value"):
        # It is called for every word of the vocabulary, whenever the file is read.
        ours.append((library, "_gguf_parse_value", parsed))
    usual = [(module, name, getattr(module, name)) for module, name, _ in ours]
    for module, name, value in ours:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in usual:
            setattr(module, name, value)
        read_gguf.cache_clear()
