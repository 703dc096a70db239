"""Write docs/configuration.md: every YAML key, from the dataclasses that check them.

example:
  minigpt4 describe-config > docs/configuration.md
"""

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

from minigpt4.common.cli import new_parser, run

HEAD = """# Configuration

<!-- Generated from the code: minigpt4 describe-config > docs/configuration.md -->

A YAML has the sections `model:`, `datasets:` and `run:`, and perhaps `evaluation_datasets:`. They are merged
in this order: the defaults of the model type (`minigpt4/configs/models/`) < those of the data set
(`minigpt4/configs/datasets/`) < your YAML < `--options`. Options are written `run.seed=1 model.ckpt=a.pth`.
What YAML cannot read as a number, `True`, `False`, `null`, or a list or mapping in brackets is taken as text,
so `model.end_sym=###` needs no quotes but the shell's.

An unknown key, a value of the wrong type or one out of its bounds is an error that names the key, and the
nearest known one, before anything is loaded.

Where a registered name is wanted, a class of your own may stand as `my_package.my_module:MyClass`. Packages
can also register names, through the entry-point group `minigpt4.plugins` ([extending](extending.md)).
"""


def main() -> None:
    """The command line."""
    parser = new_parser(__doc__)
    run(lambda _: print(describe()), parser.parse_args())


def describe() -> str:
    """The whole document."""
    from minigpt4.common.config import EVALUATION_DATASETS, EvaluationDataset
    from minigpt4.common.registry import registry
    from minigpt4.datasets.settings import DatasetSettings
    from minigpt4.models.settings import ModelSettings
    from minigpt4.runners.settings import RunSettings

    parts = [HEAD.strip(), "## `model:`", _about(ModelSettings)]
    schemas = registry.tables["model"].schemas
    for schema in dict.fromkeys(schemas.values()):
        names = [name for name, own in schemas.items() if own is schema]
        parts.append(f"Model types of {_code(names)}: {_code(schema.TYPES)}.")  # type: ignore[attr-defined]
    parts.append(table(ModelSettings))
    parts += ["## `datasets.<entry>:`", _about(DatasetSettings), table(DatasetSettings)]
    by_info: dict[type, list[str]] = {}
    for name in registry.tables["builder"].declared():
        by_info.setdefault(registry.get_builder_class(name).BUILD_INFO, []).append(name)
    for info, names in by_info.items():
        parts += [f"### `build_info` of {_code(names)}", table(info)]
    for name in registry.tables["processor"].declared():
        parts += [f"### Processor `{name}`", table(registry.get_processor_class(name))]
    parts += ["## `run:`", _about(RunSettings), table(RunSettings)]
    parts += ["## `evaluation_datasets.<name>:`", _about(EvaluationDataset)]
    parts += [f"Names: {_code(EVALUATION_DATASETS)}.", table(EvaluationDataset)]
    return "\n\n".join(parts)


def table(schema: type) -> str:
    """A schema as a table of Markdown."""
    lines = [("key", "value", "default", "meaning"), ("---",) * 4, *_rows(schema, "")]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _rows(schema: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, value, default and meaning of every field; a section of its own gives a row per key."""
    types = get_type_hints(schema)
    for one in fields(schema):
        if is_dataclass(types[one.name]):
            yield from _rows(types[one.name], f"{prefix}{one.name}.")  # type: ignore[arg-type]
        else:
            words = (_values(types[one.name], one), _default(one), one.metadata.get("doc", ""))
            yield f"`{prefix}{one.name}`", *words


def _values(kind: Any, one: Field) -> str:
    """What may stand there."""
    from minigpt4.common.registry import registry
    from minigpt4.common.schema import kind_name

    low, high, choices, names = (one.metadata.get(name) for name in ("low", "high", "choices", "names"))
    kinds, null, _ = kind_name(kind).partition(" or null")
    limits = ""
    if known := choices or (registry.tables[names].declared() if names else ()):
        limits = f": {_code(known)}"
    if low is not None:
        limits += f", from {low:g} to {high:g}" if high is not None else f", at least {low:g}"
    return f"{kinds}{limits}{',' if limits and null else ''}{null}"


def _default(one: Field) -> str:
    if one.default_factory is not MISSING:
        return f"`{one.default_factory()}`".replace("'", "")
    if one.default is MISSING:
        return "must be set"
    value = "null" if one.default is None else one.default
    return f"`{value}`" if value != "" else "empty"


def _about(schema: type) -> str:
    """A schema's docstring, each paragraph in one line."""
    paragraphs = (schema.__doc__ or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    main()
