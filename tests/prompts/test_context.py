"""Dialogues that are too long: which turns and images are left, counted in tokens."""

import random

import pytest
import torch
from transformers import AutoTokenizer

from minigpt4.common.errors import BadText
from minigpt4.prompts.context import Shortened, fitted, shortened
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Sample
from minigpt4.prompts.templates import GEMMA, IMAGE_TURN
from tests.support.families import TINY


@pytest.fixture(scope="module")
def prompts() -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(TINY / "gemma"), 2, 8, GEMMA, 20, 200)


def talk(*questions: str, answered: bool = True, system: str = "") -> Dialogue:
    turns = [turn for number, text in enumerate(questions) for turn in said(text, number)]
    first = [Turn("system", system)] if system else []
    return Dialogue(tuple(first + (turns if answered else turns[:-1])))


def said(question: str, number: int) -> list[Turn]:
    return [Turn("user", question), Turn("assistant", f"a red circle {number}")]


def questions(dialogue: Dialogue) -> list[str]:
    return [turn.text for turn in dialogue.turns if turn.role == "user"]


LONG = "what is in this picture, and where? " * 3


def test_what_fits_is_left_as_it_is(prompts) -> None:
    for dialogue in (talk("what?"), talk(f"{IMAGE_TURN}what?", "where?"), Dialogue.caption("x " * 5000)):
        assert shortened(prompts, dialogue) == Shortened(dialogue, tuple(range(dialogue.images)))


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("learn_all", [True, False])
def test_the_middle_is_left_out_oldest_first(prompts, answered, learn_all) -> None:
    first = f"{IMAGE_TURN}what?"
    dialogue = talk(first, *(f"{LONG}{n}" for n in range(8)), answered=answered, system="look")
    short = shortened(prompts, dialogue, learn_all=learn_all)
    kept = questions(short.dialogue)
    assert kept == [first, *(f"{LONG}{n}" for n in range(short.left_out, 8))] and 0 < short.left_out < 8
    assert short.dialogue.turns[0] == dialogue.turns[0] and short.images == (0,)
    assert short.dialogue.answer == dialogue.answer
    ids, targets = prompts.ids(short.dialogue, learn_all=learn_all)  # which would raise
    assert bool(targets) == answered and ids.count(-1) == 8
    one_more = shortened(prompts, dialogue, 10_000, learn_all=learn_all).left_out
    assert one_more == short.left_out


def test_a_growing_dialogue_drops_the_same_turns_for_a_while(prompts, monkeypatch) -> None:
    """In portions of a quarter of 600 tokens, at 26 to 28 a turn: 1,120 tokens in all need four portions."""
    monkeypatch.setattr(prompts, "max_context_len", 600)
    asked, begins, lengths = [f"{IMAGE_TURN}what?"], [], []
    for number in range(40):
        asked.append(f"is it number {number}?")
        short = shortened(prompts, talk(*asked, answered=False), share=0.25)
        begins.append(questions(short.dialogue)[1])
        lengths.append(len(prompts.ids(short.dialogue)[0]))
    assert list(dict.fromkeys(begins)) == [f"is it number {n}?" for n in (0, 6, 12, 17, 23)]
    assert 600 - 28 < max(lengths) <= 600 and min(lengths[25:]) > 450 - 28


def test_turns_before_the_image_go_and_its_own_stays(prompts) -> None:
    image = f"{IMAGE_TURN}and this?"
    dialogue = talk(LONG, LONG, image, image, LONG, image, "last")
    short = shortened(prompts, dialogue, 120)
    assert questions(short.dialogue) == [image, LONG, image, "last"]
    assert (short.images, short.left_out) == ((0, 2), 3)
    assert shortened(prompts, dialogue, 60).images == (0,)


def test_what_must_stay_and_is_too_long_is_bad_text(prompts) -> None:
    for dialogue in (talk(LONG * 9), talk(f"{IMAGE_TURN}{LONG * 9}", "where?"), talk("what?", LONG * 9)):
        with pytest.raises(BadText, match=r"prompt longer than 200 tokens \(model.max_context_len is 200\)"):
            shortened(prompts, dialogue)


def test_lengths_are_those_of_the_ids(prompts) -> None:
    rng = random.Random(0)
    words = ["a", "</s>", "<end_of_turn>", "caf\u00e9", IMAGE_TURN, "\u65e5\u672c", "\n", LONG[:40]]
    for _ in range(50):
        asked = ["".join(rng.choices(words, k=rng.randrange(1, 5))) for _ in range(rng.randrange(1, 4))]
        dialogue = talk(*asked, answered=rng.random() < 0.5, system=rng.choice(["", "look"]))
        for learn_all in (True, False):
            ids, _ = prompts.ids(dialogue, learn_all=learn_all)
            lengths = prompts.lengths(dialogue, learn_all=learn_all)
            assert sum(lengths) == len(ids) and len(lengths) == len(dialogue.turns)


def test_thousands_of_turns_are_shortened_at_once(prompts, monkeypatch) -> None:
    calls = []
    lengths = prompts.lengths
    monkeypatch.setattr(prompts, "lengths", lambda *a, **k: calls.append(1) or lengths(*a, **k))
    assert shortened(prompts, talk(*["what?"] * 3000)).left_out > 2900
    assert len(calls) <= 6


@pytest.mark.parametrize("kind", ["image", "features"])
def test_a_sample_loses_the_images_of_turns_that_are_left_out(prompts, kind) -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    images = images if kind == "image" else images[:, 0]
    asked = [f"{IMAGE_TURN}{LONG}{n}" for n in range(4)]
    sample = Sample(dialogue=talk(*asked), **{kind: images}, image_id="x")
    short = fitted(prompts, sample, learn_all=True)
    kept = [0, *range(short.dialogue.images)[1:]]
    assert short.images is not None and 0 < len(short.images) == short.dialogue.images < 4
    assert short.images.flatten(1)[:, 0].tolist() == [0.0, *range(4 - len(kept) + 1, 4)]
    assert short.image_id == "x" and fitted(prompts, short, learn_all=True) is short


def test_a_sample_of_text_alone_is_fitted(prompts) -> None:
    sample = Sample(dialogue=talk(*[LONG] * 9))
    assert len(fitted(prompts, sample, learn_all=False).dialogue.turns) < 18
