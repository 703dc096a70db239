"""MiniGPT-v2's data sets: from their published files to what the model is asked and told."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.builders import BUILDERS, build_datasets
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.prompts.instruction_templates import Instructions
from minigpt4.prompts.templates import IMAGE_TURN
from tests.support import published
from tests.support.published import GUYS
from tests.support.shards import SIZE, read, sorted_out

# Name -> one row per entry: what a first epoch asks behind the image, the answer that it draws, the image_id.
EXPECTED: dict[str, list[tuple[str, str, str]]] = {
    "coco_caption": [("[caption] Say briefly what can be seen here.", "a dog, on a sofa", "coco_9")],
    "textcaps_caption": [
        ("[caption] Say briefly what can be seen here.", "a sign says stop", "0054c91397f2fe05")
    ],
    "coco_vqa": [
        ("[vqa] Look at the image and answer in a word or two: what is 0?", "it is 0", "100"),
        ("[vqa] Look at the image and answer in a word or two: what is 2?", "it is 2", "102"),
        ("[vqa] what is 0?", "it is 0", "100"),
        ("[vqa] Look at the image and answer in a word or two: what is 2?", "it is 2", "102"),
    ],
    "gqa": [("[vqa] Look at the image and answer in a word or two: is it red?", "no", "07333408")],
    "ocrvqa": [
        ("[vqa] Look at the image and answer in a word or two: who wrote it?", "ann lee", "0002005018"),
        ("[vqa] Look at the image and answer in a word or two: is it old?", "no", "0002005018"),
    ],
    "refcoco": [
        ("[refer] Point out thing 0 in the image.", "{<10><10><36><50>}", "9"),
        ("[refer] Point out the left one 1 in the image.", "{<12><10><38><50>}", "25"),
    ],
    "invrefcoco": [
        ("[identify] Name what the box {<10><10><36><50>} holds.", "thing 0", "9"),
        ("[identify] Name what the box {<12><10><38><50>} holds.", "the left one 1", "25"),
    ],
    "refvg": [
        ("[refer] Point out the clock in the image.", "{<25><25><55><90>}", "1"),
        ("[refer] Point out a tree in the image.", "{<99><25><100><90>}", "2"),
    ],
    "flickr_grounded_caption": [
        (
            "[grounding] Go through everything that is visible here, and say where it is.",
            f"{GUYS} stand by <p>a tree</p> {{<0><0><9><99>}}",
            "1000092795",
        ),
    ],
    "flickr_CaptionToPhrase": [("[detection] Two guys stand.", GUYS, "1000092795")],
    "flickr_ObjectToPhrase": [("[detection] Two guys", GUYS, "1000092795")],
}
EXPECTED["ok_vqa"] = EXPECTED["aok_vqa"] = EXPECTED["coco_vqa"][:2]
EXPECTED["refcocop"] = EXPECTED["refcocog"] = EXPECTED["refcoco"]
EXPECTED["invrefcocop"] = EXPECTED["invrefcocog"] = EXPECTED["invrefcoco"]

# Those whose entries hold the questions: the turns of the first entry, and its image_id.
DIALOGUES: dict[str, tuple[list[str], str]] = {
    "llava_conversation": (
        [f"{IMAGE_TURN}What IS it?", "A dog.", "Is it old?", "No, it is young."],
        "000000000025",
    ),
    "llava_detail": ([f"{IMAGE_TURN}what is it?", "A dog."], "000000000025"),
    "llava_reason": ([f"{IMAGE_TURN}what is it?", "A dog."], "000000000025"),
    "multitask_conversation": (
        [f"{IMAGE_TURN}[caption] What is it?", "A Dog.", "[refer] the dog", "{<1><2><3><4>}"],
        "000000000025",
    ),
    "unnatural_instruction": (["sort these b, a use commas", "a, b"], ""),
}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all data, which the YAMLs of defaults begin with."""
    monkeypatch.setenv("MINIGPT4_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def build(name: str, folder: Path, **build_info: Any) -> dict[str, BaseDataset]:
    """Through the YAML of defaults, with the processors of the original's train config."""
    section = {
        "batch_size": 2,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZE}},
        "text_processor": {"train": {"name": "blip_caption"}},
        "build_info": build_info,
    }
    path = folder / "config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"datasets": {name: section}}))
    return build_datasets(plain(Config(argparse.Namespace(cfg_path=path)).datasets_cfg))[name][1]


def test_every_data_set_of_the_original_is_tested() -> None:
    assert {*EXPECTED, *DIALOGUES} == {*published.WRITERS}
    others = {"cc_sbu", "laion", "cc_sbu_align", "jsonl", "cached_features", "published"}
    others |= {"cmd_video", "webvid", "video_chatgpt"}  # MiniGPT4-video's
    assert {*BUILDERS} == {*published.WRITERS, *others}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_data_set_asks_in_a_wording_of_its_pool(data: Path, name: str) -> None:
    published.write(name, data)
    (split,) = build(name, data).values()
    samples, bad = sorted_out(split)
    assert bad == {}
    asked = [sample.dialogue.turns[0].text for sample in samples]
    assert asked == [IMAGE_TURN + question for question, _, _ in EXPECTED[name]]
    assert [(one.dialogue.answer, one.image_id) for one in samples] == [row[1:] for row in EXPECTED[name]]
    assert {len(one.dialogue.turns) for one in samples} == {2}
    assert {one.image.shape for one in samples} == {(3, SIZE, SIZE)}
    assert {one.size for one in samples} == {(published.HEIGHT, published.WIDTH)}


@pytest.mark.parametrize("name", EXPECTED)
def test_all_wordings_are_drawn_and_repeat_with_the_seed(data: Path, name: str) -> None:
    published.write(name, data)
    (split,) = build(name, data).values()
    pool = Instructions.pool(split.INSTRUCTIONS)

    def asked(seed: int) -> list[str]:
        epochs = read(split, training=True, seed=seed)
        return [next(epochs).dialogue.turns[0].text for _ in range(30)]

    first = asked(1)
    assert asked(1) == first
    assert len({*first}) >= len(pool.lines)
    begin = {line.split("{}")[0] for line in pool.lines}
    assert all(any(text.startswith(IMAGE_TURN + one) for text in first) for one in begin)
    assert all(text.startswith(tuple(IMAGE_TURN + one for one in begin)) for text in first)


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_data_set_keeps_its_own_questions(data: Path, name: str) -> None:
    published.write(name, data)
    (split,) = build(name, data).values()
    sample = split[0]
    turns, image_id = DIALOGUES[name]
    assert [turn.text for turn in sample.dialogue.turns] == turns
    assert sample.image_id == image_id
    assert (sample.images is None) == (name == "unnatural_instruction")


def test_answers_of_several_people_are_drawn_as_often_as_given(data: Path) -> None:
    published.write("ok_vqa", data)
    (split,) = build("ok_vqa", data).values()
    assert split[1].references == ("It is 2", "No", "No")
    epochs = read(split, training=True, seed=0)
    answers = [next(epochs).dialogue.answer for _ in range(600)]
    assert answers.count("it is 0") == 300
    assert 170 < answers.count("no") < 230  # two thirds of 300


def test_entries_without_their_picture_are_left_out_and_counted(data: Path, caplog) -> None:
    published.write("coco_vqa", data)
    assert len(build("coco_vqa", data)["train"]) == 4
    assert "2 of 6 entries have no picture in" in caplog.text
    for picture in (data / "coco/images").iterdir():
        picture.unlink()
    with pytest.raises(
        DataError, match=r"no entry of 6 has its picture in .*images, e\.g\. COCO_train2014_0"
    ):
        build("coco_vqa", data)


def test_refcoco_is_evaluated_expression_by_expression(data: Path) -> None:
    published.write("refcoco", data)
    folder = str(data / "refcoco_annotations")
    splits = build("refcoco", data, ann_path=dict.fromkeys(("train", "val", "testA", "test"), folder))
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 2,
        "val": 2,
        "testA": 2,
        "test": 2,
    }
    questions = [sample.dialogue.turns[0].text for sample in splits["val"]]
    assert "the left one 2" in questions[0] and "thing 2" in questions[1]
    assert [sample.dialogue.answer for sample in splits["val"]] == ["{<15><10><41><50>}"] * 2
    inverse = build("invrefcoco", data, ann_path={"val": folder})["val"]
    assert [sample.references for sample in inverse] == [("the left one 2", "thing 2")]
    with pytest.raises(
        DataError, match=r"has no references of the split 'testB' \(it has testA, train, val\)"
    ):
        build("refcoco", data, ann_path={"testB": folder})


def test_ocrvqa_has_all_splits_in_one_file(data: Path) -> None:
    published.write("ocrvqa", data)
    file = str(data / "ocrvqa/dataset.json")
    splits = build("ocrvqa", data, ann_path={"val": file, "test": file})
    assert {name: [one.image_id for one in split] for name, split in splits.items()} == {
        "val": ["0002"] * 2,
        "test": ["0003"] * 2,
    }
    with pytest.raises(DataError, match=r"has no split 'tset' \(it has train, val, test\)"):
        build("ocrvqa", data, ann_path={"tset": file})


BAD: dict[str, tuple[str, list[Any], str]] = {
    "coco_vqa": (
        "vqav2/vqa_train.json",
        [{"image": "COCO_train2014_000000000009.jpg", "question": 5, "answer": ["a"]}],
        "question is not text",
    ),
    "ok_vqa": (
        "okvqa/okvqa_train.json",
        [{"image": "COCO_train2014_000000000009.jpg", "question": "a", "answer": []}],
        "no answer",
    ),
    "gqa": (
        "gqa/train_balanced_questions.json",
        [{"image": "../../secret.jpg", "question": "a", "answer": "b"}],
        "image outside its folder",
    ),
    "textcaps_caption": (
        "textcaps/TextCaps_0.1_train.json",
        [{"image_id": "none", "caption_str": "a"}],
        "missing image",
    ),
    "coco_caption": (
        "coco_captions/annotations/coco_karpathy_train.json",
        [{"image": "COCO_train2014_000000000009.jpg", "image_id": 1, "caption": " "}],
        "empty caption",
    ),
    "llava_detail": (
        "llava/detail_23k.json",
        [{"id": 9, "conversations": [{"from": "human", "value": "x"}]}],
        "human and gpt do not alternate",
    ),
    "llava_reason": (
        "llava/complex_reasoning_77k.json",
        [{"id": 9, "conversations": []}],
        "human and gpt do not alternate",
    ),
    "flickr_ObjectToPhrase": (
        "filtered_flickr/phrasetobbox.json",
        [{"image_id": 1, "phrase": "a", "bbox": None}],
        "box is not text",
    ),
    "unnatural_instruction": (
        "unnatural_instructions/filtered_unnatural_instruction.json",
        [{"instances": []}],
        "IndexError: list index out of range",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_entry_that_cannot_be_used_is_skipped_with_a_reason(data: Path, name: str) -> None:
    published.write(name, data)
    (data / "secret.jpg").write_bytes(
        next((data / "coco/images").iterdir()).read_bytes()
    ) if name == "gqx" else None
    file, entries, reason = BAD[name]
    published.dump(data / file, entries * 2)
    if name == "coco_vqa":
        published.dump(data / "vqav2/vqa_val.json", entries)
    (split,) = build(name, data).values()
    _, bad = sorted_out(split)
    assert set(bad) == {reason}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "gqa",
            "gqa/train_balanced_questions.json",
            [{"image": "a", "question": "b"}],
            r"entry 0: 'answer' is missing",
        ),
        ("ocrvqa", "ocrvqa/dataset.json", {"1": {"split": 1}}, r"'1' is not a cover with its questions"),
        (
            "refvg",
            "visual_genome/image_data.json",
            [{"image_id": 1}],
            r"image_data\.json does not describe Visual",
        ),
        (
            "refvg",
            "visual_genome/region_descriptions.json",
            [{"x": 1}],
            r"descriptions\.json, entry 0 has no regions",
        ),
        (
            "refcoco",
            "refcoco_annotations/refcoco/instances.json",
            {"annotations": [1]},
            r"instances\.json does not hold",
        ),
        (
            "refcoco",
            "refcoco_annotations/refcoco/instances.json",
            {"annotations": [], "images": []},
            r"KeyError: 70",
        ),
    ],
)
def test_files_of_another_form_are_refused(data: Path, name, file, content, message) -> None:
    published.write(name, data)
    published.dump(data / file, content)
    with pytest.raises(DataError, match=message):
        build(name, data)


def test_placeholders_are_told_where_no_folder_is_named(data: Path, monkeypatch) -> None:
    monkeypatch.delenv("MINIGPT4_DATA")
    with pytest.raises(
        ConfigError, match=r"^datasets\.refvg\.build_info\.data_dir is '/path/to/visual_genome'"
    ):
        build("refvg", data)
    with pytest.raises(
        ConfigError, match=r"refcoco\.build_info\.image_path is '/path/to/coco/images': please"
    ):
        build("refcoco", data)


def test_a_users_instructions_replace_the_pool(data: Path) -> None:
    published.write("refcoco", data)
    (data / "mine.txt").write_text("[refer] Please box {}.\n")
    (split,) = build("refcoco", data, instructions=str(data / "mine.txt")).values()
    assert split[0].dialogue.turns[0].text == f"{IMAGE_TURN}[refer] Please box thing 0."


def test_instructions_that_do_not_fit_are_refused(data: Path) -> None:
    published.write("llava_detail", data)
    published.write("coco_caption", data)
    (data / "mine.txt").write_text("What is {}?\n")
    key = r"^datasets\.llava_detail\.build_info\.instructions is '.*', but this data set brings its questions"
    with pytest.raises(ConfigError, match=key):
        build("llava_detail", data, instructions=str(data / "mine.txt"))
    with pytest.raises(
        ConfigError, match=r"^datasets\.coco_caption\.build_info\.instructions: .* must not hold"
    ):
        build("coco_caption", data, instructions=str(data / "mine.txt"))
