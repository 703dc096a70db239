"""One build method for every data set that is a folder of images and files of annotations."""

import importlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.files import expanded, nearest_path
from minigpt4.common.schema import plain_section
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.settings import MapStyleInfo

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.base_dataset import BaseDataset
    from minigpt4.datasets.features.reader import Manifest
    from minigpt4.models.image_tokens import TokenShape

# The original's two ways to say where things are, and its two names for a folder that holds both.
LAYOUTS = (
    *(("image_path", "ann_path"), ("images", "annotations"), ("storage",), ("data_dir",)),
    ("vis_root", "ann_paths"),  # of MiniGPT4-video
)
LAYOUT_KEYS = [key for layout in LAYOUTS for key in layout]


@dataclass(frozen=True)
class Split:
    """Where a split's images and annotations are, and which YAML keys say so."""

    name: str
    key: str
    image_path: Path | None
    ann_paths: list[Path]
    image_key: str


class MapStyleBuilder(BaseDatasetBuilder):
    """Builds `DATASET` for every split that `build_info` names.

    A data set needs no more than this, and `BaseDataset` shows the class that goes with it:

        @registry.register_builder("birds")
        class BirdsBuilder(MapStyleBuilder):
            DATASET = BirdsDataset

    `build_info` says where it is in one of the original's ways,

        image_path: FOLDER                          images: {storage: FOLDER}
        ann_path: FILE                              annotations: {train: {storage: FILE}, ...}

    or, where the class has a `FOLDER_LAYOUT` and its `BUILD_INFO` is a `FolderInfo`, by `storage: FOLDER`.
    FILE may be a list of files; `image_path`, `ann_path` and `storage` may map splits to one of these, and
    mean `train` if they do not. Fields that a subclass of `BUILD_INFO` adds are arguments of the data set.
    `DATASET` may be an import path, `module:Class`, so that naming the data set does not import torch.
    """

    DATASET: ClassVar["type[BaseDataset] | str"]
    BUILD_INFO = MapStyleInfo
    TAKES_FEATURES = True
    FOLDER_LAYOUT: ClassVar[tuple[str, str] | None] = None  # images and annotations below `storage`
    NEEDS_IMAGE_PATH: ClassVar[bool] = True  # False: without one, None is what the data set is given

    @classmethod
    def dataset_class(cls) -> type["BaseDataset"]:
        """The class of the data sets."""
        if not isinstance(cls.DATASET, str):
            return cls.DATASET
        module, _, name = cls.DATASET.partition(":")
        return getattr(importlib.import_module(module), name)

    def build_datasets(self) -> dict[str, "BaseDataset"]:
        self.check_paths()
        shared = [*LAYOUT_KEYS, "instructions"]
        own = [one.name for one in fields(self.BUILD_INFO) if one.name not in shared]
        options = {name: getattr(self.build_info, name) for name in own} | self._instructions()
        return {split.name: self._build_split(split, options) for split in self._splits()}

    def check_model(self, model_class: type, model_cfg: Mapping, splits: Collection[str]) -> None:
        """Refuse features that were cached by other parts than the config names, or of other frames."""
        super().check_model(model_class, model_cfg, splits)
        if self.features is None:
            return
        from minigpt4.models.identity import vision_identity

        key, processors = (
            f"{self.where}.features",
            {one: self.vis_processor(one).describe() for one in splits},
        )
        self.features.check_made(key, vision_identity(model_class, model_cfg), self.where, processors)
        for split in splits:
            made = [part.get("video") for part in self.features.parts if part["split"] == split]
            own = self.settings.video.which
            if made != [own]:
                found = (
                    f"was made with the {self.where}.video {made[0]}" if made and made[0] else "has no files"
                )
                raise ConfigError(
                    f"{key}: the cache {self.features.folder} {found} of the split {split!r}, not of {own}"
                )

    @cached_property
    def features(self) -> "Manifest | None":
        """What says how its features were made, where `features` names a cache."""
        if self.settings.features is None:
            return None
        from minigpt4.datasets.features.reader import Manifest

        return Manifest.read(self.settings.features, f"{self.where}.features").of(self.name)

    def token_shape(self) -> "TokenShape | None":
        return self.features and self.features.shape

    def check_paths(self) -> None:
        for split in self._splits():
            for file in split.ann_paths:
                if not os.path.exists(file):
                    raise _missing(split.key, "annotation file", file)
            if split.image_path is not None and not os.path.isdir(split.image_path):
                raise _missing(split.image_key, "picture folder", split.image_path)
        if self.build_info.instructions is not None:
            from minigpt4.weights.paths import existing_file

            existing_file(self.build_info.instructions, f"{self.where}.build_info.instructions")

    def _instructions(self) -> dict[str, Any]:
        """The argument of the data set, where `build_info.instructions` names a file of them."""
        path, key = self.build_info.instructions, f"{self.where}.build_info.instructions"
        if path is None:
            return {}
        from minigpt4.prompts.instruction_templates import Instructions

        pool = self.dataset_class().INSTRUCTIONS
        if pool is None:
            raise ConfigError(f"{key} is {path!r}, but this data set brings its questions with it")
        return {"instructions": Instructions.read(path, key, Instructions.pool(pool) if pool else None).lines}

    def _build_split(self, split: Split, options: dict[str, Any]) -> "BaseDataset":
        if self.dataset_class().SPLIT_INSIDE:
            options = options | {"split": split.name}
        try:
            dataset = self.dataset_class()(
                self.vis_processor(split.name).to_batch,
                self.text_processor(split.name),
                split.image_path,  # type: ignore[arg-type]  # None only where NEEDS_IMAGE_PATH says so
                split.ann_paths,
                **options,
            )
        except DataError as error:
            raise DataError(f"{split.key}: {error}") from error
        dataset.video = self.settings.video
        if self.features is not None:
            from minigpt4.datasets.features.files import FeatureFiles

            folder, shape = self.features.folder / self.name / split.name, self.features.shape
            dataset.features = FeatureFiles(folder, (shape.count, shape.width), dataset.video)
        return dataset

    def _splits(self) -> Iterator[Split]:
        given = vars(self.build_info)
        info = {key: given[key] for key in LAYOUT_KEYS if given.get(key) is not None}
        where = f"{self.where}.build_info"
        used = [layout for layout in LAYOUTS if any(key in info for key in layout)]
        if len(used) != 1:
            ways = " or ".join(" and ".join(layout) for layout in LAYOUTS if layout[0] in given)
            raise ConfigError(f"{where} has {', '.join(info) or 'no key'}, it must have {ways}")
        (first, *_) = used[0]
        if self.FOLDER_LAYOUT and len(used[0]) == 1:
            images, annotations = self.FOLDER_LAYOUT
            for name, value in _by_split(info[first]).items():
                folder = _path(value, f"{where}.{first}")
                yield Split(
                    name, f"{where}.{first}", folder / images, [folder / annotations], f"{where}.{first}"
                )
            return
        if "vis_root" in used[0]:
            annotations, images = _by_split(info.get("ann_paths")), info.get("vis_root")
            keys = [f"{where}.ann_paths", f"{where}.vis_root"]
        elif "annotations" in info or "images" in info:
            annotations = _storages(info.get("annotations"), f"{where}.annotations")
            images = _storages({"images": info.get("images")}, where)["images"]
            keys = [f"{where}.annotations.{{}}.storage", f"{where}.images.storage"]
        else:
            annotations, images = _by_split(info.get("ann_path")), info.get("image_path")
            keys = [f"{where}.ann_path", f"{where}.image_path"]
        for name, value in annotations.items():
            key = keys[0].format(name)
            folder = images.get(name) if isinstance(images, Mapping) else images
            if folder is not None or self.NEEDS_IMAGE_PATH:
                folder = _path(folder, keys[1])
            files = value if isinstance(value, list) else [value]
            yield Split(name, key, folder, [_path(file, key) for file in files or [None]], keys[1])


def _by_split(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"train": value}


def _missing(key: str, kind: str, path: Path) -> DataError:
    return DataError(f"{key}: the {kind} {path} does not exist{nearest_path(path)}")


def _path(value: Any, key: str) -> Path:
    from minigpt4.weights.paths import require_value

    return Path(expanded(require_value(value, key)))


def _storages(sections: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """`{name: {storage: X, url: ...}}` -> `{name: X}`; the other keys are for a downloader."""
    if not sections:
        raise ConfigError(f"{where} is missing: please set it in the YAML")
    return {
        name: plain_section(section, f"{where}.{name}").get("storage") for name, section in sections.items()
    }
