"""Dialogues of several turns: which ids, which targets, and the original's loss."""

from typing import Any

import pytest
import torch

from minigpt4.common.config import CONFIG_DIR, load_yaml, plain
from minigpt4.common.registry import registry
from minigpt4.conversation.messages import Conversation
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.prompts.templates import CHATML, LLAMA2, PLAIN, VICUNA_V0
from tests.support import GOLDEN
from tests.support.golden import build_golden_model
from tests.support.prompts import written

# A caption, and two turns about one picture.
SAMPLES = {
    "conv_q": [[None], ["<Img><ImageHere></Img> a red star", "a circle"]],
    "conv_a": [["a star"], ["a red star", "a circle"]],
    "answer": ["a star", "a circle"],
}
IMAGE = [0] * 8
PIXELS = torch.zeros(2, 3, 56, 56, dtype=torch.uint8)


def tiny(name: str) -> MiniGPTBase:
    cfg = plain(load_yaml(CONFIG_DIR / f"models/minigpt4_tiny_{name}.yaml").model)
    precision = {"llm_precision": "fp32", "vit_precision": "fp32"}
    return registry.get_model_class("minigpt4").from_config(cfg | precision, device="cpu")


@pytest.fixture(scope="module")
def gemma() -> MiniGPTBase:
    return tiny("gemma")


def with_images(samples: dict[str, Any]) -> Batch:
    """One picture each; what is in it does not matter."""
    return Batch.from_mapping(
        {"answer": [""] * len(samples["conv_q"]), **samples, "image": PIXELS[: len(samples["conv_q"])]}
    )


def encoded(model: MiniGPTBase, samples: dict[str, Any]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Ids without padding, and (row, target) pairs."""
    tokens = model.prepare(with_images(samples)).tokens
    lengths = tokens.attention_mask.sum(1).tolist()
    ids = [row[:length] for row, length in zip(tokens.ids.tolist(), lengths, strict=True)]
    return ids, list(zip(tokens.target_row.tolist(), tokens.target_ids.tolist(), strict=True))


def test_gemma_reads_every_turn_as_chat_writes_it(gemma: MiniGPTBase) -> None:
    ids, targets = encoded(gemma, SAMPLES)
    # <start_of_turn> 4, <end_of_turn> 5, user 307, model 308, \n 16, <Img> 277, </Img> 309;
    # ▁a 269, a 547, ▁red 374, ▁star 333, ▁circle 348
    assert ids[0] == [2, *IMAGE, 547, 333, 5]
    first = [4, 307, 16, 277, *IMAGE, 309, 269, 374, 333, 5, 16, 4, 308, 16]
    second = [16, 4, 307, 16, 547, 348, 5, 16, 4, 308, 16]
    assert ids[1] == [2, *first, 547, 374, 333, 5, *second, 547, 348, 5]
    assert targets == [(0, 547), (0, 333), (0, 5), *((1, i) for i in (547, 374, 333, 5, 547, 348, 5))]
    chat = Conversation(gemma.template)
    for role, text in zip(chat.roles * 2, [*turns_of(SAMPLES, 1), None], strict=True):
        chat.append_message(role, text)
    assert gemma.prompts.encode([chat.dialogue()]).ids[0].tolist() == ids[1][:-3]
    assert written(gemma.prompts, chat.dialogue()) == chat.get_prompt()


def turns_of(samples: dict[str, Any], row: int) -> list[str]:
    """All that is said before the last answer."""
    pairs = zip(samples["conv_q"][row], samples["conv_a"][row], strict=True)
    return [text for pair in pairs for text in pair][:-1]


def test_llama_begins_every_turn_with_bos() -> None:
    ids, targets = encoded(tiny("llama"), SAMPLES)
    # <s> 1, </s> 2, ▁[INST] 312, ▁[/INST] 313, ▁ 545, ▁<Img> 277, ▁</Img> 311, ▁a 259, ▁red 367
    assert ids[0] == [1, *IMAGE, 259, 333, 2]
    first = [312, 277, *IMAGE, 311, 259, 367, 333, 313, 545]
    assert ids[1] == [1, *first, 259, 367, 333, 2, 1, 312, 259, 341, 313, 545, 259, 341, 2]
    assert [target for row, target in targets if row] == [259, 367, 333, 2, 259, 341, 2]


@pytest.mark.parametrize(
    ("template", "later"),
    [
        (LLAMA2, "<s> [INST] why [/INST] "),
        (VICUNA_V0, "Human: why ###Assistant: "),  # "###" is the end of the reply before it
        (CHATML, "\n<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n"),
        (PLAIN, "why\n"),
        (LLAMA2.with_overrides(None, "\n"), "</s><s> [INST] why [/INST] "),
    ],
)
def test_a_later_turn_does_not_repeat_the_end_symbol(template, later) -> None:
    assert template.later_turn("why") == later


def test_training_and_chat_write_one_text() -> None:
    for template in (LLAMA2, VICUNA_V0, CHATML, PLAIN):
        chat = f"yes{template.next_turn}{template.turn('why')}"
        assert f"yes{template.end}{template.later_turn('why')}" == chat


def test_joined_texts_are_the_same_turns(gemma: MiniGPTBase) -> None:
    joined = {key: ["!@#".join(SAMPLES[key][1])] for key in ("conv_q", "conv_a")}
    lists = {key: [SAMPLES[key][1]] for key in joined}
    assert encoded(gemma, joined | {"connect_sym": ["!@#"]}) == encoded(gemma, lists)


def test_the_originals_loss_of_a_conversation() -> None:
    """MiniGPT-v2's golden conversation, its LoRA merged into the language model."""
    golden = torch.load(GOLDEN / "minigptv2_io.pt", weights_only=True)
    weights = torch.load(GOLDEN / "minigptv2_checkpoint.pth", weights_only=True)["model"]
    model = build_golden_model(
        has_qformer=False, ckpt="", prompt_template="[INST] {} [/INST]", end_sym="</s>", max_txt_len=60
    )
    norm = torch.load(GOLDEN / "minigptv2_ln_vision.pth", weights_only=True)["model"]
    model.ln_vision.load_state_dict({key.removeprefix("ln_vision."): v for key, v in norm.items()})
    model.llama_proj.load_state_dict({key: weights[f"llama_proj.{key}"] for key in ("weight", "bias")})
    prefix = "llama_model.base_model.model."
    for key, up in weights.items():
        if "lora_B" in key:
            part = key.removeprefix(prefix).removesuffix(".lora_B.weight")
            scale = 8 / 4  # alpha / r
            change = scale * up @ weights[key.replace("lora_B", "lora_A")]
            model.llama_model.get_submodule(part).weight.data += change
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model.encode_img(golden["image"])[0], golden["image_embeds"], atol=1e-4)
        loss = model(golden["conversation"] | {"answer": ["", ""]})["loss"]
    assert loss.item() == pytest.approx(golden["loss_conversation"].item(), abs=2e-4)


def test_padding_among_pictures_is_not_looked_at(gemma: MiniGPTBase) -> None:
    """One picture, and two, in one batch: the loss is that of each by itself."""
    pictures = torch.randint(0, 256, (3, 3, 56, 56), dtype=torch.uint8)
    image = torch.stack([torch.stack([pictures[0], torch.zeros_like(pictures[0])]), pictures[1:]])
    both = {
        "image": image,
        "length": [1, 2],
        "conv_q": [["<Img><ImageHere></Img> a star"], ["<Img><ImageHere></Img> a", "<ImageHere> a circle"]],
        "conv_a": [["a star"], ["a circle", "a red star"]],
        "answer": ["a star", "a red star"],
    }
    batch = Batch.from_mapping(both)
    assert torch.equal(batch.images, pictures) and batch.image_counts == [1, 2]
    with torch.no_grad():
        together = gemma(both, reduction="none")["loss"]
        length = gemma.prepare(batch).tokens.ids.shape[1]
        for row in range(2):
            losses, _ = gemma.token_losses(batch.rows([row]))
            assert together[row].item() == pytest.approx(losses.sum().item() / (length - 1), rel=1e-4)
