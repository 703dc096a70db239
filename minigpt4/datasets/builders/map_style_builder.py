"""One build method for every set that is a folder of pictures and files of annotations."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset

from minigpt4.common.config import require_mapping
from minigpt4.common.errors import ConfigError, DataError, nearest
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.weights.resolver import require_value

# The original's two ways to say where things are, and the one for a folder that holds both.
LAYOUTS = (("image_path", "ann_path"), ("images", "annotations"), ("storage",))


@dataclass(frozen=True)
class Split:
    """Where a split's pictures and annotations are, and by which YAML key this is told."""

    name: str
    key: str
    image_path: Path | None
    ann_paths: list[Path]


class MapStyleBuilder(BaseDatasetBuilder):
    """Builds `DATASET` for every split that `build_info` names; the split `train` is endless and shuffled.

    A set needs no more than this, and its defaults in `configs/datasets/birds/defaults.yaml`:

        @registry.register_builder("birds")
        class BirdsBuilder(MapStyleBuilder):
            DATASET_CONFIG = "birds/defaults.yaml"
            DATASET = BirdsDataset

    `build_info` tells where it is in one of the original's ways,

        image_path: FOLDER                          images: {storage: FOLDER}
        ann_path: FILE                              annotations: {train: {storage: FILE}, ...}

    or, where the class has a `FOLDER_LAYOUT`, by `storage: FOLDER`. FILE may be a list of files;
    `image_path`, `ann_path` and `storage` may be mappings from split to what is said above, and mean `train`
    if they are not. What else `build_info` holds are the dataset's own arguments (RefCOCO's `splitBy`).
    """

    DATASET: ClassVar[type[BaseDataset]]
    FOLDER_LAYOUT: ClassVar[tuple[str, str] | None] = None  # pictures and annotations below `storage`
    NEEDS_IMAGE_PATH: ClassVar[bool] = True  # False: without one, None is what the dataset is given

    def build_datasets(self, seed: int = 0) -> dict[str, Dataset]:
        require_mapping(self.build_info, f"{self.where}.build_info")
        options = self._options()
        return {split.name: self._build_split(split, options, seed) for split in self._splits()}

    def _build_split(self, split: Split, options: dict[str, Any], seed: int) -> BaseDataset:
        try:
            return self.DATASET(
                self.vis_processor(split.name).to_batch,
                self.text_processor(split.name),
                split.image_path,
                split.ann_paths,
                training=split.name == "train",
                seed=seed,
                **options,
            )
        except DataError as error:
            raise DataError(f"{split.key}: {error}") from error

    def _options(self) -> dict[str, Any]:
        """What of `build_info` are the dataset's own arguments. Raises ConfigError for what is nobody's."""
        shared = inspect.signature(BaseDataset).parameters
        own = [
            name
            for name, parameter in inspect.signature(self.DATASET).parameters.items()
            if name not in shared and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        layouts = LAYOUTS if self.FOLDER_LAYOUT else LAYOUTS[:-1]
        known = [*(key for layout in layouts for key in layout), *own]
        for key in self.build_info or {}:
            if key not in known:
                raise ConfigError(
                    f"unknown key {self.where}.build_info.{key}{nearest(key, known)} "
                    f"(known: {', '.join(known)})"
                )
        return {key: value for key, value in self.build_info.items() if key in own}

    def _splits(self) -> Iterator[Split]:
        where, info = f"{self.where}.build_info", self.build_info
        used = [layout for layout in LAYOUTS if any(key in info for key in layout)]
        if len(used) != 1:
            ways = " or ".join(" and ".join(layout) for layout in LAYOUTS[: 2 + bool(self.FOLDER_LAYOUT)])
            raise ConfigError(f"{where} has {', '.join(info) or 'no key'}, it must have {ways}")
        if "storage" in info:
            for name, value in _by_split(info["storage"]).items():
                folder = Path(require_value(value, f"{where}.storage")).expanduser()
                pictures, annotations = (folder / part for part in self.FOLDER_LAYOUT)
                yield Split(name, f"{where}.storage", pictures, [annotations])
            return
        if "annotations" in info or "images" in info:
            annotations = _storages(info.get("annotations"), f"{where}.annotations")
            pictures = _storages({"images": info.get("images")}, where)["images"]
            keys = [f"{where}.annotations.{{}}.storage", f"{where}.images.storage"]
        else:
            annotations, pictures = _by_split(info.get("ann_path")), info.get("image_path")
            keys = [f"{where}.ann_path", f"{where}.image_path"]
        for name, value in annotations.items():
            key = keys[0].format(name)
            folder = pictures.get(name) if isinstance(pictures, Mapping) else pictures
            if folder is not None or self.NEEDS_IMAGE_PATH:
                folder = Path(require_value(folder, keys[1])).expanduser()
            files = value if isinstance(value, list) else [value]
            ann_paths = [Path(require_value(file, key)).expanduser() for file in files or [None]]
            yield Split(name, key, folder, ann_paths)


def _by_split(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"train": value}


def _storages(sections: Any, where: str) -> dict[str, Any]:
    """`{name: {storage: X, url: ...}}` -> `{name: X}`; what else stands there is for a downloader."""
    require_mapping(sections, where)
    if not sections:
        raise ConfigError(f"{where} is missing: please set it in the YAML")
    for name, section in sections.items():
        require_mapping(section, f"{where}.{name}")
    return {name: (section or {}).get("storage") for name, section in sections.items()}
