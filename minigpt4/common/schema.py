"""A section of YAML as a typed dataclass: `omegaconf` converts the values, the messages are ours.

A section is a keyword-only dataclass, one field per YAML key. Its type is checked, `key(...)` adds bounds and
the sentence that `docs/configuration.md` prints, and a field without a default must be set by the user.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt4.common.errors import ConfigError, nearest

S = TypeVar("S")

KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "null"}


def key(
    default: Any = MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    effect: bool = True,
) -> Any:
    """A dataclass field that is a YAML key.

    Args:
        default: its value where the YAML does not say; without one, the YAML must. Lists, mappings and
            sections of their own are copied for each instance.
        doc: what it means, for the table in docs/configuration.md.
        low, high: the smallest and the largest value, both allowed.
        choices: the only values.
        effect: False for a key that does not change what a run computes.
    """
    metadata = {"doc": doc, "low": low, "high": high, "choices": tuple(choices), "effect": effect}
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
    given = {name: value for name, value in plain_section(section, where).items() if name not in ignore}
    types, known = get_type_hints(schema), {one.name: one for one in fields(schema)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            names = sorted({*known, *ignore})
            raise ConfigError(f"unknown key {where}.{name}{nearest(name, names)} (known: {', '.join(names)})")
    arguments = {}
    for name, one in known.items():
        inner = types[name]
        if is_dataclass(inner):
            arguments[name] = parse(inner, given.get(name), f"{where}.{name}")  # type: ignore[arg-type]
        elif name in given:
            arguments[name] = _convert(given[name], inner, f"{where}.{name}")
            _check_bounds(arguments[name], one.metadata, f"{where}.{name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{where}.{name} is missing: please set it in the YAML")
    return schema(**arguments)


def plain_section(section: Any, where: str) -> dict[str, Any]:
    """A section as a dict, interpolations resolved; `null` is an empty one.

    Raises:
        ConfigError: if it is not a mapping, or an interpolation leads nowhere.
    """
    if section is None:
        return {}
    if not isinstance(section, Mapping | DictConfig):
        raise ConfigError(f"{where} is {section!r}, it must be a mapping of keys to values")
    try:
        return (
            OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else dict(section)
        )  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _convert(value: Any, kind: Any, where: str) -> Any:
    """A value as its type wants it, e.g. 1 as 1.0."""
    for one in get_args(kind) if _is_union(kind) else (kind,):
        with contextlib.suppress(OmegaConfBaseException, TypeError):
            return _convert_to(one, value)
    raise ConfigError(f"{where} is {value!r}, it must be {kind_name(kind)}")


def _convert_to(kind: Any, value: Any) -> Any:
    """As omegaconf converts a config of this one key. Raises its errors, or TypeError."""

    # omegaconf would take True for 1, text for a number, a number for text, and null for anything.
    if kind in KINDS and not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError
    if (isinstance(value, bool) and kind in (int, float)) or (value is None and kind not in (NoneType, Any)):
        raise TypeError
    if value is None:
        return None
    config = OmegaConf.merge(OmegaConf.structured(make_dataclass("One", [("value", kind)])), {"value": value})
    return OmegaConf.to_container(config)["value"]  # type: ignore[index,call-overload]


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


def _check_bounds(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    low, high, choices = (metadata.get(name) for name in ("low", "high", "choices"))
    if value is None:
        return
    if low is not None and not value >= low:
        limit = f"from {low:g} to {high:g}" if high is not None else f"at least {low:g}"
        raise ConfigError(f"{where} is {value}, it must be {limit}")
    if high is not None and not value <= high:
        raise ConfigError(
            f"{where} is {value}, it must be {f'from {low:g} to' if low is not None else 'at most'} {high:g}"
        )
    if choices and value not in choices:
        raise ConfigError(f"{where} is {value!r}{nearest(value, choices)} (known: {', '.join(choices)})")
