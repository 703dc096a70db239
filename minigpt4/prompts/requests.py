"""Requests for captions, from a file of instructions."""

from minigpt4.common.errors import BadText, ConfigError, reading
from minigpt4.prompts.dialogue import check_text
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER
from minigpt4.weights.paths import existing_file


def read_requests(path: str) -> list[str]:
    """The requests of a file, one per line; those without an image are left out, as in the original.

    Args:
        path: a path, or `pkg://module/file` inside an installed package; empty means no requests.

    Raises:
        ConfigError: if the file does not exist, has no line with an image, or cannot be tokenised.
    """
    if not path:
        return []
    file = existing_file(path, "model.prompt_path")
    with reading(file, ConfigError, failed="model.prompt_path: {} could not be read"):
        lines = file.read_text(encoding="utf-8").splitlines()
    requests = [line for line in lines if IMAGE_PLACEHOLDER in line]
    for request in requests:
        try:
            check_text(request)
        except BadText as bad:
            raise ConfigError(f"model.prompt_path: {path} holds {bad}") from bad
    if not requests:
        raise ConfigError(f"model.prompt_path: no line of {path} holds {IMAGE_PLACEHOLDER}")
    return requests
