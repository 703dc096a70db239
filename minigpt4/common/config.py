"""From YAML files and `--options` to plain arguments.

Configs stop here: `bind` checks a mapping against a constructor's signature, and everything below is
built from plain Python values.
"""

import inspect
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.registry import registry

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
# `preprocess` stands in the original's model defaults; nothing has ever read it.
SECTIONS = ("model", "datasets", "run", "evaluation_datasets", "preprocess")


def plain(node: Any) -> Any:
    """An OmegaConf node as dicts, lists and scalars, interpolations resolved.

    Raises:
        ConfigError: for an interpolation that leads nowhere.
    """
    try:
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def require_mapping(section: Any, where: str) -> None:
    """Raise ConfigError unless a YAML section holds keys (or nothing)."""
    if section is not None and not isinstance(section, Mapping | DictConfig):
        raise ConfigError(f"{where} is {section!r}, it must be a mapping of keys to values")


def bind(
    target: Callable, mapping: Mapping | None, *, where: str, ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check a mapping against the signature of `target`.

    Args:
        target: a class or function whose keyword parameters are the allowed keys.
        mapping: the YAML section (a dict or an OmegaConf node).
        where: how the section is called in messages, e.g. `model`.
        ignore: keys that somebody else reads.

    Returns:
        The keyword arguments to call `target` with.

    Raises:
        ConfigError: for an unknown key, naming the nearest known one, a missing one, or what is no mapping.
    """
    require_mapping(mapping, where)
    arguments = {key: value for key, value in (plain(mapping) or {}).items() if key not in ignore}
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    for key in arguments:
        if key not in parameters:
            close = nearest(key, (*parameters, *ignore))
            raise ConfigError(
                f"unknown key {where}.{key}{close} (known: {', '.join(sorted({*parameters, *ignore}))})"
            )
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing: please set it in the YAML")
    return arguments


def load_yaml(path: str | Path) -> DictConfig:
    """Read one YAML file. Raises ConfigError if it is absent, not YAML, or not a mapping."""
    path = Path(path).expanduser()
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"no config file {path}{nearest(path.name, siblings)}")
    try:
        config = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        # OSError: OmegaConf's word for a YAML that is a lone number.
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path} must hold a mapping with the sections {', '.join(SECTIONS)}")
    return config


def _parse_options(options: list[str] | None) -> DictConfig:
    """`["run.seed=1", ...]` as a config. The original's form `run.seed 1` is understood as well."""
    words = list(options or [])
    if words and "=" not in words[0]:
        if len(words) % 2:
            raise ConfigError(f"--options wants key=value pairs, found {' '.join(words)!r}")
        words = [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True)]
    for word in words:
        if "=" not in word:
            raise ConfigError(f"--options wants key=value, found {word!r}")
    try:
        return OmegaConf.from_dotlist(words)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--options {' '.join(words)}: {error}") from error


def config_changes(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str]) -> list[str]:
    """What differs between two configurations, a line a key.

    Args:
        before, now: as `Config.to_dict` gives them.
        ignored: keys that do not count, e.g. `run.device`.
    """
    old, new = _flat(before), _flat(now)
    return [
        f"{key}: {old.get(key, 'nothing')!r} then, {new.get(key, 'nothing')!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key not in ignored
    ]


def _flat(section: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings -> `a.b.c` -> value."""
    if not isinstance(section, Mapping):
        return {name: section}
    return {
        path: value
        for key, inner in section.items()
        for path, value in _flat(inner, f"{name}.{key}" if name else str(key)).items()
    }


class Config:
    """The merged configuration of one run.

    Merge order: the model type's defaults < the datasets' defaults < the user's YAML < `--options`.

    Args:
        args: anything with `cfg_path` and, optionally, `options` (a list of `a.b=c`).
    """

    def __init__(self, args: Namespace) -> None:
        self.args = args
        user = OmegaConf.merge(load_yaml(args.cfg_path), _parse_options(getattr(args, "options", None)))
        for section in user:
            if section not in SECTIONS:
                raise ConfigError(
                    f"{args.cfg_path}: unknown section {section!r}{nearest(section, SECTIONS)} "
                    f"(known: {', '.join(SECTIONS)})"
                )
            require_mapping(user[section], str(section))
        user = OmegaConf.create({section: user[section] for section in user if user[section] is not None})
        self.config = OmegaConf.merge(self._model_defaults(user), self._dataset_defaults(user), user)

    @staticmethod
    def _model_defaults(user: DictConfig) -> DictConfig:
        model = user.get("model")
        if model is None:
            return OmegaConf.create()
        if "arch" not in model:
            raise ConfigError("model.arch is missing: please set it in the YAML, e.g. `arch: minigpt4`")
        model_class = registry.get_model_class(model.arch)
        model_type = model.get("model_type", model_class.DEFAULT_MODEL_TYPE)
        return load_yaml(model_class.default_config_path(model_type))

    @staticmethod
    def _dataset_defaults(user: DictConfig) -> DictConfig:
        defaults = OmegaConf.create()
        for name, section in user.get("datasets", {}).items():
            require_mapping(section, f"datasets.{name}")
            builder = (section or {}).get("builder") or name
            path = registry.get_builder_class(builder).default_config_path()
            if path is None:
                continue
            loaded = load_yaml(path)
            if "datasets" in loaded:  # one entry, by the name of its builder; here it is called otherwise
                loaded.datasets = {name: next(iter(loaded.datasets.values()))}
            defaults = OmegaConf.merge(defaults, loaded)
        return defaults

    @property
    def run_cfg(self) -> DictConfig:
        return self.config.get("run", OmegaConf.create())

    @property
    def model_cfg(self) -> DictConfig:
        return self.config.get("model", OmegaConf.create())

    @property
    def datasets_cfg(self) -> DictConfig:
        return self.config.get("datasets", OmegaConf.create())

    @property
    def evaluation_datasets_cfg(self) -> DictConfig:
        return self.config.get("evaluation_datasets", OmegaConf.create())

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain Python values, for the log and the checkpoint."""
        return plain(self.config)
