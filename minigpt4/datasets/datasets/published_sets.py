"""Benchmarks in the formats in which they are published, asked as MiniGPT-v2's authors asked them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt4.common.errors import BadSample, DataError, reading
from minigpt4.common.files import nearest_path, open_regular
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.datasets.coco_dataset import ReferCOCODataset
from minigpt4.processors.boxes import GRID
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from minigpt4.prompts.templates import IMAGE_TURN

SHORT = "[vqa] Based on the image, respond to this question with a short answer: {}"


class PublishedSet(BaseDataset):
    """A benchmark: `entries` reads its file, `picture_name` and `asked` say what an entry means."""

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        """The entries of an annotation file."""
        content = read_json(path)
        if not isinstance(content, list):
            raise DataError(f"{path} must hold a list of entries, it holds a {type(content).__name__}")
        yield from content

    def picture_name(self, entry: dict[str, Any]) -> str:
        """The picture's path below the folder of pictures."""
        return str(entry["image"])

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """The question, the `answer`, and what else a `Sample` takes.

        Args:
            entry: of the annotations.
            size: (height, width) of its picture.
        """
        raise NotImplementedError

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        name = self.picture_name(entry)
        picture = self.picture(name)
        try:
            asked = self.asked(entry, picture["size"])
            dialogue = Dialogue.of([(f"{IMAGE_TURN.strip()} {asked.pop('question')}", asked.pop("answer"))])
        except BadSample:
            raise
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            raise BadSample("entry of another format") from error
        return Sample(dialogue=dialogue, image_id=name, **picture, **asked)


class ReferSet(PublishedSet):
    """RefCOCO, RefCOCO+, RefCOCOg: one box per expression.

    In the original's `NAME/NAME_SPLIT.json`, or where that is not there, as published: in `NAME/refs(unc).p`
    (RefCOCOg: `refs(umd).p`) and `NAME/instances.json`. The truth keeps the fractions of the grid that the
    annotators' pixels come to.
    """

    REQUIRED_KEYS = ("img_id", "sents", "bbox", "height", "width")

    @classmethod
    def sources(cls, path: str | Path, **_: Any) -> list[Path]:
        folder, options = cls._published(path)
        pickled = ReferCOCODataset.sources(folder, **options)
        return pickled if pickled[0].is_file() and not Path(path).is_file() else [Path(path)]

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        if cls.sources(path) == [Path(path)]:
            yield from super().entries(path)
            return
        folder, options = cls._published(path)
        for one in ReferCOCODataset.entries(folder, **options):
            height, width = one["size"]
            (expression,) = one["expressions"]
            yield {
                "img_id": Path(one["image"]).stem,
                "sents": expression,
                "bbox": one["box"],
                "height": height,
                "width": width,
            }

    @staticmethod
    def _published(path: str | Path) -> tuple[Path, dict[str, str]]:
        """What `FOLDER/NAME/NAME_SPLIT.json` is for `ReferCOCODataset`: FOLDER, and its options."""
        name, _, split = Path(path).stem.rpartition("_")
        divided_by = "umd" if name == "refcocog" else "unc"
        return Path(path).parent.parent, {"dataset": name, "splitBy": divided_by, "split": split}

    def picture_name(self, entry: dict[str, Any]) -> str:
        return f"{str(entry['img_id'])[:27]}.jpg"  # `COCO_train2014_000000581857_16` -> its picture

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        left, top, width, height = entry["bbox"]
        sides = (entry["width"], entry["height"]) * 2
        corners = (left, top, left + width, top + height)
        box = [min(max(at / side * GRID, 0), GRID) for at, side in zip(corners, sides, strict=True)]
        truth = "{" + "".join(f"<{at:.4f}>" for at in box) + "}"
        return {"question": f"[refer] give me the location of {entry['sents']}", "answer": truth}


class OkVqaSet(PublishedSet):
    """OK-VQA: the annotations with ten answers each, and the questions in a file beside them.

    The original's names end in `_clean`; the published files, without it, are read where these are not there.
    """

    REQUIRED_KEYS = ("image_id", "question", "answers")

    @classmethod
    def sources(cls, path: str | Path, **_: Any) -> list[Path]:
        published = Path(path).with_name(Path(path).name.replace("_clean", ""))
        path = published if published.is_file() and not Path(path).is_file() else Path(path)
        name = path.name.replace("mscoco_val2014_annotations", "OpenEnded_mscoco_val2014_questions")
        return [path, path.with_name(name)]

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        path, asked_in = cls.sources(path)
        with reading(path, DataError, failed="{} cannot be used with the questions beside it"):
            asked = read_json(asked_in)["questions"]
            questions = {one["question_id"]: one["question"] for one in asked}
            for one in read_json(path)["annotations"]:
                answers = [given["answer"] for given in one["answers"]]
                question = questions[one["question_id"]]
                yield {"image_id": one["image_id"], "question": question, "answers": answers}

    def picture_name(self, entry: dict[str, Any]) -> str:
        """As COCO 2017 names it, or as val2014 does."""
        name = f"{entry['image_id']:0>12}.jpg"
        return name if (self.vis_root / name).exists() else f"COCO_val2014_{name}"

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        answers = tuple(entry["answers"])
        return {"question": SHORT.format(entry["question"]), "answer": answers[0], "references": answers}


class VizWizSet(PublishedSet):
    """VizWiz: ten answers to what blind people asked about their photographs."""

    REQUIRED_KEYS = ("image", "question", "answers")

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        answers = tuple(one["answer"] for one in entry["answers"])
        question = (
            f"[vqa] The question is '{entry['question']}' Based on the image, answer the question with a "
            "single word or phrase. and reply 'unanswerable' when the provided information is insufficient"
        )
        return {"question": question, "answer": answers[0], "references": answers}


class IconQaSet(PublishedSet):
    """IconQA's questions with texts to choose from.

    In the original's `choose_text_val.json`, or where that is not there, as published: in
    `iconvqa_images/ID/data.json`, with the place of the answer among the choices.
    """

    REQUIRED_KEYS = ("image_id", "question", "choices", "answer")

    @classmethod
    def sources(cls, path: str | Path, **_: Any) -> list[Path]:
        published = Path(path).parent.glob("iconvqa_images/*/data.json")
        return [Path(path)] if Path(path).is_file() else sorted(published) or [Path(path)]

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        sources = cls.sources(path)
        if sources == [Path(path)]:
            yield from super().entries(path)
            return
        for source in sources:
            with reading(source, DataError, failed="{} is not a question of IconQA"):
                one = read_json(source)
                answer = one["choices"][one["answer"]]
            yield {"image_id": source.parent.name, **one, "answer": answer}

    def picture_name(self, entry: dict[str, Any]) -> str:
        return f"{entry['image_id']}/image.png"

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        choices = tuple(map(str, entry["choices"]))
        return {
            "question": SHORT.format(entry["question"]),
            "answer": str(entry["answer"]),
            "candidates": choices,
        }


class GqaSet(PublishedSet):
    """GQA's balanced questions: its own mapping of ids to questions, or the original's list."""

    REQUIRED_KEYS = ("image", "question", "answer")

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        content = read_json(path)
        if isinstance(content, list):
            yield from content
            return
        with reading(path, DataError, failed="{} is not a file of GQA's questions"):
            for one in content.values():
                image = f"{one['imageId']}.jpg"
                yield {"image": image, "question": one["question"], "answer": one["answer"]}

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        return {"question": SHORT.format(entry["question"]), "answer": entry["answer"]}


class JsonLinesSet(PublishedSet):
    """A benchmark with one JSON object per line."""

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        with (
            reading(path, DataError, failed="{} is not a file of JSON lines"),
            open_regular(path) as file,
        ):
            for line in file:
                if line.strip():
                    yield json.loads(line)


class VsrSet(JsonLinesSet):
    """Visual Spatial Reasoning: statements that are true or false of a picture."""

    REQUIRED_KEYS = ("image", "caption", "label")

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        statement = entry["caption"]
        question = f"[vqa] Based on the image, is this statement true or false? {statement}"
        return {"question": question, "answer": "true" if entry["label"] == 1 else "false"}


class HatefulMemesSet(JsonLinesSet):
    """Hateful Memes: whether a picture and the text on it are hateful."""

    REQUIRED_KEYS = ("img", "text", "label")

    def picture_name(self, entry: dict[str, Any]) -> str:
        return str(entry["img"])

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        question = (  # the original's English: other words would be another benchmark
            f"This is an image writting '{entry['text']}'. Is this image hateful? Answer yes or no. Answer:"
        )
        return {"question": question, "answer": "yes" if entry["label"] == 1 else "no"}


class CocoCaptionSet(PublishedSet):
    """Captions in COCO's format: several for a picture, which make one entry."""

    REQUIRED_KEYS = ("file_name", "captions")

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        captions: dict[Any, list[str]] = {}
        with reading(path, DataError, failed="{} is not a file of COCO's captions"):
            content = read_json(path)
            for one in content["annotations"]:
                captions.setdefault(one["image_id"], []).append(one["caption"])
            for image in content["images"]:
                if image["id"] in captions:
                    yield {"file_name": image["file_name"], "captions": captions[image["id"]]}

    def picture_name(self, entry: dict[str, Any]) -> str:
        return str(entry["file_name"])

    def asked(self, entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        captions = tuple(entry["captions"])
        question = "[caption] please describe this image?"
        return {"question": question, "answer": captions[0], "references": captions}


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises DataError."""
    try:
        with open_regular(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"the annotation file {path} does not exist{nearest_path(path)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
