"""A language model that lies elsewhere than the other parts, as `device_map: auto` may put it."""

from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch._subclasses.fake_tensor import FakeTensorMode

from minigpt4.conversation.chat import Chat
from minigpt4.models.lora import Lora
from tests.support import GOLDEN
from tests.support.golden import build_golden_model, build_golden_v2

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
SAMPLES = {"image": torch.zeros(2, 3, 56, 56, dtype=torch.uint8), "answer": ["a red dog", "two cars"]}


def move(module: torch.nn.Module, device: torch.device, fake: FakeTensorMode) -> None:
    """Replace its tensors by fake ones, which have a shape and a device, but no values."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                moved = fake.from_tensor(tensor.detach()).to(device)
                part._parameters[name] = torch.nn.Parameter(moved, tensor.requires_grad)
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = fake.from_tensor(tensor).to(device)


@pytest.mark.parametrize("home", [SECOND, CPU], ids=["second-card", "cpu"])
def test_the_language_model_may_be_on_another_device(home: torch.device) -> None:
    """With fake tensors: an operation on tensors of two devices raises, as it does on real cards."""
    model = build_golden_model(llm_sanity_check=False)
    prepared, generated = model.prepare(SAMPLES), {}

    def generate(**given: Any) -> torch.Tensor:
        generated.update(given)
        return torch.zeros(1, 2, dtype=torch.long)

    model.llama_model.generate = generate
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        move(model, home, fake)
        move(model.language, FIRST, fake)
        losses, tokens = model.token_losses(prepared)
        assert losses.device == tokens.ids.device == home
        assert model.embed_tokens(tokens.ids).device == home
        embeds = model.embed(tokens, model.encode_img(SAMPLES["image"])[0])
        assert embeds.device == home
        Chat(model, lambda _: None).model_generate(inputs_embeds=embeds, attention_mask=tokens.attention_mask)
        devices = {name: given.device for name, given in generated.items() if torch.is_tensor(given)}
        assert devices == {"inputs_embeds": FIRST, "attention_mask": FIRST}


def test_the_device_of_a_table_that_is_brought_when_it_is_needed(golden_model) -> None:
    """accelerate keeps what does not fit on a card elsewhere, and then the weight itself is on `meta`."""
    model = build_golden_model(llm_sanity_check=False)
    cpu_offload(model.llama_model, execution_device=CPU)
    assert model.llama_model.get_input_embeddings().weight.device.type == "meta"
    assert model.language.device == CPU
    with torch.no_grad():
        assert torch.equal(model(SAMPLES)["loss"], golden_model(SAMPLES)["loss"])


def test_an_adapter_beside_weights_that_are_brought_when_they_are_needed() -> None:
    model = build_golden_v2(lora_r=0, ckpt=None).eval()
    cpu_offload(model.llama_model, execution_device=CPU)
    model.language.lora = Lora(4, 8)
    model.language.lora.add_to(model.llama_model)
    model.load_checkpoint(GOLDEN / "minigptv2_checkpoint.pth")
    with torch.no_grad():
        assert torch.equal(model.eval()(SAMPLES)["loss"], build_golden_v2().eval()(SAMPLES)["loss"])
