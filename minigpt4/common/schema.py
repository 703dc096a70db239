"""A section of YAML as a typed dataclass.

A section is a keyword-only dataclass, one field per YAML key. Its type is checked, `key(...)` adds bounds and
the sentence that `docs/configuration.md` prints, and a field without a default must be set by the user.
"""

import contextlib
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.files import expanded
from minigpt4.common.registry import registry

S = TypeVar("S")


class NotText(ConfigError):
    """A key that holds text has another kind of value.

    Attributes:
        key: its path, e.g. `run.job_name`.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


# A variable that is not set, or an unknown user, after expansion.
_UNKNOWN = re.compile(r"\$\w+|\$\{\w+\}|^~\w*")
LARGEST = 2**63 - 1  # whole number that torch and numpy can hold
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "null"}


def key(
    default: Any = MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    names: str = "",
    path: bool = False,
    effect: bool = True,
) -> Any:
    """A dataclass field that is a YAML key.

    Args:
        default: its value where the YAML does not say; without one, the YAML must. Lists, mappings and
            sections of their own are copied for each instance.
        doc: what it means, for the table in docs/configuration.md.
        low, high: the smallest and the largest value, both allowed.
        choices: the only values, or the only items of a list.
        names: the kind of thing, as the registry calls it, of which the value is a name.
        path: the value is a path of this machine; `~` and `$NAME` in it are resolved.
        effect: False for a key that does not change what a run computes.
    """
    metadata = {
        **{"doc": doc, "low": low, "high": high, "choices": tuple(choices)},
        **{"names": names, "path": path, "effect": effect},
    }
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    if isinstance(default, type) and is_dataclass(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def parse(schema: type[S], section: Mapping | None, where: str, *, ignore: Collection[str] = ()) -> S:
    """Check a section of YAML against its dataclass.

    Args:
        schema: a keyword-only dataclass; a field that is a dataclass too is a section of its own.
        section: a dict or an OmegaConf node; None is an empty one.
        where: what messages call it, e.g. `model`.
        ignore: keys that somebody else reads.

    Returns:
        An instance of `schema`.

    Raises:
        ConfigError: naming the key, for one that is unknown, missing, of another type, or out of bounds.
    """
    values = read(schema, section, where, ignore=ignore)
    for one in fields(schema):  # type: ignore[arg-type]
        if one.name not in values:
            raise ConfigError(f"{where}.{one.name} is missing: please set it in the YAML")
    return schema(**values)


def read(
    schema: type, section: Mapping | None, where: str, *, ignore: Collection[str] = ()
) -> dict[str, Any]:
    """As `parse`, but nothing is missing: of what has no default, the mapping holds what is there."""
    given = {name: value for name, value in plain_section(section, where).items() if name not in ignore}
    types, known = get_type_hints(schema), {one.name: one for one in fields(schema)}
    for name in given:
        if name not in known:
            names = sorted({*known, *ignore})
            raise ConfigError(f"unknown key {where}.{name}{nearest(name, names)} (known: {', '.join(names)})")
    values = {}
    for name, one in known.items():
        inner: Any = types[name]
        if is_dataclass(inner):
            values[name] = parse(inner, given.get(name), f"{where}.{name}")  # type: ignore[arg-type]
        elif name in given:
            value = _convert(given[name], inner, f"{where}.{name}")
            _check_value(value, one.metadata, f"{where}.{name}")
            values[name] = _path(value, f"{where}.{name}") if one.metadata.get("path") and value else value
        elif one.default_factory is not MISSING:
            values[name] = one.default_factory()
        elif one.default is not MISSING:
            values[name] = one.default
    return values


def without_effect(schema: type) -> list[str]:
    """The keys that do not change what a run computes."""
    return [one.name for one in fields(schema) if not one.metadata.get("effect", True)]


def plain(node: Any) -> Any:
    """An OmegaConf node as dicts, lists and scalars, interpolations resolved.

    Raises:
        ConfigError: for an interpolation that leads nowhere.
    """
    try:
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(where + str(error).splitlines()[0]) from error


def require_mapping(section: Any, where: str) -> None:
    """Raise ConfigError unless a section of YAML holds keys (or nothing)."""
    if section is not None and not isinstance(section, Mapping | DictConfig):
        raise ConfigError(f"{where} is {section!r}, it must be a mapping of keys to values")


def plain_section(section: Any, where: str) -> dict[str, Any]:
    """A section as a dict, interpolations resolved; `null` is an empty one.

    Raises:
        ConfigError: if it is not a mapping, or an interpolation leads nowhere.
    """
    require_mapping(section, where)
    return dict(plain(section) or {})


def merge(defaults: Any, section: Any, where: str) -> Any:
    """A section of YAML over its defaults, as an OmegaConf node.

    Raises:
        ConfigError: where a list meets a mapping, in a key of the section or below.
    """
    try:
        return OmegaConf.merge(defaults, section)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: cannot be merged with what is set elsewhere: a list in place of a mapping, or the "
            f"reverse ({str(error).splitlines()[0]})"
        ) from error


def _convert(value: Any, kind: Any, where: str) -> Any:
    """A value as its type wants it, e.g. 1 as 1.0."""
    for one in get_args(kind) if _is_union(kind) else (kind,):
        with contextlib.suppress(TypeError):
            return _convert_to(one, value)
    items = value if isinstance(value, list) else [value]
    wants_text = str in _scalars(kind) and all(isinstance(item, str | bool | int | float) for item in items)
    message = f"{where} is {value!r}, it must be {kind_name(kind)}"
    raise NotText(message, where) if wants_text else ConfigError(message)


def _scalars(kind: Any) -> set[Any]:
    """The types in a kind, e.g. `{str}` for `list[str]`."""
    return set().union(*map(_scalars, get_args(kind))) if get_args(kind) else {kind}


def _convert_to(kind: Any, value: Any) -> Any:
    """Raises TypeError. True is not the number 1 here, and text is not a number."""
    container, items = get_origin(kind) or kind, get_args(kind)
    if container is list and isinstance(value, list):
        return [_convert_to(items[0], item) for item in value] if items else value
    if container is dict and isinstance(value, dict):
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is Any or type(value) is kind:
        return value
    raise TypeError


def _path(value: str, where: str) -> str:
    path = expanded(value)
    unknown = None if os.path.exists(path) else _UNKNOWN.search(path)
    if unknown:
        raise ConfigError(f"{where} is {value!r}, but {unknown[0]} is not defined")
    return path


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def kind_name(kind: Any) -> str:
    """A type in words, e.g. `a whole number or null`."""
    if _is_union(kind):
        return " or ".join(kind_name(part) for part in get_args(kind))
    if (get_origin(kind) or kind) is list:
        return {(str,): "a list of names", (float,): "a list of numbers"}.get(get_args(kind), "a list")
    if (get_origin(kind) or kind) is dict:
        return "a mapping"
    return KINDS.get(kind, "a value")


def _check_value(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    low, high, choices, kind = (metadata.get(name) for name in ("low", "high", "choices", "names"))
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, it must be a finite number")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(f"{where} is {value}, it must be at most {LARGEST}")
    if low is not None and not value >= low:
        limit = f"from {low} to {high}" if high is not None else f"at least {low}"
        raise ConfigError(f"{where} is {value}, it must be {limit}")
    if high is not None and not value <= high:
        limit = f"from {low} to {high}" if low is not None else f"at most {high}"
        raise ConfigError(f"{where} is {value}, it must be {limit}")
    for one in value if isinstance(value, list) else [value]:
        if choices and one not in choices:
            raise ConfigError(f"{where} is {value!r}{nearest(one, choices)} (known: {', '.join(choices)})")
        if kind:
            _check_name(kind, one, where)


def _check_name(kind: str, name: Any, where: str) -> None:
    try:
        registry.schema(kind, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
