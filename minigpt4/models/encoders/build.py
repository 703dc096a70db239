"""From the name of an encoder to the encoder with its weights."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
from accelerate import init_empty_weights
from torch import nn

from minigpt4.common.errors import ConfigError, UserError, in_short, nearest, reading
from minigpt4.common.registry import registry
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.encoders.timm_models import TimmEncoder
from minigpt4.models.settings import RANDOM
from minigpt4.models.stock_names import from_stock
from minigpt4.weights.checkpoint import load_into, require_keys
from minigpt4.weights.resolver import read_tensors, resolve_file


def encoder_class(name: str) -> type[BaseEncoder]:
    """The encoder that `model.vit_model` names: registered, `module:Class`, or a model of timm.

    Raises:
        ConfigError: for an unknown name.
    """
    known = registry.list_encoders()
    if name in known or ":" in name:
        return registry.get_encoder_class(name)
    if timm.is_model(name):
        return TimmEncoder
    raise ConfigError(
        f"model.vit_model {name!r} is neither an encoder ({', '.join(known)}) nor a model of timm"
        f"{nearest(name, [*known, *timm.list_models()])}"
    )


def published_weights(name: str) -> str:
    """Where an encoder's own weights are published.

    Raises:
        ConfigError: for an unknown encoder, or one without published weights.
    """
    published = encoder_class(name).published_weights(name)
    if not published:
        raise ConfigError(f"model.vit_weights: no weights of {name} are published: please name a file")
    return published


def build_encoder(
    name: str,
    image_size: int = 224,
    *,
    weights: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    drop_path_rate: float = 0.0,
    attention: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BaseEncoder:
    """Build an encoder; its weights go from the file straight into `dtype` on `device`.

    Args:
        name: see `encoder_class`.
        image_size: side of the square picture, in pixels.
        weights: see `minigpt4.weights.resolver.resolve_file`; None takes the published ones, `random` draws
            them.
        kwargs: overrides of the architecture.
        drop_path_rate: stochastic depth, for training the encoder itself.
        attention: `eager` computes attention in plain products; everything else leaves it to torch's
            `scaled_dot_product_attention`, which chooses the flash kernel where it fits. None takes the
            faster one.
        dtype, device: where the weights are wanted.

    Raises:
        ConfigError: for an unknown encoder, arguments it does not take, or one that does not make tokens of
            pictures of this size.
        CheckpointError: if the weights do not fit.
    """
    make, kwargs = encoder_class(name), dict(kwargs or {})
    drop_path = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    source = published_weights(name) if weights is None else weights
    try:
        with nullcontext() if source == RANDOM else init_empty_weights(include_buffers=False):
            encoder = make(name, image_size, **drop_path, **kwargs)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"model.vit_model {name!r} with vit_kwargs {kwargs}: {in_short(error)}") from error
    if source != RANDOM:
        path = resolve_file(source, "model.vit_weights")
        with reading(path, failed=f"model.vit_weights: {{}} does not fit {name}"):
            tensors = encoder.fit(from_stock(read_tensors(path, mapped=True)), str(path))
            require_keys(set(_learned(encoder.module)), tensors, source=str(path))
            load_into(encoder.module, tensors, source=str(path), dtype=dtype, device=torch.device(device))
    encoder.to(device, dtype)  # buffers; the parameters that were read are there already
    encoder.set_attention(attention, torch.device(device), dtype)
    encoder.patches = encoder.count_patches(image_size)
    return encoder


def _learned(module: nn.Module) -> Iterator[str]:
    """The names that a file of weights must have: parameters and batch-norm statistics."""
    yield from (name for name, _ in module.named_parameters())
    yield from (
        name for name, _ in module.named_buffers() if name.endswith((".running_mean", ".running_var"))
    )
