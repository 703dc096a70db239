"""Checks before the model's libraries are imported, which takes many seconds."""

from collections.abc import Sequence

from minigpt4.common.config import Config

# Keys of `model:` that name files.
VISION_FILES = ("vit_weights", "q_former_model")
FILES = (*VISION_FILES, "llama_model", "ckpt")


def check_model(cfg: Config, device: str | None, files: Sequence[str] = FILES) -> None:
    """Check that the device and the files of the model exist, without fetching any.

    Args:
        cfg: the whole configuration.
        device: where the model goes; None is the best one.
        files: the keys of the files that are needed.

    Raises:
        ConfigError: naming the key or argument.
    """
    from minigpt4.common.device import pick_device
    from minigpt4.models.settings import RANDOM
    from minigpt4.weights.resolver import WeightSource, locate

    pick_device(device)
    settings = cfg.model_settings()
    for name in files:
        value = getattr(settings, name, None)
        unused = name == "q_former_model" and not getattr(settings, "has_qformer", True)
        if value and isinstance(value, str) and value != RANDOM and not unused:
            locate(WeightSource(f"model.{name}", value, "model" if name == "llama_model" else "file"))
