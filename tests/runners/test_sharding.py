"""Which ranks share a language model, and how they talk; test_execution_modes.py trains with it."""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from minigpt4.runners.sharding import shard_layers
from tests.support import GOLDEN


@pytest.fixture
def one_rank() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_ranks_on_the_cpu_do_not_talk_by_way_of_a_card(one_rank: None, monkeypatch) -> None:
    """Where torch sees one, its meshes make groups of their own, in some versions with NCCL."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "llm").requires_grad_(False)
    shard_layers(model, torch.device("cpu"))
    sharded = [p for p in model.parameters() if isinstance(p, DTensor)]
    assert {id(p.device_mesh.get_group()) for p in sharded} == {id(distributed.group.WORLD)}
