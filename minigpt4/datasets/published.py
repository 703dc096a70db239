"""The benchmarks of MiniGPT-v2's paper: their files, the tasks that score them, and what the paper reports.

Chen et al. 2023, "MiniGPT-v2: large language model as a unified interface for vision-language multi-task
learning", tables 2 and 3 (the model after its third stage).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Format:
    """A published format.

    Attributes:
        reader: the class of its data sets, in `datasets/published_sets.py` or `datasets/video_qa_sets.py`.
        task: that scores it.
        files: split -> the annotations below `eval_file_path`, where that is a folder.
            A file in place of the folder is the first split.
        reported: split -> what the paper reports.
        source: where the annotations and the pictures are published.
    """

    reader: str
    task: str
    files: Mapping[str, str]
    source: str
    reported: Mapping[str, float] = field(default_factory=dict)


_VIDEO_QA = "https://github.com/xudejing/video-question-answering; the videos of MSVD or MSR-VTT"
_COCO = "COCO train2014 (https://cocodataset.org)"


def _refcoco(name: str, reported: Mapping[str, float]) -> Format:
    files = {split: f"{name}/{name}_{split}.json" for split in reported}
    source = f"https://github.com/lichengunc/refer; {_COCO}"
    return Format("ReferSet", "refer", files, source, reported)


FORMATS: dict[str, Format] = {
    "refcoco": _refcoco("refcoco", {"val": 0.887, "testA": 0.917, "testB": 0.853}),
    "refcoco+": _refcoco("refcoco+", {"val": 0.800, "testA": 0.851, "testB": 0.745}),
    "refcocog": _refcoco("refcocog", {"val": 0.844, "test": 0.847}),
    "okvqa": Format(
        "OkVqaSet",
        "vqa",
        {"test": "mscoco_val2014_annotations_clean.json"},
        "https://okvqa.allenai.org: annotations and questions; COCO val2014 or train2017 and val2017",
        {"test": 0.578},
    ),
    "vizwiz": Format(
        "VizWizSet",
        "vqa",
        {"val": "val.json"},
        "https://vizwiz.org/tasks-and-datasets/vqa",
        {"val": 0.536},
    ),
    "iconvqa": Format(
        "IconQaSet",
        "choose",
        {"val": "choose_text_val.json"},
        "https://iconqa.github.io",
        {"val": 0.515},
    ),
    "gqa": Format(
        "GqaSet",
        "short_answer",
        {"testdev": "testdev_balanced_questions.json"},
        "https://cs.stanford.edu/people/dorarad/gqa",
        {"testdev": 0.601},
    ),
    "vsr": Format(
        "VsrSet",
        "short_answer",
        {"test": "test.jsonl"},
        "https://huggingface.co/datasets/cambridgeltl/vsr_zeroshot; COCO train2017 and val2017",
        {"test": 0.629},
    ),
    "hm": Format(
        "HatefulMemesSet",
        "yes_no",
        {"dev": "dev.jsonl"},
        "https://hatefulmemeschallenge.com",
        {"dev": 0.588},
    ),
    "msvd_qa": Format("VideoQaSet", "vqa", {"test": "test_qa.json"}, _VIDEO_QA),
    "msrvtt_qa": Format("VideoQaSet", "vqa", {"test": "test_qa.json"}, _VIDEO_QA),
    "tgif_qa": Format(
        "TgifQaSet",
        "vqa",
        {"test": "Test_frameqa_question.csv"},
        "https://github.com/YunseokJANG/tgif-qa: FrameQA; the GIFs of TGIF, or videos made of them",
    ),
    "activitynet_qa": Format(
        "ActivityNetQaSet",
        "vqa",
        {"test": "test_q.json"},
        "https://github.com/MILVLG/activitynet-qa; the videos of ActivityNet",
    ),
    "coco_caption": Format(
        "CocoCaptionSet",
        "caption",
        {"val": "captions_val2014.json"},
        "https://cocodataset.org",
    ),
}
