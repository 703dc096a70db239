"""YAML from files and command lines: its values, and their original text."""

import io
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from minigpt4.common.errors import ConfigError
from minigpt4.common.files import expanded, nearest_path

# Aliases (`*name`) can expand a few lines to billions of values.
MAX_VALUES = 100_000
MAX_BYTES = 10**7

# Path of a key (`run.job_name`) -> its value as it stands in the YAML without quotes, e.g. `1e3`; of a list,
# its items.
Written = dict[str, str | list[str]]


def read_yaml(path: str | Path) -> tuple[DictConfig | ListConfig, Written]:
    """Read one YAML file.

    Returns:
        Its content, and the original text of values: YAML reads `on` as True, and `1e3` or `0x10` as numbers.

    Raises:
        ConfigError: if it does not exist, is not YAML, or is too large.
    """
    path = Path(expanded(str(path))).absolute()
    if not path.is_file():
        raise ConfigError(f"no config file {path}{nearest_path(path)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES // 10**6} MB, too large for a config file")
        text = path.read_text(encoding="utf-8-sig")
        written = as_written(text)
        return OmegaConf.load(io.StringIO(_without_repeats(text))), written
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        # ValueError: not UTF-8, or an invalid date. OSError: raised by OmegaConf for a single number.
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error


def as_written(text: str) -> Written:
    """The original text of the unquoted values of a YAML.

    Raises:
        YAMLError: if it is not YAML, or its aliases expand to too many values.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    written: Written = {}
    if root is not None:
        _count(root, {})
        _collect(root, (), written)
    return written


def _without_repeats(text: str) -> str:
    """YAML in which no key gets the same value twice, as in MiniGPT4-video's files. Another is an error."""
    root = yaml.compose(text, yaml.SafeLoader)
    return yaml.serialize(root) if root is not None and _drop_repeats(root) else text


def _drop_repeats(node: Node) -> bool:
    """Whether there were any."""
    found, said, kept = False, {}, []
    for key, value in node.value if isinstance(node, MappingNode) else ():
        if isinstance(key, ScalarNode) and isinstance(value, ScalarNode):
            written = (value.tag, value.value)
            if said.setdefault(key.value, written) is not written and said[key.value] == written:
                found = True
                continue
        kept.append((key, value))
    if found:
        node.value = kept
    return any([found, *(_drop_repeats(inner) for _, inner in _items(node))])


def _count(node: Node, known: dict[int, int]) -> int:
    """The number of values of a node, with aliases expanded."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES  # of a node within itself
        known[id(node)] = 1 + sum(_count(inner, known) for _, inner in _items(node))
        if known[id(node)] > MAX_VALUES:
            raise YAMLError(f"its aliases expand to more than {MAX_VALUES:,} values")
    return known[id(node)]


def _items(node: Node) -> list[tuple[Hashable, Node]]:
    if isinstance(node, MappingNode):
        return [(key.value if isinstance(key, ScalarNode) else None, value) for key, value in node.value]
    return list(enumerate(node.value)) if isinstance(node, SequenceNode) else []


def _collect(node: Node, path: tuple[str, ...], written: Written) -> None:
    for key, inner in _items(node):
        place = (*path, str(key))
        if _is_plain(inner):
            written[".".join(place)] = inner.value
        elif isinstance(inner, SequenceNode) and all(isinstance(item, ScalarNode) for item in inner.value):
            written[".".join(place)] = [item.value for item in inner.value]
        else:
            _collect(inner, place, written)


def _is_plain(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style is None


def written_value(text: str) -> tuple[Any, str | list[str] | None]:
    """What follows `key=` on a command line: its value, and how that was written if not in quotes.

    A number, True, False, null, a quoted text, and a list or mapping in brackets are what they are in YAML.
    Anything else is the text as it stands: YAML would take `###` for a comment.
    """
    start = text.strip()[:1]
    try:
        written = as_written(f"value: {text}").get("value")
        content: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError):
        return text, None
    value = content["value"]
    is_null = value is None and text.strip().lower() in ("", "~", "null")
    if is_null or isinstance(value, bool | int | float):
        return value, written
    quotes = {str: "'\"", list: "[", dict: "{"}.get(type(value), "")
    return (value, written) if start and start in quotes else (text, None)
