"""From YAML files and `--options` to checked sections.

Which dataclass describes a section is asked of the registry, so this module imports nothing above it.
"""

import logging
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.exported import is_exported, read_description
from minigpt4.common.files import expanded
from minigpt4.common.registry import registry
from minigpt4.common.schema import NotText, key, merge, parse, plain, read, require_mapping
from minigpt4.common.yaml_file import Written, read_yaml, written_value

log = logging.getLogger(__name__)

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
# `preprocess` stands in the original's model defaults; nothing has ever read it.
SECTIONS = ("model", "datasets", "run", "evaluation_datasets", "preprocess")
DEFAULT_RUNNER = "runner_base"
# What the original evaluates, captions in COCO's format, and questions about videos.
EVALUATION_DATASETS = (
    *("refcoco", "refcoco+", "refcocog"),
    *("okvqa", "vizwiz", "iconvqa", "gqa", "vsr", "hm", "coco_caption"),
    *("msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa"),
)


@dataclass(frozen=True, kw_only=True)
class EvaluationDataset:
    """An entry of `evaluation_datasets:`, the section that the original's evaluation scripts read."""

    eval_file_path: str = key(doc="the file or folder of annotations")
    img_path: str = key(doc="the folder of images")
    max_new_tokens: int = key(doc="longest answer in tokens", low=1)
    batch_size: int = key(doc="samples per batch", low=1)
    format: str | None = key(
        None, "which benchmark it is; by default the one with the entry's name", choices=EVALUATION_DATASETS
    )
    task: str | None = key(None, "the task that scores it; by default the benchmark's", names="task")
    splits: list[str] | None = key(None, "which of its splits; by default all")


def load_yaml(path: str | Path) -> DictConfig:
    """Read one YAML file, or a folder of `minigpt4 export`.

    Raises:
        ConfigError: if it is absent, not YAML, or not a mapping.
    """
    return _load(path)[0]


def _load(path: str | Path) -> tuple[DictConfig, Written]:
    if is_exported(expanded(path)):
        return read_description(Path(expanded(path))), {}
    content, written = read_yaml(path)
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} must hold a mapping with the sections {', '.join(SECTIONS)}")
    return content, written


def _with_options(config: DictConfig, written: Written, options: Sequence[str]) -> DictConfig:
    """A config with `["run.seed=1", ...]` over it; the original's form `run.seed 1` is understood as well.

    Args:
        config: as the YAML says.
        written: how its values were written; those of the options are added.
        options: the words after `--options`.
    """
    words = list(options)
    if words and "=" not in words[0]:
        if len(words) % 2:
            raise ConfigError(f"--options wants key=value pairs, found {' '.join(words)!r}")
        words = [f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True)]
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"--options wants key=value, found {word!r}")
        if text.strip() == MISSING:
            raise ConfigError(f"--options {word}: {MISSING} marks a missing value")
        one = OmegaConf.create()
        try:
            value, as_text = written_value(text)
            OmegaConf.update(one, name, value)
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise ConfigError(f"--options {word}: {str(error).splitlines()[0]}") from error
        if as_text is not None:
            written[name] = as_text
        config = merge(config, one, f"--options {word}")
    return config


def config_changes(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str]) -> list[str]:
    """What differs between two configurations, one line per key.

    Args:
        before, now: as `Config.to_dict` gives them.
        ignored: keys that do not count, e.g. `run.device`.
    """
    old, new = _flat(before), _flat(now)
    return [
        f"{key}: {old.get(key, 'nothing')!r} then, {new.get(key, 'nothing')!r} from here on"
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


def _check_references(config: DictConfig) -> None:
    """Raise ConfigError for what OmegaConf itself reads: MISSING, and `${...}` that leads nowhere."""
    try:
        plain(config)
    except RecursionError as error:
        raise ConfigError("the YAML is nested too deeply, or a ${...} leads to itself") from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} is {MISSING}, which marks a missing value: please set it")


def _schema(kind: str, name: Any, where: str) -> Any:
    """The dataclass of a section, by what the key `where` names."""
    try:
        schema = registry.schema(kind, str(name))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if schema is None:
        raise ConfigError(f"{where}: the class {name} has no SETTINGS, the dataclass of its section")
    return schema


def _builder_class(entry: str, section: Mapping | None) -> Any:
    """The builder of an entry of `datasets:`."""
    builder = (section or {}).get("builder")
    try:
        return registry.get_builder_class(builder or entry)
    except ConfigError as error:
        where = f"datasets.{entry}" if builder is None else f"datasets.{entry}.builder"
        raise ConfigError(f"{where}: {error}") from error


class Config:
    """The merged configuration of one run, its keys checked. Nothing heavy is imported for it.

    Merge order: the model type's defaults < the datasets' defaults < the user's YAML < `--options`.

    Args:
        args: anything with `cfg_path` and, optionally, `options` (a list of `a.b=c`).

    Raises:
        ConfigError: naming the file or the key, for what cannot be used as it is. Whether all is there that a
            command needs is for the command to ask.
    """

    def __init__(self, args: Namespace) -> None:
        self.args = args
        user, self._written = _load(args.cfg_path)
        user = _with_options(user, self._written, getattr(args, "options", None) or ())
        for section in user:
            if section not in SECTIONS:
                raise ConfigError(
                    f"{args.cfg_path}: unknown section {section!r}{nearest(section, SECTIONS)} "
                    f"(known: {', '.join(SECTIONS)})"
                )
            require_mapping(user[section], str(section))
        _check_references(user)
        self.config = OmegaConf.create({name: value for name, value in user.items() if value is not None})
        if "model" in self.config:
            self.config.model = self._over_model_type(self.model_cfg)
        for name, section in self.datasets_cfg.items():
            self.config.datasets[name] = self._over_builders_defaults(str(name), section)
        self._check_texts()

    @staticmethod
    def _over_model_type(section: DictConfig) -> Mapping[str, Any]:
        """The section `model:` over the defaults of its type."""
        if "arch" not in section:
            raise ConfigError("model.arch is missing: please set it in the YAML, e.g. `arch: minigpt4`")
        return _schema("model", section.arch, "model.arch").with_defaults(section)

    @staticmethod
    def _over_builders_defaults(name: str, section: DictConfig | None) -> Any:
        """An entry of `datasets:` over the defaults of its builder."""
        require_mapping(section, f"datasets.{name}")
        path = _builder_class(name, section).default_config_path()
        # A YAML of defaults holds one entry, by the name of its builder; here it may be called otherwise.
        defaults = (load_yaml(path).get("datasets") or {}) if path else {}
        return merge(next(iter(defaults.values()), {}), section or {}, f"datasets.{name}")

    def _check_texts(self) -> None:
        """Check every section. Where a key wants text but YAML read another value, take it as written."""
        while True:
            try:
                return self._check()
            except NotText as error:
                text = self._written.pop(error.key, None)
                if text is None:
                    raise
                OmegaConf.update(self.config, error.key, text)

    def _check(self) -> None:
        """Look at every key that is there."""
        read(self._run_schema, self.run_cfg, "run")
        if "model" in self.config:
            self.model_settings()
        for name, section in self.datasets_cfg.items():
            _builder_class(str(name), section).from_config(str(name), section)
        for name, section in self.evaluation_datasets_cfg.items():
            where = f"evaluation_datasets.{name}"
            if name not in EVALUATION_DATASETS and "format" not in (section or {}):
                known = f"(known: {', '.join(EVALUATION_DATASETS)})"
                raise ConfigError(f"unknown key {where}{nearest(name, EVALUATION_DATASETS)} {known}")
            read(EvaluationDataset, section, where)

    @property
    def _run_schema(self) -> type:
        return _schema("runner", self.run_cfg.get("runner", DEFAULT_RUNNER), "run.runner")

    def model_settings(self) -> Any:
        """The section `model:` as the dataclass of what `model.arch` names.

        Raises:
            ConfigError: if there is none.
        """
        if "arch" not in self.model_cfg:
            raise ConfigError("model.arch is missing: please set it in the YAML, e.g. `arch: minigpt4`")
        return parse(_schema("model", self.model_cfg.arch, "model.arch"), self.model_cfg, "model")

    def run_settings(self) -> Any:
        """The section `run:` as the dataclass of its runner (`RunSettings`).

        Raises:
            ConfigError: for a key that is missing.
        """
        return parse(self._run_schema, self.run_cfg, "run")

    def run_value(self, name: str) -> Any:
        """One key of `run:`, or its default, for commands that do not need the whole section."""
        return read(self._run_schema, self.run_cfg, "run").get(name)

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

    def get_config(self) -> DictConfig:
        """The whole configuration."""
        return self.config

    def pretty_print(self) -> None:
        """Log the whole configuration as YAML."""
        log.info("the configuration:\n%s", OmegaConf.to_yaml(self.config))

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain Python values, for the log and the checkpoint."""
        return plain(self.config)
