"""The files of a language model: checked before anything is built, and loaded completely."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.models.language_model import TEXT_IDS
from minigpt4.models.pretrained import KEY, from_pretrained, loading, location
from minigpt4.models.stock_llm import loader_of
from minigpt4.weights.gguf_file import GgufFile, read_gguf
from minigpt4.weights.locations import MODEL_WEIGHTS, model_weights
from minigpt4.weights.resolver import read_tensors

# The files that transformers reads beside the weights; each is a mapping.
JSON_FILES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", *MODEL_WEIGHTS[1::2]),
)
SMALL_FILES = (".json", ".model", ".txt", ".jinja", ".tiktoken")
LARGEST_JSON = 1 << 28  # bytes; the largest tokenizers have a tenth of it
POINTER = b"version https://git-lfs"
# Numbers in a config that transformers makes lists of; no model has so many.
COUNTS = re.compile(r"layer|block|depth|head|expert|label|stage")
HIGHEST_COUNT = 100_000


def check_files(source: Path) -> None:
    """Check a language model's folder or `.gguf` file.

    Raises:
        ConfigError: naming the damaged file.
    """
    if not source.is_dir():
        _refuse_stub(source)
        with loading(source):
            _check_gguf(read_gguf(str(source)), source)
        return
    # With peft installed, transformers would load the model that an adapter names.
    if (source / "adapter_config.json").is_file():
        raise ConfigError(f"{KEY}: {source} holds an adapter (adapter_config.json): merge it into its model")
    # Weights in other formats, which are not read, may be pointers.
    small = (path for path in source.iterdir() if path.suffix in SMALL_FILES and path.is_file())
    for path in (*sorted(small), *_weights(source)):
        _refuse_stub(path)
    contents = {name: _read_json(source / name) for name in JSON_FILES if (source / name).is_file()}
    config = contents.get("config.json", {})
    refuse_counts(config, source / "config.json")
    for path in _weights(source):
        with loading(path):
            _check_tensors(path, packed="quantization_config" in config)


def load_whole(source: Path, config: PreTrainedConfig, arguments: Mapping[str, Any]) -> Any:
    """Load a model, all of whose weights must be in the files.

    Args:
        source: folder or `.gguf` file.
        config: that of the folder or file.
        arguments: further arguments of transformers' `from_pretrained`.

    Raises:
        ConfigError: naming what is missing from the files, or has another shape there.
    """
    kind, more = loader_of(config)
    arguments = {
        **location(source),
        **arguments,
        **more,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    generation = source / "generation_config.json"
    if generation.is_file():
        arguments["generation_config"] = _text_ids(generation)
    size = sum(path.stat().st_size for path in _weights(source))
    with _no_larger_than(size, source), _quiet():
        model, found = from_pretrained(kind.from_pretrained, arguments)
    _require_whole(found, model, source)
    return model


def _text_ids(path: Path) -> GenerationConfig:
    """The ids in a `generation_config.json`. The rest is not read: transformers may refuse it."""
    said = _read_json(path)
    return GenerationConfig(**{name: said.get(name) for name in TEXT_IDS})


def _weights(source: Path) -> list[Path]:
    """The files that hold the weights."""
    if not source.is_dir():
        return [source]
    return [source / name for name in model_weights(source, {path.name for path in source.iterdir()})]


def _refuse_stub(path: Path) -> None:
    """Raise ConfigError for a git-lfs pointer or an empty file."""
    with loading(path), path.open("rb") as file:
        start = file.read(len(POINTER))
    if start == POINTER:
        raise ConfigError(f"{KEY}: {path} is a pointer of git-lfs, not the file: run `git lfs pull`")
    if not start and path.suffix not in (".txt", ".jinja"):
        raise ConfigError(f"{KEY}: {path} is empty")


def _read_json(path: Path) -> dict[str, Any]:
    with loading(path):
        if path.stat().st_size > LARGEST_JSON:
            raise ConfigError(f"{KEY}: {path} has {path.stat().st_size:,} bytes, too many for such a file")
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConfigError(f"{KEY}: {path} holds a {type(content).__name__}, it must be a mapping")
    return content


def refuse_counts(config: Any, path: Path) -> None:
    """Raise ConfigError if a config has more layers, heads or labels than any model.

    transformers makes lists of them before they can be compared with the weights.
    """
    entries = (
        config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    )
    for name, value in entries:
        if isinstance(value, int) and abs(value) > HIGHEST_COUNT and COUNTS.search(str(name)):
            raise ConfigError(f"{KEY}: {path} is damaged: {name} is {value}")
        refuse_counts(value, path)


def _check_tensors(path: Path, packed: bool) -> None:
    """Raise CheckpointError unless a file of weights is complete and only contains tensors.

    Args:
        path: the file; it is only mapped.
        packed: whether the config has quantised weights.
    """
    for name, tensor in read_tensors(path, mapped=True).items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: {name!r} is not the name of a tensor")
        if not torch.is_tensor(tensor):
            raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}, it must be a tensor")
        if name.endswith(".weight") and not (packed or tensor.is_floating_point()):
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype}, but the config has no `quantization_config`"
            )


def _check_gguf(file: GgufFile, source: Path) -> None:
    """Raise ConfigError for a split file, and if metadata and tensors do not match.

    transformers would ignore layers beyond those of the metadata.
    """
    values = {key: field.value() for key, field in file.fields.items()}
    refuse_counts({key: value for key, value in values.items() if isinstance(value, int)}, source)
    if values.get("split.count", 1) != 1:
        raise ConfigError(
            f"{KEY}: {source} is one of {values['split.count']} parts: please join them with llama.cpp's "
            "`llama-gguf-split --merge`"
        )
    layers = values.get(f"{values.get('general.architecture')}.block_count")
    last = max((int(n[1]) for one in file.tensors if (n := re.match(r"blk\.(\d+)\.", one.name))), default=-1)
    if isinstance(layers, int) and last >= layers:
        raise ConfigError(f"{KEY}: {source} is damaged: it counts {layers} layers, but has a layer {last}")


@contextmanager
def _no_larger_than(size: int, source: Path) -> Iterator[None]:
    """Refuse to build a model with far more values or modules than `size` bytes of files can contain.

    It is built on the meta device, but tensors missing from the files would be allocated then.
    """
    most = {"values": 8 * size + 50_000_000, "modules": min(2_000 + size // 256, 200_000)}
    built = dict.fromkeys(most, 0)

    def count(what: str, number: int) -> None:
        built[what] += number
        if built[what] > most[what]:
            raise ConfigError(
                f"{KEY}: the config of {source} describes more than {most[what]:,} {what}, and its weights "
                f"have {size:,} bytes: they are not from the same model"
            )

    def count_values(_module: nn.Module, _name: str, tensor: Any) -> None:
        count("values", tensor.numel() if tensor is not None and tensor.is_meta else 0)

    handles = [
        hooks.register_module_parameter_registration_hook(count_values),
        hooks.register_module_buffer_registration_hook(count_values),
        hooks.register_module_module_registration_hook(lambda *_: count("modules", 1)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of mismatched tensors: our error is one line."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _require_whole(found: Mapping[str, Any], model: nn.Module, source: Path) -> None:
    """Raise ConfigError unless all parameters were in the files, and all layers of the files in the model."""
    for name, there, here in sorted(found["mismatched_keys"]):
        raise ConfigError(
            f"{KEY}: {name} is {list(there)} in the weights of {source}, and {list(here)} by its config: "
            "they are not from the same model"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ConfigError(
            f"{KEY}: the weights of {source} lack parameters of {type(model).__name__}: {names}"
        )
    lists = {name: len(part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
    for name in sorted(found["unexpected_keys"]):
        for number in re.finditer(r"\.(\d+)\.", name):
            layers = lists.get(name[: number.start()])
            if layers is not None and int(number[1]) >= layers:
                raise ConfigError(
                    f"{KEY}: the weights of {source} have {name}, but by its config there are only {layers} "
                    f"of {name[: number.start()]}: they are not from the same model"
                )
