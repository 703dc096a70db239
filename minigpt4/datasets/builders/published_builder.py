"""Builds the benchmarks that `evaluation_datasets:` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt4.common.errors import ConfigError, DataError, nearest
from minigpt4.common.files import expanded
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.published import FORMATS, Format
from minigpt4.datasets.settings import PublishedInfo

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.base_dataset import BaseDataset


@registry.register_builder("published")
class PublishedBuilder(BaseDatasetBuilder):
    """A benchmark in its published format, with all of its splits or those that are wanted."""

    BUILD_INFO = PublishedInfo

    @property
    def format(self) -> Format:
        """What the benchmark is."""
        return FORMATS[self.build_info.format]

    def build_datasets(self) -> dict[str, "BaseDataset"]:
        from minigpt4.datasets.datasets import published_sets, video_qa_sets

        info, name = self.build_info, self.format.reader
        reader = getattr(published_sets, name, None) or getattr(video_qa_sets, name)
        built = {}
        for split in info.splits or self.format.files:
            path = self.annotations(split)
            try:
                built[split] = reader(
                    self.vis_processor(split).to_batch,
                    self.text_processor(split),
                    Path(expanded(info.img_path)),
                    [path],
                )
            except DataError as error:
                raise DataError(f"evaluation_datasets.{self.name}: {error}") from error
            built[split].video = self.settings.video
        return built

    def annotations(self, split: str) -> Path:
        """The file of a split. Raises ConfigError for a split that the benchmark does not have."""
        files = self.format.files
        if split not in files:
            found = f"{nearest(split, files)} (there: {', '.join(files)})"
            raise ConfigError(f"evaluation_datasets.{self.name} has no split {split!r}{found}")
        root = Path(expanded(self.build_info.eval_file_path))
        return root if root.is_file() else root / files[split]

    def published(self) -> Mapping[str, float]:
        return self.format.reported
