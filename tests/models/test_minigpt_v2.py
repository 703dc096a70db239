"""MiniGPT-v2 around its golden values: what it is called with, and its model types."""

import argparse
from typing import Any

import pytest
import torch
import yaml

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.models import MiniGPTv2
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.serving import ChatModel
from tests.support import GOLDEN
from tests.support.golden import build_golden_v2
from tests.support.shards import picture

REQUEST = "<Img><ImageHere></Img> [vqa] what is near the tree"
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 12, "min_new_tokens": 12}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.load(GOLDEN / "minigptv2_io.pt", weights_only=True)["image"]


@pytest.fixture(scope="module")
def model() -> MiniGPTBase:
    return build_golden_v2().eval()


def ids(model: MiniGPTBase, **samples: Any) -> list[int]:
    return model.prepare(samples).tokens.ids[0].tolist()


def test_chat_template_puts_instructions_into_turns(model, images) -> None:
    seen = {"image": images[:1], "answer": ["a red bird"]}
    turn = ids(model, **seen, conv_q=[[REQUEST]], conv_a=[["a red bird"]])
    assert ids(model, **seen, instruction_input=[REQUEST]) == turn
    whole = build_golden_v2(chat_template=False)
    assert ids(whole, **seen, instruction_input=[whole.template.turn(REQUEST)]) == turn
    assert ids(whole, **seen, instruction_input=[REQUEST]) != turn


@torch.no_grad()
def test_multi_select_ranks_by_the_loss_over_the_padded_length(model, images) -> None:
    """The candidates of the golden ranks were not recorded; the second way takes each sample by itself."""
    texts = [REQUEST, "<Img><ImageHere></Img> what is this"]
    candidates = [["a red bird", "yes"], ["a small dog", "no"], ["a large tree in the park", "red"]]
    expected = []
    for row, text in enumerate(texts):
        losses = []
        for candidate in candidates:
            samples = {"image": images, "instruction_input": texts, "answer": candidate}
            length = model.prepare(samples).tokens.ids.shape[1]
            one = {"image": images[row : row + 1], "instruction_input": [text], "answer": [candidate[row]]}
            losses.append(model(one, reduction="sum")["loss"].item() / (length - 1))
        expected.append(sorted(range(3), key=losses.__getitem__))
    assert model.multi_select(images, texts, candidates) == expected
    first, second = model.multi_select(images, texts, candidates, num_cand=[3, 2])
    assert first == expected[0] and second == [*(n for n in expected[1] if n < 2), 2]


def test_lengths_leave_padding_out(model, images) -> None:
    first = model.template.turn(REQUEST)
    second = model.template.turn("<Img><ImageHere></Img><Img><ImageHere></Img> which is red")
    padded = torch.stack([torch.stack([images[0], torch.zeros_like(images[0])]), images])
    wanted = model.generate(torch.cat([images[:1], images]), [first, second])
    assert model.generate(padded, [first, second], lengths=[1, 2]) == wanted
    assert model.generate(padded.flatten(0, 1), [first, second], lengths=[1, 2]) == wanted


def test_text_alone_is_trained_among_pictures(images) -> None:
    model = build_golden_v2(lora_dropout=0.0).train()
    text = Sample(dialogue=Dialogue.of([("name a bird", "a red bird"), ("and a tree", "a large tree")]))
    seen = Sample(dialogue=Dialogue.of([(REQUEST, "a red bird")]), image=images[0])
    with torch.no_grad():
        alone = [model.token_losses(Batch.of([one]))[0] for one in (text, seen)]
    losses, _ = model.token_losses(Batch.of([text, seen]))
    torch.testing.assert_close(losses.detach(), torch.cat(alone), rtol=0, atol=1e-5)
    model.token_losses(Batch.of([text]))[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.llama_proj.weight.grad.abs().sum() == 0


@torch.no_grad()
def test_cached_features_give_the_same_loss(model, images) -> None:
    cached = build_golden_v2(features=model.token_shape).eval()
    said = {"conv_q": [[REQUEST]] * 2, "conv_a": [["a red bird"], ["yes"]], "answer": ["", ""]}
    features = Batch.from_mapping(said | {"image": images})
    features.images = model.image_tokens(images)
    assert cached(features)["loss"].item() == pytest.approx(model(said | {"image": images})["loss"].item())


def test_cached_turns_and_batches_equal_fresh_prompts_with_an_adapter(model) -> None:
    def replies(**limits: int) -> list[list[int]]:
        chat, said = ChatModel(model, Blip2ImageEvalProcessor(56), **limits).start_chat(), []
        for turn in range(3):
            chat.ask("what is this?", [picture(turn)] if turn != 1 else [], **GREEDY)
            said.append(list(chat.reply.ids))
        return said

    assert replies() == replies(keep_caches=0)


@pytest.mark.parametrize(
    ("section", "family"),
    [
        ({"arch": "minigpt_v2", "model_type": "tiny_llama"}, "llama"),
        ({"arch": "minigpt_v2", "model_type": "tiny_gemma"}, "gemma"),
        ({"arch": "minigptv2_gemma", "model_type": "tiny_gemma"}, "gemma"),
    ],
)
def test_tiny_types_are_built_of_what_comes_with_the_project(section, family) -> None:
    built = registry.get_model_class(section["arch"]).from_config(section, device="cpu").eval()
    assert isinstance(built, MiniGPTv2)
    assert (built.image_size, built.token_shape.count, built.token_shape.width) == (112, 16, 512)
    assert built.language.config.model_type == family and built.language.lora.rank == 16
    reply = built.generate(
        torch.zeros(1, 3, 112, 112, dtype=torch.uint8), [built.template.turn(REQUEST)], max_new_tokens=4
    )
    assert len(reply) == 1


def config(tmp_path, **section: Any) -> Any:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"model": section}))
    return Config(argparse.Namespace(cfg_path=path, options=[])).model_settings()


def test_the_default_type_is_the_published_model(tmp_path) -> None:
    read = config(tmp_path, arch="minigpt_v2")
    found = (read.image_size, read.has_qformer, read.patches_per_token, read.lora_r, read.lora_alpha)
    assert found == (448, False, 4, 64, 16)
    assert (read.lora_dropout, read.lora_target_modules) == (0.05, ["q_proj", "v_proj"])
    assert (read.prompt_template, read.end_sym) == ("[INST] {} [/INST]", "</s>")


@pytest.mark.parametrize("named", [{}, {"model_type": "pretrain"}, {"model_type": "pretrain_gemma"}])
def test_the_forks_name_is_v2_with_gemma(tmp_path, named) -> None:
    read = config(tmp_path, arch="minigptv2_gemma", llm_type="gemma", llm_backbone="/a/gemma", **named)
    assert (read.arch, read.model_type, read.llama_model) == ("minigpt_v2", "pretrain_gemma", "/a/gemma")
    assert (read.prompt_template, read.llm_backbone, read.lora_r) == (None, "gemma", 64)
    with pytest.raises(ConfigError, match=r"model\.model_type: unknown 'pretain'"):
        config(tmp_path, arch="minigptv2_gemma", model_type="pretain")
