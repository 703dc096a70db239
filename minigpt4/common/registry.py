"""Tables of names: which class a YAML means by `minigpt4`, `cc_sbu`, `gemma`, `runner_base`, ...

This module imports nothing of the packages above it. Each package declares in its `__init__` what it holds
and where, and a class is imported when it is asked for: a YAML's names and keys are checked without torch.

What is not part of the project is found in two ways, without editing any file of it:

- by import path: where a name is wanted, the YAML says `my_package.my_module:MyClass`;
- by entry point: a package names, in the group `minigpt4.plugins`, a module whose import registers classes.

A name is only ever taken from the user's YAML or options, never from a checkpoint or a data set.
"""

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar

from minigpt4.common.errors import ConfigError, nearest

T = TypeVar("T")

# kind of thing -> the package that declares those which come with the project
PACKAGES = {
    "builder": "minigpt4.datasets.builders",
    "task": "minigpt4.tasks",
    "processor": "minigpt4.processors",
    "model": "minigpt4.models",
    "encoder": "minigpt4.models.encoders",
    "backbone": "minigpt4.models.backbones",
    "runner": "minigpt4.runners",
    "lr_scheduler": "minigpt4.runners",
}
# kind of thing -> a method that every class of that kind has
METHODS = {
    "builder": "build_datasets",
    "task": "train_step",
    "processor": "__call__",
    "model": "from_config",
    "encoder": "forward",
    "backbone": "end_ids",
    "runner": "train",
    "lr_scheduler": "step",
}
PLUGINS = "minigpt4.plugins"
_IMPORT_PATH = re.compile(r"[^\W\d][\w.]*:\w+")


class Register(Protocol):
    """Makes a decorator that gives a class its name."""

    def __call__(self, name: str) -> Callable[[type[T]], type[T]]: ...


class Table:
    """The classes of one kind. A name is given once; asking for an unknown one lists the known ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type] = {}  # those imported so far
        self.places: dict[str, str] = {}  # what was declared: `module:Class`
        self.schemas: dict[str, type] = {}  # what was declared: the section of YAML that describes one

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator: give a class a name. Raises KeyError if another class has it."""

        def add(cls: type[T]) -> type[T]:
            known = self.classes.get(name)
            other = self.places.get(name, _place(cls)) if known in (None, cls) else _place(known)
            if other != _place(cls):
                raise KeyError(f"{self.kind} {name!r} is already registered for {other}")
            self.classes[name] = cls
            return cls

        importlib.import_module(PACKAGES[self.kind])
        return add

    def get(self, name: str) -> type[Any]:
        """The class of a name, or of an import path. Raises ConfigError if there is none."""
        if isinstance(name, str) and self.knows(name):
            return self.classes.get(name) or self.classes.setdefault(name, _import(self.places[name]))
        if _IMPORT_PATH.fullmatch(str(name)):
            found, method = _import(name), METHODS[self.kind]
            if not hasattr(found, method):
                raise ConfigError(f"{name} is not a {self.kind}: it has no method {method!r}")
            return found
        known = self.names()
        raise ConfigError(
            f"no {self.kind} is called {name!r}{nearest(name, known)} (known: {', '.join(known)})"
        )

    def knows(self, name: str) -> bool:
        """Whether a class has this name; plug-ins are imported only if none of the project has."""
        importlib.import_module(PACKAGES[self.kind])
        if name not in self.places and name not in self.classes:
            import_plugins()
        return name in self.places or name in self.classes

    def declared(self) -> list[str]:
        """The names that come with the project, sorted."""
        importlib.import_module(PACKAGES[self.kind])
        return sorted(self.places)

    def names(self) -> list[str]:
        """All names, sorted."""
        importlib.import_module(PACKAGES[self.kind])
        import_plugins()
        return sorted({*self.places, *self.classes})


class Registry:
    """A table for each kind of thing."""

    def __init__(self) -> None:
        self.tables = {kind: Table(kind) for kind in PACKAGES}
        self.register_builder, self.get_builder_class, self.list_builders = self._methods("builder")
        self.register_task, self.get_task_class, self.list_tasks = self._methods("task")
        self.register_processor, self.get_processor_class, self.list_processors = self._methods("processor")
        self.register_model, self.get_model_class, self.list_models = self._methods("model")
        self.register_encoder, self.get_encoder_class, self.list_encoders = self._methods("encoder")
        self.register_backbone, self.get_backbone_class, self.list_backbones = self._methods("backbone")
        self.register_runner, self.get_runner_class, self.list_runners = self._methods("runner")
        self.register_lr_scheduler, self.get_lr_scheduler_class, self.list_lr_schedulers = self._methods(
            "lr_scheduler"
        )

    def _methods(self, kind: str) -> tuple[Register, Callable[[str], type[Any]], Callable[[], list[str]]]:
        table = self.tables[kind]
        return table.register, table.get, table.names

    def declare(
        self, kind: str, places: Mapping[str, str], schemas: Mapping[str, type] | None = None
    ) -> None:
        """Say what a package holds, without importing it.

        Args:
            kind: as in PACKAGES.
            places: name -> `module:Class`; the class is registered under that name.
            schemas: name -> the dataclass of its section in a YAML, which is also the class's SETTINGS.
        """
        self.tables[kind].places.update(places)
        self.tables[kind].schemas.update(schemas or {})

    def schema(self, kind: str, name: str) -> type | None:
        """The dataclass of the section that describes a thing; None if there is none.

        What comes with the project declares it; any other class has it as its SETTINGS.

        Raises:
            ConfigError: for an unknown name.
        """
        table = self.tables[kind]
        if table.knows(name) and name in table.places:
            return table.schemas.get(name)
        return getattr(table.get(name), "SETTINGS", None)

    @staticmethod
    def get_path(name: str) -> str | None:
        """The original's `library_root`, the folder of the package, or `repo_root`, the one above it."""
        library = Path(__file__).resolve().parent.parent
        return {"library_root": str(library), "repo_root": str(library.parent)}.get(name)


@functools.cache
def import_plugins() -> None:
    """Import the modules that installed packages name as plug-ins, once.

    Raises:
        ConfigError: naming the one that cannot be imported.
    """
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:  # whatever others' code raises at its import
            package = entry.dist.name if entry.dist else "an installed package"
            raise ConfigError(
                f"the plug-in {entry.name} ({entry.value}) of {package} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def lazily(*places: str) -> Callable[[str], Any]:
    """A package's `__getattr__` for what lies in modules that are expensive to import: `module:name`s."""
    by_name = {place.partition(":")[2]: place for place in places}

    def get(name: str) -> Any:
        if name not in by_name:
            raise AttributeError(f"no attribute {name!r}{nearest(name, by_name)}")
        module, _, _ = by_name[name].partition(":")
        return getattr(importlib.import_module(module), name)

    return get


def _place(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _import(place: str) -> type[Any]:
    """The class at an import path. Raises ConfigError if there is none."""
    path, _, name = place.partition(":")
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        if path.startswith("minigpt4."):
            raise  # a library is missing or broken: the traceback says which
        if isinstance(error, ModuleNotFoundError) and error.name and f"{path}.".startswith(f"{error.name}."):
            reason = f"no module {error.name!r}; install it, or add its folder to PYTHONPATH"
        else:
            reason = f"importing it fails ({type(error).__name__}: {error})"
        raise ConfigError(f"{place}: {reason}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise ConfigError(f"{place}: {path} has no class {name!r}{nearest(name, vars(module))}")
    return found


registry = Registry()
