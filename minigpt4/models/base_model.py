"""What every model here can do: be built from YAML, keep frozen parts frozen, save what it trains."""

import inspect
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import OmegaConf
from torch import nn

from minigpt4.common.config import CONFIG_DIR, bind, load_yaml, plain
from minigpt4.common.errors import CheckpointError, ConfigError, nearest
from minigpt4.weights.checkpoint import load_into, read_checkpoint, require_keys
from minigpt4.weights.resolver import WeightSource, locate, resolve_file

log = logging.getLogger(__name__)

# `arch` and `model_type` chose the class; `prompt` stands in the original's model defaults and has no
# meaning there either.
IGNORED_KEYS = ("arch", "model_type", "prompt")

# An image token is what the first layer sees: it stands beside word embeddings as the model's own
# embedding call returns them, and nothing rescales it. Since transformers 5.4 that is so in Gemma too.
FIRST_LAYER_INPUT = "first_layer_input"
# An image token is in the scale of the embedding table's rows, and the model multiplies both by its factor
# (Gemma's sqrt(width)), as Gemma did in transformers before 5.4.
TABLE_ROW = "table_row"


class BaseModel(nn.Module):
    """An nn.Module with frozen parts.

    Subclasses name their defaults in PRETRAINED_MODEL_CONFIG_DICT (model type -> YAML below configs/).
    """

    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {}
    DEFAULT_MODEL_TYPE = ""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        # Beginnings of the keys that `ckpt` may leave out even where they are trained: the parts whose
        # weights came from a file of their own.
        self.loaded_elsewhere: tuple[str, ...] = ()

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
    def arguments(cls, cfg: Mapping) -> dict[str, Any]:
        """The constructor's arguments that a `model:` section holds. Unknown keys raise ConfigError."""
        checkpoint_keys = inspect.signature(_checkpoint_keys).parameters
        return bind(cls, cfg, where="model", ignore=(*IGNORED_KEYS, *checkpoint_keys))

    @classmethod
    def from_config(cls, cfg: Mapping, device: str | torch.device | None = None, **built: Any) -> "BaseModel":
        """Build from a YAML's `model:` section and load its `ckpt`, if it names one.

        Where the section names a `model_type`, what it does not say comes from that type's defaults.

        Args:
            cfg: the section.
            device: where the model goes; None takes the best there is.
            built: arguments of the constructor that no YAML holds.

        Raises:
            ConfigError: for unknown keys, placeholders and paths that do not exist.
            CheckpointError: for weights that do not fit.
        """
        if cfg.get("model_type"):
            cfg = OmegaConf.merge(load_yaml(cls.default_config_path(cfg["model_type"])).model, cfg)
        cfg = plain(cfg)
        arguments = cls.arguments(cfg)
        checkpoint_keys = inspect.signature(_checkpoint_keys).parameters
        path, how = _checkpoint_keys(**{key: cfg[key] for key in checkpoint_keys if key in cfg})
        for source in cls.weight_sources(cfg):
            locate(source)  # all that is mistyped is told before anything is fetched or read
        path = None if path is None else resolve_file(path, "model.ckpt")
        model = cls(**{"device": device} | arguments | built)
        if path is not None:
            model.load_checkpoint(path, allow_missing=model.loaded_elsewhere, **how)
        return model

    @classmethod
    def weight_sources(cls, cfg: Mapping) -> list[WeightSource]:
        """The files and folders that a `model:` section needs, defaults included."""
        return [WeightSource("model.ckpt", cfg["ckpt"], "file")] if cfg.get("ckpt") else []

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

    def part_to_shard(self) -> nn.Module | None:
        """What lies on the CPU until the engine spreads it over the ranks; None if nothing does."""

    def checkpoint_key(self, name: str) -> str:
        """The name a parameter has in checkpoints (the original's), where that differs from ours."""
        return name

    def checkpoint_meta(self) -> dict[str, Any]:
        """What a checkpoint must remember of the parts it was trained beside."""
        return {}

    def find_mismatch(self, meta: Mapping[str, Any]) -> str | None:
        """In words, what a checkpoint was trained beside that is another part here; None if nothing."""

    def in_own_convention(self, tensors: dict[str, torch.Tensor], convention: str) -> dict[str, torch.Tensor]:
        """Tensors of a checkpoint made under another embedding convention, as this model needs them."""
        return tensors

    def trainable_state_dict(self) -> dict[str, torch.Tensor]:
        """The parameters that are trained, under their names in checkpoints."""
        return {
            self.checkpoint_key(name): parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load_checkpoint(
        self,
        path: str | Path,
        allow_missing: tuple[str, ...] = (),
        *,
        allow_mismatch: bool = False,
        embedding_convention: str | None = None,
    ) -> dict[str, Any]:
        """Load the `model` part of a checkpoint and return the whole of it.

        Args:
            path: the file.
            allow_missing: beginnings of keys that need not be in it.
            allow_mismatch: load it although it was trained beside other parts, if only the shapes fit.
            embedding_convention: under which it was made; None for this project's own.

        Raises:
            CheckpointError: if it is no checkpoint, lacks a trainable tensor, has one the model does not
                know, was trained beside other parts, or under another convention than is said.
        """
        checkpoint = read_checkpoint(path)
        meta = checkpoint.get("meta", {})
        if not isinstance(meta, Mapping):
            raise CheckpointError(f"{path}: `meta` is a {type(meta).__name__}, it must be a dict")
        mismatch = self.find_mismatch(meta)
        if mismatch and not allow_mismatch:
            hint = "model.ckpt_allow_mismatch: True loads it all the same"
            raise CheckpointError(f"{path} {mismatch} ({hint})")
        if mismatch:
            log.warning("%s %s, and is loaded all the same", path, mismatch)
        convention = embedding_convention or FIRST_LAYER_INPUT
        if meta.get("embedding_convention", convention) != convention:
            raise CheckpointError(
                f"{path} was trained with embedding_convention {meta['embedding_convention']}, not "
                f"{convention}: please set model.ckpt_embedding_convention to it"
            )
        own = {self.checkpoint_key(name): name for name, _ in self.named_parameters()}
        for key in checkpoint["model"]:
            if key not in own:
                raise CheckpointError(f"{path}: unexpected key {key!r}{nearest(key, own)}")
        needed = {key for key in self.trainable_state_dict() if not key.startswith(allow_missing)}
        require_keys(needed, checkpoint["model"], source=str(path))
        tensors = {own[key]: value for key, value in checkpoint["model"].items()}
        tensors = self.in_own_convention(tensors, convention)
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


def _checkpoint_keys(
    ckpt: str | None = None,
    ckpt_allow_mismatch: bool = False,
    ckpt_embedding_convention: str | None = None,
) -> tuple[str | None, dict[str, Any]]:
    """The keys about the checkpoint -> its source, and the arguments of `load_checkpoint`."""
    conventions = (FIRST_LAYER_INPUT, TABLE_ROW)
    if ckpt_embedding_convention not in (None, *conventions):
        raise ConfigError(
            f"model.ckpt_embedding_convention is {ckpt_embedding_convention!r}"
            f"{nearest(str(ckpt_embedding_convention), conventions)} (known: {', '.join(conventions)})"
        )
    how = {"allow_mismatch": ckpt_allow_mismatch, "embedding_convention": ckpt_embedding_convention}
    return ckpt or None, how
