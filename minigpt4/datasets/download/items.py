"""What MiniGPT-v2's finetuning and its table of benchmarks need, where it is published, and where it goes.

Folders are those that the original's dataset configs and its evaluation guide name. Sizes are those of the
download, about; VizWiz's, IconQA's and VSR's pictures are estimated.
"""

from dataclasses import dataclass, replace

_COCO = "http://images.cocodataset.org/zips"
_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research"
_VG = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
_VG_PICTURES = "https://cs.stanford.edu/people/rak248/VG_100K_2"
_REFER = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
_TEXTVQA = "https://dl.fbaipublicfiles.com/textvqa"
_FLICKR_FORM = "Flickr30k's authors want a form filled in: https://forms.illinois.edu/sec/229675"
_LLAVA = "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main"


@dataclass(frozen=True)
class Item:
    """One thing to fetch.

    Attributes:
        name: what `--only` calls it.
        gigabytes: size of the download, about; None: its owners do not say.
        folder: where it goes, below the folder of all items.
        sources: addresses to try in turn: `https://...`, `drive:FILE`, `drive-folder:FOLDER`,
            `pictures-of:FILE` (what a list that is an item itself names), or `by-hand:where to get it`.
        file: what a single file is called; empty for an archive or a folder.
        strip: what the names in an archive begin with and the files shall not.
        only: the rest of an archive, whose names do not begin so, is left out.
    """

    name: str
    gigabytes: float | None
    folder: str
    sources: tuple[str, ...]
    file: str = ""
    strip: str = ""
    only: str = ""

    @property
    def origin(self) -> str:
        """The first of `sources`, for people."""
        kind, _, where = self.sources[0].partition(":")
        words = {"by-hand": where, "pictures-of": f"the addresses in {where}"}
        words |= dict.fromkeys(("drive", "drive-folder"), f"Google Drive, {where}")
        return words.get(kind, self.sources[0])


def _file(name: str, gigabytes: float, folder: str, source: str, file: str = "") -> Item:
    return Item(name, gigabytes, folder, (source,), file or source.rsplit("/", 1)[-1])


def _refer(name: str, file: str, day: str) -> Item:
    """One of RefCOCO's three, whose server is often down; the Internet Archive has what it held that day."""
    archived = f"https://web.archive.org/web/{day}id_/{_REFER}/{file}"
    return _zip(name, 0.1, "refcoco_annotations", f"{_REFER}/{file}", archived)


def _zip(name: str, gigabytes: float, folder: str, *sources: str, strip: str = "", only: str = "") -> Item:
    return Item(name, gigabytes, folder, sources, strip=strip, only=only)


_REFERS = {
    "refcoco": _refer("refcoco", "refcoco.zip", "20220413011718"),
    "refcoco+": _refer("refcocop", "refcoco+.zip", "20220413011656"),
    "refcocog": _refer("refcocog", "refcocog.zip", "20220413012904"),
}

ITEMS = (
    _zip("coco_images", 13.5, "coco/images", f"{_COCO}/train2014.zip", strip="train2014/"),
    _file(
        "coco_captions",
        0.1,
        "coco_captions/annotations",
        f"{_LAVIS}/datasets/coco_karpathy_train.json",
    ),
    _file("vqav2_train", 0.1, "vqav2", f"{_LAVIS}/LAVIS/datasets/vqav2/vqa_train.json"),
    _file("vqav2_val", 0.1, "vqav2", f"{_LAVIS}/LAVIS/datasets/vqav2/vqa_val.json"),
    _zip("vg_images_1", 9.7, "visual_genome", f"{_VG_PICTURES}/images.zip"),
    _zip("vg_images_2", 5.5, "visual_genome", f"{_VG_PICTURES}/images2.zip"),
    _zip("vg_regions", 0.1, "visual_genome", f"{_VG}/region_descriptions.json.zip"),
    _zip("vg_image_data", 0.1, "visual_genome", f"{_VG}/image_data.json.zip"),
    _zip("textcaps_images", 7.1, "textcaps", f"{_TEXTVQA}/images/train_val_images.zip"),
    _file("textcaps_captions", 0.1, "textcaps", f"{_TEXTVQA}/data/textcaps/TextCaps_0.1_train.json"),
    *_REFERS.values(),
    _file("okvqa", 0.1, "okvqa", f"{_LAVIS}/LAVIS/datasets/okvqa/okvqa_train.json"),
    _file("aokvqa", 0.1, "aokvqa", f"{_LAVIS}/LAVIS/datasets/aokvqa/aokvqa_v1p0_train.json"),
    Item("ocrvqa", 0.2, "ocrvqa", ("drive-folder:1_GYPY5UkUy7HIcR0zq3ZCFgeZN7BAfm_",)),
    Item("ocrvqa_images", 7.0, "ocrvqa/images", ("pictures-of:ocrvqa/dataset.json",)),
    _zip("gqa_images", 20.3, "gqa", "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip"),
    _file("gqa_questions", 0.1, "gqa", f"{_LAVIS}/LAVIS/datasets/gqa/train_balanced_questions.json"),
    Item("flickr", 0.1, "filtered_flickr", ("drive-folder:19c_ggBI77AvdtYlPbuI0ZpnPz73T5teX",)),
    Item("flickr_images", 4.4, "filtered_flickr/images", ("by-hand:" + _FLICKR_FORM,)),
    _file(
        "multitask",
        0.1,
        "multitask_conversation",
        "drive:11HHqB2c29hbSk-WLxdta-nG8UCUrcCN1",
        "multitask_conversation.json",
    ),
    _file(
        "unnatural",
        0.1,
        "unnatural_instructions",
        "drive:1lXNnBcb5WU-sc8Fe2T2N8J0NRw4sBLev",
        "filtered_unnatural_instruction.json",
    ),
    _file("llava_conversation", 0.1, "llava", f"{_LLAVA}/conversation_58k.json"),
    _file("llava_detail", 0.1, "llava", f"{_LLAVA}/detail_23k.json"),
    _file("llava_reason", 0.1, "llava", f"{_LLAVA}/complex_reasoning_77k.json"),
)

_OKVQA = "https://okvqa.allenai.org/static/data"
_VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_ICONQA = "https://iconqa2021.s3.us-west-1.amazonaws.com/iconqa_data.zip"
_CHOOSE = "iconqa_data/iconqa/val/choose_txt/"
_GQA = "https://downloads.cs.stanford.edu/nlp/data/gqa"
_TESTDEV = "testdev_balanced_questions.json"
_VSR = "https://huggingface.co/datasets/cambridgeltl/vsr_zeroshot/resolve/main/test.jsonl"
_MEMES = "https://hatefulmemeschallenge.com gives them out for a form; put dev.jsonl into hateful_meme"
_TRAIN2014 = _zip("coco_train2014", 13.5, "coco/train2014", f"{_COCO}/train2014.zip", strip="train2014/")
_VAL2014 = _zip("coco_val2014", 6.6, "coco/val2014", f"{_COCO}/val2014.zip", strip="val2014/")

# Benchmark -> what it takes, below the folder that `minigpt4 reproduce` names.
BENCHMARK_ITEMS = {
    **{name: (replace(item, folder="."), _TRAIN2014) for name, item in _REFERS.items()},
    "okvqa": (
        _zip("okvqa_annotations", 0.1, "okvqa", f"{_OKVQA}/mscoco_val2014_annotations.json.zip"),
        _zip("okvqa_questions", 0.1, "okvqa", f"{_OKVQA}/OpenEnded_mscoco_val2014_questions.json.zip"),
        _VAL2014,
    ),
    "vizwiz": (
        _zip("vizwiz", 0.1, "vizwiz", f"{_VIZWIZ}/vqa_data/Annotations.zip", only="val.json"),
        _zip("vizwiz_images", 3.5, "vizwiz/vizwiz_images", f"{_VIZWIZ}/images/val.zip", strip="val/"),
    ),
    "iconvqa": (_zip("iconqa", 0.6, "iconvqa/iconvqa_images", _ICONQA, strip=_CHOOSE, only=_CHOOSE),),
    "gqa": (
        _zip("gqa_questions", 1.4, "gqa", f"{_GQA}/questions1.2.zip", only=_TESTDEV),
        _zip("gqa_images", 20.3, "gqa/gqa_images", f"{_GQA}/images.zip", strip="images/"),
    ),
    "vsr": (
        _file("vsr", 0.1, "vsr", _VSR),
        Item("vsr_images", 0.2, "vsr/vsr_images", ("pictures-of:vsr/test.jsonl",)),
    ),
    "hm": (Item("hm", None, "hateful_meme/hm_images", ("by-hand:" + _MEMES,)),),
}
