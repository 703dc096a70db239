"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank updates beside the linear layers of a frozen model.

The layers are peft's, put in the places of the ones they wrap: the model stays what it is, and is not wrapped
itself.

Shapes: r rank; a layer of `in` inputs and `out` outputs gets A [r, in] and B [out, r].
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from minigpt4.common.errors import ConfigError, in_short
from minigpt4.models.settings import ALL_LINEAR

ADAPTER = "default"  # peft's name for the only one
# In names of peft's layers: the wrapped layer's own tensors, and those of the adapter.
_WRAPPED = ".base_layer."
_OF_ADAPTER = re.compile(rf"\.(lora_[AB])\.{ADAPTER}\.")
# What peft 0.2 put before the names of a model's tensors.
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Lora:
    """An adapter.

    Attributes:
        rank: r.
        alpha: B A is multiplied by alpha / r.
        dropout: of the inputs of A in training.
        targets: the last parts of the names of the layers that get one, or ALL_LINEAR.
    """

    rank: int
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] | str = ("q_proj", "v_proj")

    def add_to(self, model: PreTrainedModel, device: torch.device | None = None) -> None:
        """Add untrained adapters in float32, which change nothing yet: B is zero. All else is frozen.

        Args:
            model: a causal language model.
            device: of the adapters; None: of the layer that each belongs to.

        Raises:
            ConfigError: naming the YAML key, if the layers are not there or cannot be adapted.
        """
        from peft import inject_adapter_in_model

        self._check_targets(model)
        try:
            inject_adapter_in_model(self.peft_config(model), model, ADAPTER)
        except Exception as error:  # whatever peft raises for a layer that it cannot adapt
            raise ConfigError(
                f"model.lora_target_modules: peft cannot adapt these layers of a {model.config.model_type}: "
                f"{in_short(error)}"
            ) from error
        for layer in lora_layers(model):
            for part in (layer.lora_A, layer.lora_B):
                part.to_empty(device=device or _runs_on(layer)).float()
            # Again, in float32: peft has rounded A to the dtype of the layer, or left it on `meta`.
            layer.reset_lora_parameters(ADAPTER, True)

    def peft_config(self, model: PreTrainedModel | None = None) -> Any:
        """As peft's LoraConfig, for a model if one is given."""
        from peft import LoraConfig

        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        if model is not None and targets == ALL_LINEAR:
            # Not peft's own choice, which takes the experts of a mixture for linear layers.
            targets = [name for name, layer in _linear(model) if layer is not model.get_output_embeddings()]
        transposed = model is not None and any(isinstance(module, Conv1D) for module in model.modules())
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            fan_in_fan_out=transposed,
            task_type="CAUSAL_LM",
        )

    def _check_targets(self, model: PreTrainedModel) -> None:
        if self.targets == ALL_LINEAR:
            return
        for target in self.targets:
            found = [module for name, module in model.named_modules() if f".{name}".endswith(f".{target}")]
            if not found or any(isinstance(module, nn.Embedding | nn.ModuleList) for module in found):
                raise ConfigError(
                    f"model.lora_target_modules: {target!r} is not a linear layer of a "
                    f"{model.config.model_type}, which has {', '.join(linear_names(model))}; {ALL_LINEAR} "
                    "takes all of them but the head"
                )


def linear_names(model: nn.Module) -> list[str]:
    """The last parts of the names of the linear layers, sorted."""
    return sorted({name.rpartition(".")[2] for name, _ in _linear(model)})


def _linear(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers by name, but for routers of experts, some of which return more than a tensor."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and "Router" not in type(layer).__name__:
            yield name, layer


def lora_layers(model: nn.Module) -> Iterator[Any]:
    """The layers that have an adapter."""
    return (module for module in model.modules() if hasattr(module, "lora_A"))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add each adapter's product to the weights beside it, in their dtype, and take the adapters out."""
    layer: Any
    for parent in list(model.modules()):
        layer: Any
        for name, layer in list(parent.named_children()):
            if hasattr(layer, "lora_A"):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())


def original_key(name: str) -> str:
    """The name of a tensor in a model with LoRA -> the one that peft 0.2 gave it."""
    return PEFT_PREFIX + _OF_ADAPTER.sub(r".\1.", name.replace(_WRAPPED, "."))


def _runs_on(layer: Any) -> torch.device:
    wrapped = layer.get_base_layer()
    # A weight that accelerate keeps on the CPU or on disk is brought to this device when it is needed.
    brought_to = getattr(getattr(wrapped, "_hf_hook", None), "execution_device", None)
    return wrapped.weight.device if brought_to is None else torch.device(brought_to)
