"""From a config to a `ChatModel`."""

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.exported import is_exported
from minigpt4.common.files import expanded

if TYPE_CHECKING:
    import torch

    from minigpt4.serving.chat_model import ChatModel

log = logging.getLogger(__name__)


def load(
    source: str | Path, device: "str | torch.device | None" = None, options: Sequence[str] = ()
) -> "ChatModel":
    """Load a model for inference.

    Args:
        source: a YAML file, a folder that contains one, or a folder that `minigpt4 export` wrote.
        device: `cuda`, `cuda:1`, `mps`, `cpu`; None for the best available.
        options: overrides of the YAML, e.g. `model.ckpt=output/run/checkpoint_best.pth`.

    Raises:
        ConfigError: naming the file or the key that cannot be used.
        CheckpointError: for weights that do not fit.
    """
    # The config is checked before anything heavy is imported.
    cfg = Config(Namespace(cfg_path=str(_yaml(Path(source))), options=list(options)))
    return from_config(cfg, device)


def from_config(cfg: Config, device: "str | torch.device | None" = None) -> "ChatModel":
    """As `load`, from a config."""
    from minigpt4.common.device import pick_device
    from minigpt4.common.registry import registry
    from minigpt4.processors.base_processor import processors_of, video_reader_of

    if "arch" not in cfg.model_cfg:
        raise ConfigError("the section `model` is missing")
    processor, _ = processors_of(plain(cfg.datasets_cfg), "train", cfg.model_cfg.get("image_size"))
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    model = model_class.from_config(cfg.model_cfg, device=pick_device(device)).eval()
    model.vision.warn_of_other_statistics(processor, "datasets: the image processor")
    if not cfg.model_cfg.get("ckpt"):
        log.warning("model.ckpt is not set: the projection is untrained, so the model cannot see")
    from minigpt4.serving.chat_model import ChatModel

    return ChatModel(model, processor, video_reader_of(plain(cfg.datasets_cfg)))


def _yaml(source: Path) -> Path:
    source = Path(expanded(source))
    if not source.is_dir() or is_exported(source):
        return source
    found = sorted(source.glob("*.yaml"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ConfigError(f"the folder {source} must contain one .yaml file, found {names}")
    return found[0]
