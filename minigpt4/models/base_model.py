"""What every model here can do: be built from YAML, keep frozen parts frozen, save what it trains."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from minigpt4.common.checkpoint import load_into, read_checkpoint, require_keys
from minigpt4.common.config import CONFIG_DIR, bind
from minigpt4.common.errors import CheckpointError, ConfigError, nearest
from minigpt4.common.weights import resolve

# `arch` and `model_type` chose the class, `ckpt` is read below; `prompt` stands in the original's model
# defaults and has no meaning there either.
IGNORED_KEYS = ("arch", "model_type", "ckpt", "prompt")


class BaseModel(nn.Module):
    """An nn.Module with frozen parts.

    Subclasses name their defaults in PRETRAINED_MODEL_CONFIG_DICT (model type -> YAML below configs/).
    """

    # Parts whose weights have a file of their own: `ckpt` may leave them out even where they are trained.
    LOADED_ELSEWHERE: tuple[str, ...] = ()
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {}
    DEFAULT_MODEL_TYPE = ""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []

    @classmethod
    def default_config_path(cls, model_type: str) -> Path:
        known = cls.PRETRAINED_MODEL_CONFIG_DICT
        if model_type not in known:
            raise ConfigError(
                f"model.model_type: unknown {model_type!r}{nearest(str(model_type), known)} "
                f"(known: {', '.join(known)})"
            )
        return CONFIG_DIR / known[model_type]

    @classmethod
    def from_config(cls, cfg: Mapping, device: str | torch.device | None = None) -> "BaseModel":
        """Build from a YAML's `model:` section and load its `ckpt`, if it names one.

        Raises:
            ConfigError: for unknown keys, placeholders and paths that do not exist.
            CheckpointError: for weights that do not fit.
        """
        arguments = bind(cls, cfg, where="model", ignore=IGNORED_KEYS)
        checkpoint = cfg.get("ckpt")
        path = None if checkpoint is None else resolve(checkpoint, "model.ckpt")
        model = cls(**{"device": device} | arguments)
        if path is not None:
            model.load_checkpoint(path, allow_missing=cls.LOADED_ELSEWHERE)
        return model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def freeze(self, module: nn.Module) -> None:
        """Take a part out of training for good: no gradients, and evaluation mode whatever is called."""
        module.requires_grad_(False).eval()
        self._frozen.append(module)

    def own_precision(self, module: nn.Module) -> AbstractContextManager:
        """The context to run a part in: frozen parts keep their dtype, trained ones take autocast's."""
        if module in self._frozen:
            return torch.autocast(self.device.type, enabled=False)
        return nullcontext()

    def train(self, mode: bool = True) -> "BaseModel":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def checkpoint_key(self, name: str) -> str:
        """The name a parameter has in checkpoints (the original's), where that differs from ours."""
        return name

    def checkpoint_meta(self) -> dict[str, Any]:
        """What a checkpoint must remember of the parts it was trained beside."""
        return {}

    def check_meta(self, meta: Mapping[str, Any], source: str) -> None:
        """Raise CheckpointError if a checkpoint was trained beside parts that do not fit these."""

    def trainable_state_dict(self) -> dict[str, torch.Tensor]:
        """The parameters that are trained, under their names in checkpoints."""
        return {
            self.checkpoint_key(name): parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load_checkpoint(self, path: str | Path, allow_missing: tuple[str, ...] = ()) -> dict[str, Any]:
        """Load the `model` part of a checkpoint and return the whole of it.

        Args:
            path: the file.
            allow_missing: beginnings of keys that need not be in it.

        Raises:
            CheckpointError: if it is no checkpoint, lacks a trainable tensor, has one the model does not
                know, or was trained for another language model.
        """
        checkpoint = read_checkpoint(path)
        self.check_meta(checkpoint.get("meta", {}), str(path))
        own = {self.checkpoint_key(name): name for name, _ in self.named_parameters()}
        for key in checkpoint["model"]:
            if key not in own:
                raise CheckpointError(f"{path}: unexpected key {key!r}{nearest(key, own)}")
        needed = {key for key in self.trainable_state_dict() if not key.startswith(allow_missing)}
        require_keys(needed, checkpoint["model"], source=str(path))
        tensors = {own[key]: value for key, value in checkpoint["model"].items()}
        load_into(self, tensors, source=str(path))
        return checkpoint

    def parameter_summary(self) -> dict[str, dict[str, int]]:
        """Part name -> {"total", "trainable"}: numbers of parameters."""
        summary: dict[str, dict[str, int]] = {}
        for name, parameter in self.named_parameters():
            part = summary.setdefault(name.split(".")[0], {"total": 0, "trainable": 0})
            part["total"] += parameter.numel()
            part["trainable"] += parameter.numel() * parameter.requires_grad
        return summary
