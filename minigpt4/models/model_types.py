"""Model types: the sets of defaults that `model.model_type` names. Imports neither torch nor transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.config import CONFIG_DIR, load_yaml
from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.exported import is_exported
from minigpt4.common.files import expanded
from minigpt4.common.schema import merge, plain_section
from minigpt4.models.fork_keys import translate_fork_keys

# `model_type` -> its defaults, a YAML below minigpt4/configs/; the first one where the YAML names none.
MINIGPT4_TYPES = {
    "pretrain_vicuna0": "models/minigpt4_vicuna0.yaml",
    "pretrain_llama2": "models/minigpt4_llama2.yaml",
    "pretrain_gemma": "models/minigpt4_gemma.yaml",
    "pretrain_gemma_noqformer": "models/minigpt4_gemma_noqformer.yaml",
    "pretrain_auto": "models/minigpt4_auto.yaml",
    "tiny_llama": "models/minigpt4_tiny_llama.yaml",
    "tiny_gemma": "models/minigpt4_tiny_gemma.yaml",
    "smollm2": "models/minigpt4_smollm2.yaml",
    "gemma3_270m": "models/minigpt4_gemma3_270m.yaml",
}

MINIGPT_V2_TYPES = {
    "pretrain": "models/minigpt_v2.yaml",
    "pretrain_gemma": "models/minigpt_v2_gemma.yaml",
    "pretrain_auto": "models/minigpt_v2_auto.yaml",
    "video": "models/minigpt4_video.yaml",
    "tiny_llama": "models/minigpt_v2_tiny_llama.yaml",
    "tiny_gemma": "models/minigpt_v2_tiny_gemma.yaml",
}

# A model type's defaults for these describe the part that the first key names: where the user names another
# part, they do not apply.
DESCRIBED_BY = {"vit_model": ("vit_weights", "vit_kwargs")}


def defaults_path(model_type: Any, types: Mapping[str, str]) -> Path:
    """The YAML with a model type's defaults; for a folder of `minigpt4 export`, the folder.

    Raises:
        ConfigError: for an unknown model type.
    """
    folder = Path(expanded(str(model_type)))
    if is_exported(folder):
        return folder
    if str(model_type) not in types:
        raise ConfigError(
            f"model.model_type: unknown {model_type!r}{nearest(str(model_type), types)} "
            f"(known: {', '.join(types)})"
        )
    return CONFIG_DIR / types[str(model_type)]


def merge_defaults(
    section: Mapping[str, Any], types: Mapping[str, str], fallback: str = ""
) -> dict[str, Any]:
    """A section `model:` over the defaults of its model type, in our keys; merging twice changes nothing.

    Args:
        section: what the user says.
        types: the known model types -> their YAML below `minigpt4/configs/`.
        fallback: the type where the section names none; without one, such a section is returned as it is.

    Raises:
        ConfigError: for an unknown model type.
    """
    given = translate_fork_keys(plain_section(section, "model"))
    model_type = given.get("model_type") or fallback
    if not model_type:
        return given
    defaults = plain_section(load_yaml(defaults_path(model_type, types)).get("model"), "model")
    for part, described_by in DESCRIBED_BY.items():
        if given.get(part, defaults.get(part)) != defaults.get(part):
            defaults = {name: value for name, value in defaults.items() if name not in described_by}
    return plain_section(merge(defaults, given, "model"), "model")
