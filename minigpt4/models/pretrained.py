"""Reading a language model's folder or file with transformers, and what goes wrong there as one line.

Nothing of a folder is run: code that it brings (`auto_map`) is refused, whoever is at the terminal.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError


def location(source: Path) -> dict[str, Any]:
    """Where a model lies, as the arguments of transformers' `from_pretrained`.

    Raises:
        ConfigError: if it is neither a folder nor a `.gguf` file.
    """
    # Said outright: left to itself, transformers asks at the terminal.
    safe = {"trust_remote_code": False, "local_files_only": True}
    if source.is_dir():
        return {"pretrained_model_name_or_path": str(source), **safe}
    if source.suffix != ".gguf":
        raise ConfigError(f"model.llama_model: {source} is neither a folder nor a .gguf file")
    return {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, **safe}


def from_pretrained(load: Callable, arguments: Mapping[str, Any]) -> Any:
    """What `load` makes of a model's files.

    Raises:
        ConfigError: if they cannot be read, naming the place.
    """
    try:
        return load(**arguments)
    except (OSError, ValueError, KeyError, ImportError, RecursionError) as error:
        place = arguments["pretrained_model_name_or_path"]
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"model.llama_model: {place} can only be read by code that it brings itself (`auto_map`), "
                "and that is never run: please take a model of a family that transformers knows"
            ) from error
        raise ConfigError(f"model.llama_model: could not load {place}: {error}") from error
