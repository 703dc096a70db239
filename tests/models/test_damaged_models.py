"""Folders of language models that are damaged, incomplete, or of two models: one line that names the file."""

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt4.common.errors import UserError
from minigpt4.models.llm_loading import load_language_model
from minigpt4.weights.resolver import resolve_model

TINY = Path(__file__).parents[2] / "minigpt4" / "assets" / "tiny"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1677528\n"
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole language model, with a head of its own."""
    return Path(shutil.copytree(TINY / "llama", tmp_path / "llm"))


def load(folder: Path) -> Any:
    return load_language_model(
        resolve_model(str(folder), "model.llama_model"), precision="fp32", device=torch.device("cpu")
    )


def refused(folder: Path) -> str:
    """The line with which a folder is refused."""
    with pytest.raises(UserError) as error:
        load(folder)
    message = str(error.value)
    assert message.startswith("model.llama_model: ") and str(folder) in message
    assert "\n" not in message and len(message) < 600 and "weights_only" not in message
    return message


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_tensors(folder: Path, change: Callable[[dict], Any], *, pickled: bool = False) -> None:
    tensors = change(load_file(folder / WEIGHTS))
    if pickled:
        (folder / WEIGHTS).unlink()
        torch.save(tensors, folder / PICKLE)
    else:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def split(folder: Path) -> Path:
    """Two shards with their index, whose path is returned."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        part = {name: tensor for name, tensor in tensors.items() if shards[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return index


def test_whole_models_are_taken(folder) -> None:
    whole = load(folder).fingerprint
    split(folder)
    assert load(folder).fingerprint == whole
    assert load(TINY / "gemma").model.lm_head.weight.shape == (640, 128)  # tied: it is in no file


def test_pickled_weights_are_taken(folder) -> None:
    change_tensors(folder, dict, pickled=True)
    assert torch.equal(load(folder).model.state_dict()[Q_PROJ], load_file(TINY / "llama" / WEIGHTS)[Q_PROJ])


@pytest.mark.parametrize(
    "damage", [lambda _: POINTER, lambda b: b[: len(b) // 2], lambda _: b"", lambda b: b[1:]]
)
@pytest.mark.parametrize("file", [WEIGHTS, PICKLE, "config.json", "tokenizer.model", "tokenizer_config.json"])
def test_a_file_that_is_not_whole(folder, file, damage) -> None:
    if file == PICKLE:
        change_tensors(folder, dict, pickled=True)
    path = folder / file
    path.write_bytes(damage(path.read_bytes()))
    message = refused(folder)
    assert str(path) in message or (file == "tokenizer.model" and "tokenizer" in message)
    assert (path.read_bytes() == POINTER) == ("git-lfs" in message)


def test_pointers_of_files_that_are_not_read(folder) -> None:
    for name in ("pytorch_model.bin", "model.fp16.safetensors", "README.md"):
        (folder / name).write_bytes(POINTER)
    load(folder)


def test_a_shard_that_is_damaged_or_absent(folder) -> None:
    index = split(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    assert str(shard) in refused(folder)
    shard.write_bytes(POINTER)
    assert str(shard) in refused(folder)
    shard.unlink()
    assert shard.name in refused(folder)
    for damaged in ({"a": 5}, {"a": "../model-00001-of-00002.safetensors"}, {"a": [], "b": "x"}, ["x"]):
        index.write_text(json.dumps({"weight_map": damaged}))
        assert index.name in refused(folder)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (r"lm_head\.weight", "lm_head.weight"),
        (r".*\.layers\.1\..*", "model.layers.1.input_layernorm.weight"),
        (r"model\.norm\.weight", "model.norm.weight"),
        (r".*", "lm_head.weight"),
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_missing_tensors_are_never_random(folder, lost, named, pickled) -> None:
    change_tensors(
        folder,
        lambda tensors: {k: v for k, v in tensors.items() if not re.fullmatch(lost, k)},
        pickled=pickled,
    )
    assert f" lack parameters of LlamaForCausalLM: {named}" in refused(folder)


def test_tensors_of_another_wrapper(folder) -> None:
    change_tensors(folder, lambda tensors: {f"module.{k}": v for k, v in tensors.items()})
    assert "lm_head.weight, model.embed_tokens.weight" in refused(folder)


def test_an_index_that_lists_fewer(folder) -> None:
    index = split(folder)
    content = json.loads(index.read_text())
    shards = {name: shard for name, shard in content["weight_map"].items() if shard.startswith("model-00001")}
    index.write_text(json.dumps(content | {"weight_map": shards}))
    assert " lack parameters of LlamaForCausalLM: " in refused(folder)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"vocab_size": 641}, "[640, 128]"),
        ({"intermediate_size": 200}, "[128, 200]"),
        ({"num_hidden_layers": 2}, "only 2 of model.layers"),
        ({"num_hidden_layers": 5}, "model.layers.4."),
        ({"attention_bias": True}, "k_proj.bias"),
        ({"num_hidden_layers": 1 << 60}, "num_hidden_layers is"),
        ({"num_hidden_layers": 90_000}, "describes more than"),
        ({"num_labels": 10**9}, "num_labels is"),
        ({"vocab_size": 10**12}, "values"),
        ({"hidden_size": 1 << 40}, "values"),
        ({"hidden_size": -1}, "config"),
        ({"hidden_size": "128"}, "hidden_size"),
        ({"model_type": []}, "config"),
        ({"pad_token_id": 640}, "llm"),
    ],
)
def test_a_config_of_another_model(folder, values, found) -> None:
    edit(folder / "config.json", **values)
    assert found in refused(folder)


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "[" * 100_000, '{"a": ' * 3, "\x00", '{"a": NaN'])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_json_file_of_something_else(folder, file, content) -> None:
    (folder / file).write_text(content)
    assert str(folder / file) in refused(folder)


ODD = {
    "sparse": torch.Tensor.to_sparse,
    "meta": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "int8": lambda tensor: tensor.to(torch.int8),
    "expanded": lambda _: torch.zeros(1).expand(10**9, 10**9),
    "text": lambda _: "a tensor",
    "number": lambda _: 3,
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors(folder, kind) -> None:
    change_tensors(folder, lambda tensors: tensors | {Q_PROJ: ODD[kind](tensors[Q_PROJ])}, pickled=True)
    assert Q_PROJ in refused(folder)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_odd_dtypes_in_safetensors(folder, dtype) -> None:
    try:
        change_tensors(folder, lambda tensors: tensors | {Q_PROJ: tensors[Q_PROJ].to(dtype)})
    except KeyError:
        pytest.skip(f"this version of safetensors cannot write {dtype}")
    assert Q_PROJ in refused(folder)


def test_headers_that_lie(folder) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    entry = header[Q_PROJ]
    lies = [
        entry | {"shape": [1 << 50, 128]},
        entry | {"data_offsets": [0, 1 << 50]},
        entry | {"dtype": "F99"},
        5,
    ]
    for lie in lies:
        text = json.dumps(header | {Q_PROJ: lie}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
        assert str(path) in refused(folder)
    for length in (0, size - 1, 1 << 40, (1 << 64) - 1):
        path.write_bytes(length.to_bytes(8, "little") + whole[8:])
        assert str(path) in refused(folder)


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_anywhere(folder, seed) -> None:
    """A model or one line, whatever is in the files."""
    draw = random.Random(seed)
    path = draw.choice([path for path in sorted(folder.iterdir()) if path.name != "README.md"])
    content = bytearray(path.read_bytes())
    if draw.random() < 0.3:
        del content[draw.randrange(len(content)) :]
    for _ in range(draw.choice((1, 4, 30))):
        if content:
            content[draw.randrange(min(len(content), 4096))] = draw.randrange(256)
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        load(folder)


def test_an_adapter_names_no_other_model(folder) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "/other"}')
    assert "holds an adapter (adapter_config.json)" in refused(folder)


@pytest.mark.parametrize(("given", "kept"), [([10**30, -1, 2], [2]), (10**30, None), ("2", None), (2, 2)])
def test_ids_that_no_table_has_end_no_reply(folder, given, kept) -> None:
    edit(folder / "generation_config.json", eos_token_id=given)
    assert load(folder).model.generation_config.eos_token_id == kept
