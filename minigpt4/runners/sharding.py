"""A frozen language model that no card can hold: each rank keeps a part of every layer (torch's FSDP2)."""

import logging

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from minigpt4.common import launch
from minigpt4.common.errors import ConfigError
from minigpt4.models.execution import layers_of

log = logging.getLogger(__name__)


def shard_layers(language_model: PreTrainedModel, device: torch.device) -> None:
    """Spread the layers of a frozen language model over the ranks of each machine.

    A layer is gathered when it is its turn, forth and back, and let go of after it. Where every machine has
    one rank, all of them share. Embeddings, head and last norm stay whole on every rank: they are a small
    part, and they are called by themselves.

    From here on every forward pass, and every token that is generated, is one of all ranks together.

    Args:
        language_model: on the CPU; at no time is more than one whole layer of it on the device.
        device: of this rank.

    Raises:
        ConfigError: if something inside is trained.
    """
    if any(parameter.requires_grad for parameter in language_model.parameters()):
        raise ConfigError(
            "model.device_map: shard is for a frozen language model, but parts of this one are trained"
        )
    sharing = launch.ranks_per_model()
    machines = distributed.get_world_size() // sharing
    mesh = init_device_mesh(device.type, (machines, sharing), mesh_dim_names=("copy", "part"))["part"]
    decoder, layers = language_model.get_decoder(), layers_of(language_model)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = {p for p in language_model.parameters() if not isinstance(p, DTensor)}
    # Holds nothing itself: under a common root, a layer is gathered while the one before it computes.
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    for tensor in (*whole, *language_model.buffers()):
        tensor.data = tensor.data.to(device)
    # How transformers knows that nobody may stop generating before all others do.
    language_model._is_fsdp_managed_module = True
    log.info("the language model's %d layers are spread over %d ranks", len(layers), sharing)
