"""Seven tables of names: which class a YAML means by `minigpt4`, `cc_sbu`, `gemma`, `runner_base`, ...

This module imports nothing of the package above it. The package that fills a table is imported when
the table is first asked, so whoever has imported `registry` alone can look any name up, and a script's
`--help` still answers at once.
"""

import importlib
from collections.abc import Callable
from typing import TypeVar

from minigpt4.common.errors import ConfigError, nearest

T = TypeVar("T")

# kind of thing -> the package whose import registers everything of that kind
PACKAGES = {
    "builder": "minigpt4.datasets.builders",
    "task": "minigpt4.tasks",
    "processor": "minigpt4.processors",
    "model": "minigpt4.models.minigpt4",
    "backbone": "minigpt4.models.backbones",
    "runner": "minigpt4.runners",
    "lr_scheduler": "minigpt4.runners.schedules",
}


class Registry:
    """Names to classes, a table a kind. Names are unique; asking for an unknown one lists the known."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, type]] = {kind: {} for kind in PACKAGES}

    def _register(self, kind: str, name: str) -> Callable[[type[T]], type[T]]:
        def add(cls: type[T]) -> type[T]:
            known = self._tables[kind].setdefault(name, cls)
            if known is not cls:
                raise KeyError(f"{kind} {name!r} is already registered for {known.__qualname__}")
            return cls

        return add

    def _get(self, kind: str, name: str) -> type:
        importlib.import_module(PACKAGES[kind])
        table = self._tables[kind]
        if name not in table:
            close = nearest(str(name), table)
            raise ConfigError(f"no {kind} is called {name!r}{close} (known: {', '.join(sorted(table))})")
        return table[name]

    def _list(self, kind: str) -> list[str]:
        importlib.import_module(PACKAGES[kind])
        return sorted(self._tables[kind])

    def register_builder(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("builder", name)

    def register_task(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("task", name)

    def register_processor(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("processor", name)

    def register_model(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("model", name)

    def register_backbone(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("backbone", name)

    def register_runner(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("runner", name)

    def register_lr_scheduler(self, name: str) -> Callable[[type[T]], type[T]]:
        return self._register("lr_scheduler", name)

    def get_builder_class(self, name: str) -> type:
        return self._get("builder", name)

    def get_task_class(self, name: str) -> type:
        return self._get("task", name)

    def get_processor_class(self, name: str) -> type:
        return self._get("processor", name)

    def get_model_class(self, name: str) -> type:
        return self._get("model", name)

    def get_backbone_class(self, name: str) -> type:
        return self._get("backbone", name)

    def get_runner_class(self, name: str) -> type:
        return self._get("runner", name)

    def get_lr_scheduler_class(self, name: str) -> type:
        return self._get("lr_scheduler", name)

    def list_builders(self) -> list[str]:
        return self._list("builder")

    def list_tasks(self) -> list[str]:
        return self._list("task")

    def list_processors(self) -> list[str]:
        return self._list("processor")

    def list_models(self) -> list[str]:
        return self._list("model")

    def list_backbones(self) -> list[str]:
        return self._list("backbone")

    def list_runners(self) -> list[str]:
        return self._list("runner")

    def list_lr_schedulers(self) -> list[str]:
        return self._list("lr_scheduler")


registry = Registry()
