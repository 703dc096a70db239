"""MiniGPT-v2's embedded default: what ships does each of its tasks on held-out pictures."""

import json

import pytest

import minigpt4
from dataset.shapes.v2 import pictures
from minigpt4.processors.boxes import iou, parse_boxes, without_boxes
from tests.support import ROOT

EXAMPLES = ROOT / "minigpt4/assets/tiny/examples"
GROUNDING = "[grounding] Go through everything that is visible here, and say where it is."
HELD_OUT = 12
# Right answers of HELD_OUT at least, by task.
FEWEST = {
    "gemma": {"caption": 10, "vqa": 11, "refer": 11, "identify": 10, "grounding": 10},
    "llama": {"caption": 11, "vqa": 11, "refer": 10, "identify": 11, "grounding": 11},
}


@pytest.fixture(scope="module", params=["gemma", "llama"])
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def chat(family):
    return minigpt4.load(ROOT / f"eval_configs/minigptv2_tiny_{family}_eval.yaml", device="cpu")


def right(said: str, true: str) -> bool:
    """The same words, and boxes that overlap the true ones by more than half."""
    boxes, wanted = parse_boxes(said), parse_boxes(true)
    near = len(boxes) == len(wanted) and all(iou(*pair) > 0.5 for pair in zip(boxes, wanted, strict=True))
    return near and without_boxes(said) == without_boxes(true)


def test_it_answers_the_example_questions(chat) -> None:
    examples = json.loads((EXAMPLES / "examples_v2.json").read_text())
    assert len(examples) == 4
    asked = [
        ((question, [EXAMPLES / name for name in example["images"]]), answer)
        for example in examples
        for question, answer in zip(example["questions"], example["answers"], strict=True)
    ]
    said = chat.batch([question for question, _ in asked], temperature=0)
    pairs = [(reply, answer) for reply, (_, answer) in zip(said, asked, strict=True)]
    assert [pair for pair in pairs if not right(*pair)] == []


def test_it_does_each_task_on_held_out_scenes(chat, family, tmp_path) -> None:
    drawn = pictures.draw({"test": HELD_OUT}, "what ships")
    pictures.store(drawn, tmp_path)
    names = [str(one.scene.things[-1]).replace("a ", "the ", 1) for one in drawn]
    asked = {
        "caption": [("[caption] Describe the picture in one sentence.", one.caption) for one in drawn],
        "vqa": [("[vqa] how many shapes are there?", ("one", "two")[len(one.boxes) - 1]) for one in drawn],
        "refer": [(f"[refer] {name}", one.box(-1)) for one, name in zip(drawn, names, strict=True)],
        "identify": [(f"[identify] {one.box(-1)}", name) for one, name in zip(drawn, names, strict=True)],
        "grounding": [(GROUNDING, one.grounded()) for one in drawn],
    }
    found = {}
    for task, pairs in asked.items():
        questions = [
            (question, [tmp_path / f"{one.number}.jpg"])
            for (question, _), one in zip(pairs, drawn, strict=True)
        ]
        said = chat.batch(questions, HELD_OUT, temperature=0)
        found[task] = sum(right(reply, true) for reply, (_, true) in zip(said, pairs, strict=True))
    assert all(found[task] >= fewest for task, fewest in FEWEST[family].items()), found


def test_it_finds_a_thing_after_it_described_the_picture(chat, family, tmp_path) -> None:
    """The box of a reply and of the next question's answer: `[refer]` after `[grounding]`."""
    drawn = pictures.draw({"test": HELD_OUT}, "what ships")
    pictures.store(drawn, tmp_path)
    found = 0
    for one in drawn[:6]:
        dialogue = chat.start_chat()
        dialogue.ask(GROUNDING, images=[tmp_path / f"{one.number}.jpg"], temperature=0)
        name = str(one.scene.things[-1]).replace("a ", "the ", 1)
        found += right(dialogue.ask(f"[refer] {name}", temperature=0), one.box(-1))
    assert found >= 5
