"""What the host does of a step, and that the device is asked for nothing behind it."""

import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt4.common.errors import DataError
from minigpt4.models import language_model
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.sample import Batch, Sample
from tests.support.families import save_model
from tests.support.golden import build_golden_model
from tests.support.prompts import answer_ids, whole

PICTURES = torch.arange(3 * 3 * 56 * 56).remainder(251).to(torch.uint8).view(3, 3, 56, 56)
SAMPLES = {"image": PICTURES, "answer": ["a dog", "two cars and a house", "a"]}


class NothingIsRead(TorchDispatchMode):
    """Raises where a value of a tensor decides what is done next: there a GPU would be waited for."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.__name__.split(".")[0] not in self.READS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_prepare_adds_the_tokens_and_leaves_the_samples_alone(golden_model) -> None:
    batch = Batch.from_mapping(SAMPLES)
    tokens = golden_model.prepare(batch).tokens
    assert batch.tokens is None and batch.dialogues[0].is_caption
    assert {t.device.type for t in vars(tokens).values()} == {"cpu"}
    ends = [len(answer_ids(golden_model.prompts, answer)) for answer in SAMPLES["answer"]]
    assert tokens.targets == sum(ends) == len(tokens.target_index)


def test_what_is_prepared_is_not_prepared_again(golden_model, monkeypatch) -> None:
    prepared = golden_model.prepare(SAMPLES)
    with torch.no_grad():
        expected = golden_model(SAMPLES)["loss"]
        monkeypatch.setattr(type(golden_model), "prepare", None)
        assert torch.equal(golden_model(prepared)["loss"], expected)


def test_the_prompt_is_drawn_by_prepare() -> None:
    model = build_golden_model(prompt_path="prompts/alignment.txt", prompt_template="{} ")
    random.seed(3)
    drawn = [model.prepare(SAMPLES).tokens.ids[0].tolist() for _ in range(4)]
    random.seed(3)
    written = [random.choice(model.prompt_list) for _ in range(4)]
    for ids, prompt in zip(drawn, written, strict=True):
        answers = [whole(prompt, answer) for answer in SAMPLES["answer"]]
        expected = model.prompts.encode(answers).ids[0].tolist()
        assert ids == expected
    assert len(set(written)) > 1


def test_images_without_a_place_are_refused_before_the_device_is_asked(golden_model) -> None:
    two_each = {"image": PICTURES[None].expand(3, -1, -1, -1, -1)[:, :2], "answer": SAMPLES["answer"]}
    with pytest.raises(ValueError, match=r"the prompts have 1 <ImageHere>, but 2 images were given"):
        golden_model.prepare(two_each)


def test_the_sum_over_targets(golden_model) -> None:
    with torch.no_grad():
        losses, tokens = golden_model.token_losses(SAMPLES)
        total = golden_model(SAMPLES, reduction="sum")["loss"]
        mean = golden_model(SAMPLES)["loss"]
    torch.testing.assert_close(total, losses.sum())
    torch.testing.assert_close(total / tokens.targets, mean)
    assert tokens.targets == 18


def test_a_frozen_encoder_leaves_no_graph_and_a_trained_one_does() -> None:
    assert not build_golden_model().image_tokens(PICTURES).requires_grad
    for trained in ("freeze_vit", "freeze_qformer"):
        assert build_golden_model(**{trained: False}).train().image_tokens(PICTURES).requires_grad
    with torch.no_grad():
        assert not build_golden_model(freeze_vit=False).image_tokens(PICTURES).requires_grad


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3", "qwen2"])
def test_nothing_is_read_from_the_device_up_to_the_gradient(family: str, tmp_path) -> None:
    """Gemma-2 is not among them: its attention is not SDPA, and transformers looks at its positions."""
    folder = save_model(tmp_path / "llm", family)
    model = build_golden_model(llama_model=str(folder), end_sym=None, ckpt=None, llm_sanity_check=False)
    prepared = model.train().prepare(SAMPLES)
    with NothingIsRead():
        model(prepared, reduction="sum")["loss"].backward()
    assert model.llama_proj.weight.grad.abs().sum() > 0


def test_transformers_would_wait_for_the_device(golden_model, monkeypatch) -> None:
    """So the test above can fail."""
    monkeypatch.setattr(language_model, "unmasked", lambda *_: nullcontext())
    with pytest.raises(AssertionError, match="waits for the device"), NothingIsRead(), torch.no_grad():
        golden_model(golden_model.prepare(SAMPLES))


def test_a_batch_of_text_alone_has_a_gradient_of_zeros() -> None:
    """Every update needs one: DDP waits for it, and a batch without images would end a run."""
    model = build_golden_model()
    talk = Dialogue.of([("who are you?", "a dog")])
    batch = Batch.of([Sample(dialogue=talk), Sample(dialogue=talk)])
    model(batch)["loss"].backward()
    assert not model.llama_proj.weight.grad.any() and not model.llama_proj.bias.grad.any()
    with_image = Sample(dialogue=Dialogue.of([("<ImageHere> who?", "a dog")]), image=PICTURES[0])
    model(Batch.of([Sample(dialogue=talk), with_image]))["loss"].backward()
    assert model.llama_proj.weight.grad.any()


@pytest.mark.parametrize("dialogue", [Dialogue((Turn("user", "who?"),)), Dialogue.prompted("who?", "")])
def test_a_batch_without_a_target_is_refused(dialogue: Dialogue) -> None:
    model = build_golden_model(end_sym="")
    with pytest.raises(DataError, match="target"):
        model.prepare(Batch.of([Sample(dialogue=dialogue)]))
