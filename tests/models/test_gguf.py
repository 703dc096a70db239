"""A language model in a .gguf file gives what the same weights give in a folder."""

import contextlib
import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, get_tensor_name_map, quantize
from transformers import modeling_gguf_pytorch_utils

from minigpt4.common.errors import ConfigError
from minigpt4.models.llm_loading import load_language_model
from minigpt4.weights.gguf_file import GgufFile, parsed, reading_once
from tests.support.gguf import write_gguf
from tests.support.golden import build_golden_model
from tests.support.prompts import prompt_ids


def test_the_recorded_loss_from_a_gguf_file(tmp_path, golden_io) -> None:
    model = build_golden_model(llama_model=str(write_gguf(tmp_path / "tiny.gguf"))).eval()
    with torch.no_grad():
        loss = model({"image": golden_io["image"], "answer": golden_io["captions"]})["loss"]
    torch.testing.assert_close(loss, golden_io["loss_stage1"], rtol=0, atol=1e-4)
    assert prompt_ids(model.prompts, "a dog") == [1, 354, 356, 282, 351]
    assert 2 in model.stop_ids  # transformers 5.4 takes BOS for another end in such files
    assert {p.dtype for p in model.llama_model.parameters()} == {torch.float32}


def test_a_file_that_is_no_gguf(tmp_path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=r"^model\.llama_model: could not load .*"):
        build_golden_model(llama_model=str(tmp_path / "x.gguf"))


def test_the_metadata_and_tensors_of_the_library_itself(tmp_path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    ours, theirs = GgufFile(path), GGUFReader(path)
    said = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {key: field.value() for key, field in ours.fields.items()} == said
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert one.tensor_type == other.tensor_type
        np.testing.assert_array_equal(one.data, other.data, strict=True)


def test_values_are_those_that_transformers_parses(tmp_path) -> None:
    """Its own function takes seconds for a vocabulary, so it is replaced while a file is read."""
    theirs = modeling_gguf_pytorch_utils._gguf_parse_value
    for name, field in GgufFile(write_gguf(tmp_path / "tiny.gguf")).fields.items():
        values, ours = ([read(part, field.types) for part in field.parts] for read in (theirs, parsed))
        assert ours == values and [*map(type, ours)] == [*map(type, values)], name
    with reading_once():
        assert modeling_gguf_pytorch_utils._gguf_parse_value is parsed
    assert modeling_gguf_pytorch_utils._gguf_parse_value is theirs


def test_packed_tensors(tmp_path) -> None:
    """Dequantised as by the library, whose shapes of packed rows are its own."""
    values = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)
    writer = GGUFWriter(tmp_path / "packed.gguf", "llama")
    for kind in ("Q8_0", "Q4_1", "Q5_0", "BF16", "F16"):
        kind = GGMLQuantizationType[kind]
        packed = quantize(values, kind)
        writer.add_tensor(kind.name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = {one.name: dequantize(one.data, one.tensor_type) for one in GgufFile(writer.path).tensors}
    for other in GGUFReader(writer.path).tensors:
        np.testing.assert_array_equal(ours[other.name], dequantize(other.data, other.tensor_type))
        assert ours[other.name].shape == values.shape


def test_a_file_is_read_once(tmp_path, monkeypatch) -> None:
    path, opened = write_gguf(tmp_path / "tiny.gguf"), []
    read = GgufFile.__init__
    monkeypatch.setattr(GgufFile, "__init__", lambda self, path: (opened.append(path), read(self, path))[1])
    load_language_model(path, backbone="plain", device=torch.device("cpu"))
    assert opened == [str(path)]
    assert gguf.GGUFReader is GGUFReader and gguf.get_tensor_name_map is get_tensor_name_map


LIES = {
    "a cut in the metadata": lambda b: b[:1000],
    "a cut in the tensors": lambda b: b[:-100],
    "another version": lambda b: b[:4] + struct.pack("<I", 9) + b[8:],
    "2**60 tensors": lambda b: b[:8] + struct.pack("<Q", 1 << 60) + b[16:],
    "a million tensors": lambda b: b[:8] + struct.pack("<Q", 10**6) + b[16:],
    "2**60 values": lambda b: b[:16] + struct.pack("<Q", 1 << 60) + b[24:],
    "fewer values": lambda b: b[:16] + struct.pack("<Q", 3) + b[24:],
    "a key of 2**63 bytes": lambda b: b[:24] + struct.pack("<Q", 1 << 63) + b[32:],
    "2**60 layers": lambda b: set_number(b, b"llama.block_count", 1 << 31),
    "fewer layers": lambda b: set_number(b, b"llama.block_count", 1),
    "more layers": lambda b: set_number(b, b"llama.block_count", 50),
    "a wider model": lambda b: set_number(b, b"llama.embedding_length", 1 << 31),
    "no heads": lambda b: set_number(b, b"llama.attention.head_count", 0),
    "a larger vocabulary": lambda b: set_number(b, b"llama.vocab_size", 1 << 31),
    "another architecture": lambda b: b.replace(b"llama", b"lamma"),
    "an unknown type": lambda b: change_entry(b, -12, struct.pack("<I", 777)),
    "a tensor beyond the end": lambda b: change_entry(b, -8, struct.pack("<Q", 1 << 50)),
    "a tensor of 2**100 values": lambda b: change_entry(b, -28, struct.pack("<QQ", 1 << 50, 1 << 50)),
    "no embeddings": lambda b: b.replace(b"token_embd.weight", b"token_embd.wxight"),
    "empty": lambda _: b"",
    "a pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
}


def set_number(content: bytes, key: bytes, number: int) -> bytes:
    """With another value of a 32-bit number."""
    place = content.index(key) + len(key) + 4
    return content[:place] + struct.pack("<I", number) + content[place + 4 :]


def change_entry(content: bytes, before: int, value: bytes) -> bytes:
    """With another field of the entry of the embeddings, counted from the end of the entry."""
    place = content.index(b"token_embd.weight") + 17 + 4 + 16 + 12 + before
    return content[:place] + value + content[place + len(value) :]


def refused(path: Path) -> str:
    with pytest.raises(ConfigError, match=r"^model\.llama_model: ") as error:
        load_language_model(path, backbone="plain", device=torch.device("cpu"))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies(tmp_path, lie) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(LIES[lie](path.read_bytes()))
    refused(path)


def test_an_end_beyond_the_vocabulary_ends_no_reply(tmp_path) -> None:
    """Newer versions of transformers do not load such a file at all."""
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(set_number(path.read_bytes(), b"tokenizer.ggml.eos_token_id", 1 << 31))
    try:
        language = load_language_model(path, backbone="plain", device=torch.device("cpu"))
    except ConfigError:
        refused(path)
    else:
        assert language.model.generation_config.eos_token_id is None


@pytest.mark.parametrize("seed", range(25))
def test_bytes_changed_anywhere(tmp_path, seed) -> None:
    """A model or one line, whatever is in the file."""
    draw, path = random.Random(seed), write_gguf(tmp_path / "tiny.gguf")
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3, 20))):
        content[draw.randrange(min(len(content), draw.choice((64, 2048, 30_000))))] = draw.randrange(256)
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        load_language_model(path, backbone="plain", device=torch.device("cpu"))


def test_one_part_of_several(tmp_path) -> None:
    writer = GGUFWriter(tmp_path / "x-00001-of-00003.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "one of 3 parts" in refused(tmp_path / "x-00001-of-00003.gguf")
