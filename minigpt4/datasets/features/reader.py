"""Image tokens that an encoder and a Q-Former computed once (`minigpt4 cache-features`), as a data set.

A cache is a folder: `manifest.json`, and shards in which each sample is `KEY.json` (its texts, `group` and
`size`) and `KEY.safetensors` with one tensor `image_features` [P, width] in bfloat16. P is tokens per image.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from minigpt4.common.errors import BadSample, ConfigError, DataError
from minigpt4.common.files import expanded, inside, open_regular
from minigpt4.datasets.datasets.shard_reader import RawSample
from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream, caption_dialogue
from minigpt4.models.image_tokens import TokenShape
from minigpt4.prompts.dialogue import Dialogue, Role, Turn

MANIFEST = "manifest.json"
FORMAT = "minigpt4 cached features 1"
DTYPE = torch.bfloat16
NAME = "image_features"
LARGEST_SIZE = 2**16  # in a manifest's shape


def pack_features(features: torch.Tensor) -> bytes:
    """[P, width] -> the bytes of a safetensors file."""
    return save({NAME: features.to(DTYPE).contiguous()})


def unpack_features(data: bytes | None, shape: tuple[int, int]) -> torch.Tensor:
    """The bytes of a safetensors file -> [P, width] in bfloat16. Raises BadSample."""
    if data is None:
        raise BadSample("no features")
    try:
        features = load(data)[NAME]
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadSample("broken features") from error
    if tuple(features.shape) != shape or features.dtype != DTYPE:
        raise BadSample("features of another shape")
    return features


def pack_dialogue(dialogue: Dialogue) -> dict[str, Any]:
    """What the JSON of a sample says of its texts: a caption, or the turns."""
    if dialogue.is_caption and len(dialogue.turns) == 1:
        return {"caption": dialogue.answer}
    return {"turns": [asdict(turn) for turn in dialogue.turns]}


def unpack_dialogue(raw: RawSample, rng: random.Random | None = None) -> Dialogue:
    """What `pack_dialogue` wrote. Raises BadSample."""
    turns = raw.fields.get("turns")
    if turns is None:
        return caption_dialogue(raw)
    try:
        parts = [(turn["role"], turn["text"], turn["verbatim"]) for turn in turns]
        if not all(role in get_args(Role) and isinstance(text, str) for role, text, _ in parts):
            raise BadSample("broken dialogue")
        return Dialogue(tuple(Turn(role, text, verbatim is True) for role, text, verbatim in parts))
    except (KeyError, TypeError, ValueError) as error:
        raise BadSample("broken dialogue") from error


class CachedFeatureStream(WebdatasetStream):
    """As WebdatasetStream, in the same order, with `features` [P, width] where that has `image`.

    Args:
        shards, text_processor: as WebdatasetStream's.
        shape: P and width.
    """

    def __init__(
        self, shards: list[str], shape: tuple[int, int], text_processor: Callable[[str], str]
    ) -> None:
        super().__init__(shards, _no_image, text_processor, unpack_dialogue)
        self.shape = shape

    def load_image(self, raw: RawSample) -> dict[str, Any]:
        height_width = raw.fields.get("size")
        size = None if height_width is None else (int(height_width[0]), int(height_width[1]))
        return {"features": unpack_features(raw.files.get("safetensors"), self.shape), "size": size}


def _no_image(_: np.ndarray) -> torch.Tensor:
    raise BadSample("image among cached features")


@dataclass(frozen=True)
class Manifest:
    """What a cache says about itself.

    Attributes:
        folder: where it is.
        vision: what made it, as `vision_identity` writes it.
        shape: of an image's tokens.
        parts: dicts with `dataset`, `split`, `vis_processor` and `shards`, a list of dicts with `file`
            (below the folder), `source`, `samples` and `bad`; and, of a data set whose pictures and videos
            have files of their own, `video`: which frames these are of.
    """

    folder: Path
    vision: dict[str, Any]
    shape: TokenShape
    parts: list[dict[str, Any]]

    @classmethod
    def read(cls, place: str | Path, key: str) -> "Manifest":
        """Read a cache's manifest.

        Args:
            place: the cache's folder, or the manifest in it.
            key: the YAML key that names it, for messages.

        Raises:
            DataError: if it does not exist, is unfinished, has another format, or names files outside.
        """
        path = Path(expanded(place))
        path = path / MANIFEST if path.is_dir() else path
        try:
            with open_regular(path) as file:
                content = json.load(file)
            if content["format"] != FORMAT:
                raise DataError(f"{key}: {path} is {content['format']!r}, this program reads {FORMAT!r}")
            if not content["complete"]:
                raise DataError(
                    f"{key}: the cache {path.parent} is not finished; the command that makes it resumes it"
                )
            for part in content["parts"]:
                _check_part(part, path.parent)
            return cls(path.parent, dict(content["vision"]), _shape(content["shape"]), content["parts"])
        except FileNotFoundError as error:
            raise DataError(
                f"{key}: no cache in {str(place)!r} ({path} is missing); minigpt4 cache-features makes one"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{key}: {path} is not the manifest of a cache ({reason})") from error

    def check_made(
        self, key: str, vision: Mapping[str, Any], where: str, processors: Mapping[str, dict[str, Any]]
    ) -> None:
        """Raise ConfigError if it was made by other parts than a config names.

        Args:
            key: the YAML key that names it, for messages.
            vision: of the config's, as `vision_identity` writes it.
            where: `datasets.NAME`.
            processors: split -> what the config's image processor says of itself.
        """
        from minigpt4.models.identity import other_vision

        difference = other_vision(self.vision, vision)
        if difference:
            raise ConfigError(f"{key}: the cache {self.folder} {difference}")
        for part in self.parts:
            own = processors.get(part["split"], part["vis_processor"])
            if own != part["vis_processor"]:
                raise ConfigError(
                    f"{key}: the cache {self.folder} was made with the image processor "
                    f"{part['vis_processor']}, {where}.vis_processor.{part['split']} is {own}"
                )

    def of(self, dataset: str) -> "Manifest":
        """The same of the parts of one data set."""
        return replace(self, parts=[part for part in self.parts if part["dataset"] == dataset])

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(part["split"] for part in self.parts))

    def shards(self, split: str) -> list[str]:
        """The paths of the shards of a split that hold samples."""
        return [
            str(inside(self.folder, shard["file"]))
            for part in self.parts
            if part["split"] == split and "video" not in part
            for shard in part["shards"]
            if shard["samples"]
        ]


def _check_part(part: dict[str, Any], folder: Path) -> None:
    """Raise ValueError, KeyError or TypeError if a part of a manifest is invalid."""
    for shard in part["shards"]:
        inside(folder, shard["file"])
        if not isinstance(shard["samples"], int):
            raise TypeError(f"samples is {shard['samples']!r}")
    if not isinstance(part["split"], str) or not part["vis_processor"]:
        raise TypeError(f"split is {part['split']!r}")


def _shape(sizes: dict[str, int]) -> TokenShape:
    """The shape of the tokens. Raises ValueError or TypeError: memory is allocated by it."""
    shape = TokenShape(**sizes)
    if not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in sizes.values()):
        raise ValueError(f"shape is {sizes}, each must be from 1 to {LARGEST_SIZE:,}")
    return shape
