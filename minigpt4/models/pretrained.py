"""Loading from a language model's folder or file with transformers, with one-line errors.

Code in a folder (`auto_map`) is never run, and transformers is kept from asking at the terminal.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpt4.common.errors import CheckpointError, ConfigError, reading

KEY = "model.llama_model"


def location(source: Path) -> dict[str, Any]:
    """A model's path as arguments of transformers' `from_pretrained`.

    Raises:
        ConfigError: if it is neither a folder nor a `.gguf` file.
    """
    # Explicit: otherwise transformers asks at the terminal.
    safe = {"trust_remote_code": False, "local_files_only": True}
    if source.is_dir():
        return {"pretrained_model_name_or_path": str(source), **safe}
    if source.suffix != ".gguf":
        raise ConfigError(f"{KEY}: {source} is neither a folder nor a .gguf file")
    return {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, **safe}


def from_pretrained(load: Callable, arguments: Mapping[str, Any], what: str = "{}") -> Any:
    """Call `load` on a model's files; see `loading`."""
    with loading(Path(arguments["pretrained_model_name_or_path"]) / arguments.get("gguf_file", ""), what):
        return load(**arguments)


@contextmanager
def loading(place: Path, what: str = "{}") -> Iterator[None]:
    """Turn any exception of a library into a one-line error.

    Args:
        place: the file, or the folder if the file is not known.
        what: is loaded from it; `{}` stands for the place.

    Raises:
        ConfigError: naming the place.
    """
    try:
        with reading(place, ConfigError, failed=f"{KEY}: could not load {what}"):
            yield
    except CheckpointError as error:
        raise ConfigError(f"{KEY}: could not load the model: {error}") from error
    except ConfigError as error:
        if "trust_remote_code" in str(error.__cause__):
            raise ConfigError(
                f"{KEY}: {place} needs its own code (`auto_map`), which is never run: please use a "
                "model of a family that transformers supports"
            ) from error
        raise
