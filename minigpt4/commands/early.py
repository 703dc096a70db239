"""Checks before the model's libraries are imported, which takes many seconds."""

from collections.abc import Callable, Sequence

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
    from minigpt4.weights.paths import existing_file
    from minigpt4.weights.resolver import WeightSource, locate

    pick_device(device)
    settings = cfg.model_settings()
    if prompts := getattr(settings, "prompt_path", None):
        existing_file(prompts, "model.prompt_path")
    for name in files:
        value = getattr(settings, name, None)
        unused = name == "q_former_model" and not getattr(settings, "has_qformer", True)
        if value and isinstance(value, str) and value != RANDOM and not unused:
            locate(WeightSource(f"model.{name}", value, "model" if name == "llama_model" else "file"))


def check_files(images: Sequence[str], videos: Sequence[str], subtitles: Sequence[str]) -> None:
    """Open what a command line names, before a model is built that could not be asked about it.

    Raises:
        DataError: naming the file that cannot be read, as it was given.
    """
    from minigpt4.common.errors import BadSample, DataError
    from minigpt4.common.files import expanded
    from minigpt4.processors.pictures import read_picture
    from minigpt4.processors.subtitles import read_subtitles
    from minigpt4.processors.video import video_info

    read: dict[str, tuple[Sequence[str], Callable[[str], object]]] = {
        "image": (images, read_picture),
        "video": (videos, video_info),
        "file of subtitles": (subtitles, read_subtitles),
    }
    for kind, (paths, opened) in read.items():
        for path in paths:
            try:
                opened(expanded(path))
            except BadSample as bad:
                raise DataError(f"The {kind} {path} cannot be read: {bad}.") from bad
            except OSError as error:
                raise DataError(f"The {kind} {path} cannot be read: {error.strerror}.") from error
