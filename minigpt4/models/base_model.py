"""What every model here can do: be built from YAML, save what it trains, and load it again."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from minigpt4.common.errors import CheckpointError, nearest, reading
from minigpt4.common.exported import is_exported
from minigpt4.common.files import expanded
from minigpt4.common.schema import parse, plain_section
from minigpt4.models.foreign_tensors import (
    endings_of,
    find_other,
    second_names,
    split_derived,
)
from minigpt4.models.model_types import defaults_path, merge_defaults
from minigpt4.models.saved_lora import saved_alpha
from minigpt4.models.settings import FIRST_LAYER_INPUT, TABLE_ROW, ModelSettings
from minigpt4.models.stock_names import from_stock
from minigpt4.weights.checkpoint import load_into, read_checkpoint, require_keys
from minigpt4.weights.resolver import WeightSource

log = logging.getLogger(__name__)

M = TypeVar("M", bound="BaseModel")


class BaseModel(nn.Module):
    """An nn.Module that a YAML's section `model:` describes, and of which checkpoints hold what is trained.

    Attributes:
        SETTINGS: the keys of that section, and its defaults by model type.
    """

    SETTINGS: ClassVar[type[ModelSettings]] = ModelSettings

    @classmethod
    def default_config_path(cls, model_type: str) -> Path:
        """The YAML with a model type's defaults."""
        return defaults_path(model_type, cls.SETTINGS.TYPES)

    @classmethod
    def settings(cls, cfg: Mapping[str, Any] | ModelSettings) -> ModelSettings:
        """A section `model:`, checked; where it names a model type, that type's defaults are merged in.

        Raises:
            ConfigError: naming the key.
        """
        if isinstance(cfg, ModelSettings):
            return cfg
        section, known = plain_section(cfg, "model"), cls.SETTINGS.TYPES
        model_type = section.get("model_type")
        if model_type and model_type not in known and not is_exported(expanded(str(model_type))):
            # `Config` refuses it. Outside code passes sections that it has read itself, of types of its own.
            guess = nearest(str(model_type), known)
            log.warning("model.model_type %r is unknown%s: it brings no defaults", model_type, guess)
            del section["model_type"]
        return parse(cls.SETTINGS, merge_defaults(section, known), "model")

    @classmethod
    def from_config(
        cls: type[M],
        cfg: Mapping[str, Any] | ModelSettings,
        device: str | torch.device | None = None,
        **built: Any,
    ) -> M:
        """Build from a YAML's `model:` section, on a device or the best there is."""
        raise NotImplementedError

    @classmethod
    def weight_sources(cls, cfg: Mapping[str, Any] | ModelSettings) -> list[WeightSource]:
        """The files and folders that a `model:` section needs, defaults included."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def part_to_shard(self) -> nn.Module | None:
        """What lies on the CPU until the engine spreads it over the ranks; None if nothing does."""

    def checkpoint_key(self, name: str) -> str:
        """The name a parameter has in checkpoints (the original's), where that differs from ours."""
        return name

    def checkpoint_meta(self) -> dict[str, Any]:
        """What a checkpoint must remember of the parts it was trained with."""
        return {}

    def find_mismatch(self, meta: Mapping[str, Any]) -> str | None:
        """In words, what a checkpoint was trained with that differs here; None if nothing does."""

    def find_unfit(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> str | None:
        """In words, why a checkpoint's tensors cannot be loaded; None where their keys alone decide."""

    def explain_shapes(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """A hint for the message about a tensor of a checkpoint that has another shape here."""
        return ""

    def scales_embeddings(self) -> bool:
        """Whether embeddings are not the rows of their table, so that conventions differ."""
        return False

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
            allow_missing: beginnings of keys, of which it need not have any.
            allow_mismatch: load it although it was trained with other parts, as long as the shapes fit.
            embedding_convention: under which it was made; None: as it says itself.

        Raises:
            CheckpointError: if it is not a checkpoint, lacks a trainable tensor, has one that the model does
                not know, or was trained with other parts or under another convention than is said.
        """
        checkpoint = read_checkpoint(path)
        meta = checkpoint.get("meta", {})
        if not isinstance(meta, Mapping):
            raise CheckpointError(f"{path}: `meta` is a {type(meta).__name__}, it must be a dict")
        meta = {**saved_alpha(checkpoint), **meta}
        again = second_names(self, self.checkpoint_key)
        found, follow = split_derived(from_stock(checkpoint["model"]), again)
        with reading(path, failed="{} cannot be compared with the model: its `meta` is damaged"):
            mismatch = self.find_mismatch(meta) or find_other(follow, again)
            unfit = self.find_unfit(found, meta)
            convention = self._convention_of(meta, embedding_convention, path)
        if mismatch and not allow_mismatch:
            loads = not unfit and self._has_shapes_of(found)
            advice = " (model.ckpt_allow_mismatch: True loads it anyway)" if loads else ""
            raise CheckpointError(f"{path} {mismatch}{advice}")
        if mismatch:
            log.warning("%s %s, and is loaded anyway", path, mismatch)
        if unfit:
            raise CheckpointError(f"{path} {unfit}")
        own = {self.checkpoint_key(name): name for name, _ in self.named_parameters()}
        for key in found:
            if key not in own:
                raise CheckpointError(f"{path}: unexpected key {key!r}{nearest(key, own)}")
        lacking = tuple(part for part in allow_missing if not any(key.startswith(part) for key in found))
        needed = {key for key in self.trainable_state_dict() if not key.startswith(lacking)}
        require_keys(needed, found, source=str(path))
        if follow:
            log.info("%s: passed over what follows from the architecture: %s", path, endings_of(follow))
        tensors = self.in_own_convention({own[key]: value for key, value in found.items()}, convention)
        hint = self.explain_shapes(tensors)
        load_into(self, tensors, source=str(path), key_of=self.checkpoint_key, hint=hint)
        return checkpoint

    def _has_shapes_of(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether each tensor of a checkpoint has a parameter of its shape here."""
        shapes = {self.checkpoint_key(name): one.shape for name, one in self.named_parameters()}
        return all(shapes.get(key) == tensor.shape for key, tensor in tensors.items())

    def _convention_of(self, meta: Mapping[str, Any], said: str | None, path: str | Path) -> str:
        """The embedding convention of a checkpoint: as its meta or the user says. Raises CheckpointError."""
        convention = said or FIRST_LAYER_INPUT
        if "embedding_convention" not in meta and said is None and self.scales_embeddings():
            raise CheckpointError(
                f"{path} was made by other code and does not say what scale its projection has, but this "
                "language model multiplies the rows of its embedding table: please set "
                f"model.ckpt_embedding_convention to {TABLE_ROW} if it was trained with transformers before "
                f"5.4 (the Gemma fork's were), else to {FIRST_LAYER_INPUT}"
            )
        if meta.get("embedding_convention", convention) != convention:
            raise CheckpointError(
                f"{path} was trained with embedding_convention {meta['embedding_convention']}, not "
                f"{convention}: please set model.ckpt_embedding_convention to it"
            )
        return convention

    def parameters_by_part(self) -> dict[str, list[nn.Parameter]]:
        """Part, by its name in checkpoints -> its parameters."""
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            parts.setdefault(self.checkpoint_key(name).split(".")[0], []).append(parameter)
        return parts

    def parameter_summary(self) -> dict[str, dict[str, int]]:
        """Part -> {"total", "trainable"}: numbers of parameters."""
        return {
            part: {
                "total": sum(p.numel() for p in parameters),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            }
            for part, parameters in self.parameters_by_part().items()
        }
