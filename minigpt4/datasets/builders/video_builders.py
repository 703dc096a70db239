"""The data sets of MiniGPT4-video."""

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder
from minigpt4.datasets.settings import CmdVideoInfo, VideoInfo, WebVidInfo

_SETS = "minigpt4.datasets.datasets.video_sets"


@registry.register_builder("cmd_video")
class CMDVideoBuilder(MapStyleBuilder):
    """Condensed Movies."""

    DATASET = f"{_SETS}:CMDVideoDataset"
    DATASET_CONFIG = "cmd_video/default.yaml"
    BUILD_INFO = CmdVideoInfo


@registry.register_builder("webvid")
class WebVidBuilder(MapStyleBuilder):
    """WebVid."""

    DATASET = f"{_SETS}:WebVidDataset"
    DATASET_CONFIG = "webvid/default.yaml"
    BUILD_INFO = WebVidInfo


@registry.register_builder("video_chatgpt")
class VideoChatGPTBuilder(MapStyleBuilder):
    """VideoInstruct100K, of Video-ChatGPT."""

    DATASET = f"{_SETS}:VideoChatGPTDataset"
    DATASET_CONFIG = "video_chatgpt/default.yaml"
    BUILD_INFO = VideoInfo
