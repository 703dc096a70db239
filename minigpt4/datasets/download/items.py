"""What MiniGPT-v2's finetuning needs, where it is published, and where it goes.

Folders are those that the original's dataset configs name. Sizes are those of the download, about.
"""

from dataclasses import dataclass

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
        gigabytes: size of the download, about.
        folder: where it goes, below the folder of all items.
        sources: addresses to try in turn: `https://...`, `drive:FILE`, `drive-folder:FOLDER`,
            `pictures-of:FILE` (what a list that is an item itself names), or `by-hand:where to get it`.
        file: what a single file is called; empty for an archive or a folder.
        strip: what the names in an archive begin with and the files shall not.
    """

    name: str
    gigabytes: float
    folder: str
    sources: tuple[str, ...]
    file: str = ""
    strip: str = ""


def _file(name: str, gigabytes: float, folder: str, source: str, file: str = "") -> Item:
    return Item(name, gigabytes, folder, (source,), file or source.rsplit("/", 1)[-1])


def _refer(name: str, file: str, day: str) -> Item:
    """One of RefCOCO's three, whose server is often down; the Internet Archive has what it held that day."""
    archived = f"https://web.archive.org/web/{day}id_/{_REFER}/{file}"
    return _zip(name, 0.1, "refcoco_annotations", f"{_REFER}/{file}", archived)


def _zip(name: str, gigabytes: float, folder: str, *sources: str, strip: str = "") -> Item:
    return Item(name, gigabytes, folder, sources, strip=strip)


ITEMS = (
    _zip(
        "coco_images",
        13.5,
        "coco/images",
        "http://images.cocodataset.org/zips/train2014.zip",
        strip="train2014/",
    ),
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
    _refer("refcoco", "refcoco.zip", "20220413011718"),
    _refer("refcocop", "refcoco+.zip", "20220413011656"),
    _refer("refcocog", "refcocog.zip", "20220413012904"),
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
