"""The section `datasets:` as typed settings."""

from dataclasses import dataclass
from typing import Any

from minigpt4.common.schema import key
from minigpt4.datasets.published import FORMATS
from minigpt4.processors.video import VideoReader


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """One entry of `datasets:`; `build_info` is checked by its builder, the processors by their classes."""

    builder: str | None = key(None, "which builder makes it; without it, the one with the entry's name")
    data_type: str = key("images", "the original's key, which is not used", choices=("images", "text"))
    batch_size: int | None = key(None, "samples per batch on each device; training needs it", low=1)
    sample_ratio: float = key(1.0, "its share where several are mixed, relative to the others", low=0)
    task: str | None = key(
        None,
        "the task that its held-out splits are evaluated as, each by itself; by default `run.task`, of all "
        "data sets together",
        names="task",
        effect=False,
    )
    max_new_tokens: int | None = key(
        None,
        "longest answer in an evaluation, in tokens; by default `model.max_txt_len`",
        low=1,
        effect=False,
    )
    build_info: dict[str, Any] | None = key(None, "where its data is: keys of the builder's own")
    vis_processor: dict[str, Any] | None = key(
        None,
        "split -> its image processor: `name` and its arguments; a split without one takes `train`'s",
    )
    text_processor: dict[str, Any] | None = key(None, "as `vis_processor`, for captions")
    video: VideoReader = key(VideoReader)
    features: str | None = key(
        None,
        "the folder that `minigpt4 cache-features` wrote for this section, whose features are read in "
        "place of pictures and videos; for data sets that read those from a folder",
        path=True,
    )


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """`build_info` of cached features."""

    storage: str = key(doc="the folder that minigpt4 cache-features wrote, or the manifest in it")


@dataclass(frozen=True, kw_only=True)
class PublishedInfo:
    """`build_info` of a benchmark; `evaluation_datasets:` is the shorter way to write it."""

    format: str = key(doc="which benchmark", choices=tuple(FORMATS))
    eval_file_path: str = key(doc="the file of annotations, or the folder of the files")
    img_path: str = key(doc="the folder of pictures")
    splits: list[str] | None = key(None, "of those that it has; null: all")


@dataclass(frozen=True, kw_only=True)
class WebdatasetInfo:
    """`build_info` of webdataset shards."""

    storage: str | list[str] | dict[str, Any] = key(
        doc="a folder, a pattern, URLs, a manifest or a list of them, or split (train, val, test) -> that"
    )
    caption_key: str | None = key(
        None, "field of the JSON, or suffix of the text file, with the caption; `caption`, else `txt`"
    )


@dataclass(frozen=True, kw_only=True)
class MapStyleInfo:
    """`build_info` of a folder of images and files of annotations, in one of the original's two layouts.

    A data set with arguments of its own (RefCOCO's `splitBy`) adds them as fields in a subclass.
    """

    image_path: str | dict[str, Any] | None = key(None, "the folder of the images, or split -> folder")
    ann_path: str | list[str] | dict[str, Any] | None = key(
        None, "a file of annotations, a list of them, or split -> that"
    )
    images: dict[str, Any] | None = key(None, "`{storage: FOLDER}`, in place of `image_path`")
    annotations: dict[str, Any] | None = key(None, "`{SPLIT: {storage: FILE}}`, in place of `ann_path`")
    instructions: str | None = key(
        None,
        "a file of instructions in place of the data set's own, one per line, of which a sample draws one; "
        "`{}` stands for its question, phrase or box",
    )


@dataclass(frozen=True, kw_only=True)
class VideoInfo(MapStyleInfo):
    """`build_info` of the data sets of MiniGPT4-video, in its authors' keys."""

    vis_root: str | dict[str, Any] | None = key(None, "the folder of the videos, or split -> folder")
    ann_paths: list[str] | dict[str, Any] | None = key(None, "the files of annotations, or split -> files")


@dataclass(frozen=True, kw_only=True)
class CmdVideoInfo(VideoInfo):
    """As VideoInfo, and what is said."""

    cc_path: str | None = key(None, "the file of what is said in each video; null: none", path=True)


@dataclass(frozen=True, kw_only=True)
class WebVidInfo(VideoInfo):
    """As VideoInfo, and subtitles."""

    subtitles_path: str | None = key(None, "the folder of the subtitles; null: none are read", path=True)


@dataclass(frozen=True, kw_only=True)
class FolderInfo(MapStyleInfo):
    """As MapStyleInfo, or one folder that holds both."""

    storage: str | dict[str, Any] | None = key(
        None, "the folder of images and annotations, or split -> folder, in place of the keys above"
    )
