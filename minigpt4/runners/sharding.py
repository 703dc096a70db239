"""A frozen language model that is too large for one GPU: each rank keeps a part of every layer (FSDP2)."""

import logging
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from minigpt4.common import launch
from minigpt4.models.execution import layers_of
from minigpt4.models.library_head import decoder_of

log = logging.getLogger(__name__)


def shard_layers(language_model: PreTrainedModel, device: torch.device) -> None:
    """Shard the layers of a frozen language model over the ranks of each machine.

    A layer is gathered when its turn comes, in the forward and in the backward pass, and freed after it.
    Where every machine has one rank, all ranks share. Embeddings, head and last norm stay whole on every
    rank: they are a small part, and they are called by themselves. So does what is trained, a LoRA adapter:
    DDP, the optimizer and checkpoints want it whole.

    From here on every forward pass, and every generated token, needs all ranks together.

    Args:
        language_model: on the CPU; never is more than one whole layer of it on the device.
        device: of this rank.

    """
    sharing = launch.ranks_per_model()
    group: Any = distributed.group.WORLD
    if sharing < distributed.get_world_size():
        group, _ = distributed.new_subgroups(sharing)
    # A mesh that makes its own groups gives them NCCL wherever there is a card, also to ranks on the CPU.
    mesh = DeviceMesh.from_group(group, device.type)
    decoder, layers = decoder_of(language_model), layers_of(language_model)
    for layer in layers:
        trained = {p for p in layer.parameters() if p.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    whole = {p for p in language_model.parameters() if not isinstance(p, DTensor)}
    # Shards nothing itself: under a common root, a layer is gathered while the one before it computes.
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    for tensor in (*whole, *language_model.buffers()):
        tensor.data = tensor.data.to(device)
    # So transformers knows that no rank may stop generating before all others do.
    language_model._is_fsdp_managed_module = True  # type: ignore[assignment]
    log.info("the language model's %d layers are sharded over %d ranks", len(layers), sharing)
