"""Builders and data sets written for the original: `DATASET_CONFIG_DICT`, map-style data sets of dicts."""

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import OmegaConf

from minigpt4.common.errors import ConfigError
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.settings import DatasetSettings
from minigpt4.processors.base_processor import BaseProcessor
from minigpt4.prompts.sample import Batch, Sample


@dataclass(frozen=True, kw_only=True)
class _Unchecked:
    """No key of `build_info` is known: the outside builder reads them."""


class OriginalBuilder(BaseDatasetBuilder):
    """Builds what an outside builder's `build_datasets` builds.

    The outside builder has `config` (its section), `vis_processors` and `text_processors`; its `__init__` is
    not called.
    """

    BUILD_INFO = _Unchecked

    def __init__(self, outside: type, name: str, settings: DatasetSettings) -> None:
        super().__init__(name, replace(settings, build_info=None))
        usual = {"train": BaseProcessor(), "eval": BaseProcessor()}
        self.outside = object.__new__(outside)
        self.outside.config = OmegaConf.create(vars(settings))
        self.outside.data_type = settings.data_type
        self.outside.vis_processors = usual | self._vis
        self.outside.text_processors = usual | self._text
        self.outside.build_processors = lambda: None  # they are there

    def build_datasets(self) -> dict[str, BaseDataset]:
        build = type(self.outside).build_datasets
        if build is BaseDatasetBuilder.build_datasets:
            name = type(self.outside).__name__
            raise ConfigError(f"{self.where}: {name} has no build_datasets of its own, see docs/porting.md")
        built: dict[str, Any] = build(self.outside)
        for split, dataset in built.items():
            if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
                raise ConfigError(
                    f"{self.where}: the split {split!r} is a {type(dataset).__name__}, which has no length "
                    "or no items by number: docs/porting.md says how such data is read here"
                )
        return {split: MapStyleDataset(dataset) for split, dataset in built.items()}


class MapStyleDataset(BaseDataset):
    """An outside map-style data set of dicts, read as ours are."""

    def __init__(self, outside: Any) -> None:
        self.outside = outside
        self.annotation = range(len(outside))

    def sample(self, entry: int, rng: random.Random) -> Sample:
        """One item; what it draws from Python's `random` repeats with the seed."""
        state = random.getstate()
        random.seed(rng.getrandbits(64))
        try:
            item = self.outside[entry]
        finally:
            random.setstate(state)
        # The first release has `text_input`; conversations have neither.
        batch = {"answer": item.get("text_input", "")} | item
        batch = {key: value[None] if torch.is_tensor(value) else [value] for key, value in batch.items()}
        one = Batch.from_mapping(batch)
        return Sample(
            dialogue=one.dialogues[0], image=one.images, image_id=one.image_ids[0], group=one.groups[0]
        )
