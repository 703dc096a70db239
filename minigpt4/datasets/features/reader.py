"""Image tokens that an encoder and a Q-Former made once (`minigpt4 cache-features`), as a stream.

A cache is a folder: `manifest.json`, and shards in which each sample is `KEY.json` (caption, group) and
`KEY.safetensors` with one tensor `image_features` [P, width] in bfloat16. P is tokens an image.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets.base_dataset import BadSample, check_inside
from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
from minigpt4.models.image_tokens import TokenShape
from minigpt4.processors.base_processor import BaseProcessor

MANIFEST = "manifest.json"
FORMAT = "minigpt4 cached features 1"
DTYPE = torch.bfloat16
NAME = "image_features"


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


class CachedFeatureStream(WebdatasetStream):
    """As WebdatasetStream, in the same order, with `image_features` [P, width] where that has `image`.

    Args:
        shards, text_processor, training, seed: as WebdatasetStream's.
        shape: P and width.
    """

    def __init__(
        self,
        shards: list[str],
        shape: tuple[int, int],
        text_processor: Callable[[str], str],
        *,
        training: bool,
        seed: int = 0,
    ) -> None:
        # There are no pictures to transform.
        super().__init__(shards, BaseProcessor(), text_processor, training=training, seed=seed)
        self.shape = shape

    def look(self, raw: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"features": unpack_features(raw.get("safetensors"), self.shape)}


@dataclass(frozen=True)
class Manifest:
    """What a cache says of itself.

    Attributes:
        folder: where it lies.
        vision: what made it, as `vision_identity` writes it.
        shape: of an image's tokens.
        parts: dicts with `dataset`, `split`, `vis_processor` and `shards`, a list of dicts with `file`
            (below the folder), `source`, `samples` and `bad`.
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
            DataError: if there is none, it is of another kind, unfinished, or names files outside.
        """
        path = Path(place).expanduser()
        path = path / MANIFEST if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise DataError(f"{key}: {path} is {content['format']!r}, this program reads {FORMAT!r}")
            if not content["complete"]:
                raise DataError(
                    f"{key}: the cache {path.parent} is not finished; the command goes on with it"
                )
            for part in content["parts"]:
                for shard in part["shards"]:
                    check_inside(shard["file"])
            shape = TokenShape(**content["shape"])
            return cls(path.parent, content["vision"], shape, content["parts"])
        except FileNotFoundError as error:
            raise DataError(
                f"{key}: there is no cache {str(place)!r} (no {path}); minigpt4 cache-features makes one"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{key}: {path} is no manifest of a cache ({error})") from error

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(part["split"] for part in self.parts))

    def shards(self, split: str) -> list[str]:
        """The shards of a split that hold samples."""
        return [
            str(self.folder / shard["file"])
            for part in self.parts
            if part["split"] == split
            for shard in part["shards"]
            if shard["samples"]
        ]
