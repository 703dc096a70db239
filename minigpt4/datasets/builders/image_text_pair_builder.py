"""The data sets of MiniGPT-4 and MiniGPT-v2: which class reads one, and where its YAML of defaults is."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minigpt4.common.registry import registry
from minigpt4.common.schema import key
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder
from minigpt4.datasets.settings import FolderInfo, MapStyleInfo, WebdatasetInfo

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.shard_reader import RawSample
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
    from minigpt4.prompts.dialogue import Dialogue


class WebdatasetBuilder(BaseDatasetBuilder):
    """Webdataset shards: a brace pattern, or a list of them, of files, URLs and `pipe:` commands.

    Where shards hold something other than captions, a subclass says what dialogue a sample makes:

        @registry.register_builder("colours")
        class ColoursBuilder(WebdatasetBuilder):
            def dialogue(self, raw, rng):
                question = rng.choice(["What colour is it?", "Which colour?"])
                return Dialogue.of([(f"<Img><ImageHere></Img> {question}", raw.fields["colour"])])
    """

    BUILD_INFO = WebdatasetInfo
    build_info: WebdatasetInfo

    def dialogue(self, raw: "RawSample", rng: random.Random) -> "Dialogue":
        """What is said about the image of a sample.

        Args:
            raw: its files; `raw.fields` is the object in its JSON, `raw.text("txt")` a text file.
            rng: for what is drawn at random: it is seeded by seed, epoch and sample.

        Returns:
            A caption, or turns with one `<Img><ImageHere></Img>` where the image goes.

        Raises:
            BadSample: to skip the sample, with the reason that is counted.
        """
        from minigpt4.datasets.datasets.webdataset_stream import caption_dialogue

        return caption_dialogue(raw, rng, key=self.build_info.caption_key)

    def check_paths(self) -> None:
        self._shards()

    def build_datasets(self) -> dict[str, "WebdatasetStream"]:
        return {split: self._build_split(split, shards) for split, shards in self._shards().items()}

    def _shards(self) -> dict[str, list[str]]:
        """Split name -> its shards."""
        from minigpt4.datasets.datasets.shard_list import expand_shards

        storage, key = self.build_info.storage, f"{self.where}.build_info.storage"
        by_split = storage if isinstance(storage, dict) else {"train": storage}
        return {split: expand_shards(shards, key) for split, shards in by_split.items()}

    def _build_split(self, split: str, shards: list[str]) -> "WebdatasetStream":
        from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream

        return WebdatasetStream(
            shards,
            self.vis_processor(split).to_batch,
            self.text_processor(split),
            self.dialogue,
        )


@registry.register_builder("cc_sbu")
class CCSBUBuilder(WebdatasetBuilder):
    """Conceptual Captions 3M and 12M, and SBU."""

    DATASET_CONFIG = "cc_sbu/defaults.yaml"


@registry.register_builder("laion")
class LaionBuilder(WebdatasetBuilder):
    """LAION, as BLIP-2 filtered it."""

    DATASET_CONFIG = "laion/defaults.yaml"


@registry.register_builder("cc_sbu_align")
class CCSBUAlignBuilder(MapStyleBuilder):
    """Stage 2's folder: images in `image/`, captions in `filter_cap.json`."""

    DATASET = "minigpt4.datasets.datasets.caption:CCSBUAlignDataset"
    DATASET_CONFIG = "cc_sbu/align.yaml"
    BUILD_INFO = FolderInfo
    FOLDER_LAYOUT = ("image", "filter_cap.json")


@registry.register_builder("coco_caption")
class COCOCapBuilder(MapStyleBuilder):
    """COCO's captions."""

    DATASET = "minigpt4.datasets.datasets.coco_caption:COCOCapDataset"
    DATASET_CONFIG = "coco/caption.yaml"


@registry.register_builder("textcaps_caption")
class TextcapCaptionBuilder(MapStyleBuilder):
    """TextCaps."""

    DATASET = "minigpt4.datasets.datasets.text_caps:TextCapDataset"
    DATASET_CONFIG = "textcaps/caption.yaml"


@registry.register_builder("coco_vqa")
class COCOVQABuilder(MapStyleBuilder):
    """VQAv2."""

    DATASET = "minigpt4.datasets.datasets.coco_vqa_datasets:COCOVQADataset"
    DATASET_CONFIG = "coco/defaults_vqa.yaml"


@registry.register_builder("ok_vqa")
class OKVQABuilder(COCOVQABuilder):
    """OK-VQA, in the format of VQAv2."""

    DATASET_CONFIG = "okvqa/defaults.yaml"


@registry.register_builder("aok_vqa")
class AOKVQABuilder(MapStyleBuilder):
    """A-OKVQA."""

    DATASET = "minigpt4.datasets.datasets.aok_vqa_datasets:AOKVQADataset"
    DATASET_CONFIG = "aokvqa/defaults.yaml"


@registry.register_builder("gqa")
class GQABuilder(MapStyleBuilder):
    """GQA."""

    DATASET = "minigpt4.datasets.datasets.gqa_datasets:GQADataset"
    DATASET_CONFIG = "gqa/balanced_val.yaml"


@registry.register_builder("ocrvqa")
class OCRVQABuilder(MapStyleBuilder):
    """OCR-VQA."""

    DATASET = "minigpt4.datasets.datasets.ocrvqa_dataset:OCRVQADataset"
    DATASET_CONFIG = "ocrvqa/ocrvqa.yaml"


@dataclass(frozen=True, kw_only=True)
class ReferInfo(MapStyleInfo):
    """`ann_path` is the folder that holds the folders `refcoco`, `refcoco+` and `refcocog`."""

    dataset: str = key(doc="its folder; `inv` before it does not count")
    splitBy: str = key(doc="whose division into splits: `unc`, `umd` or `google`")


class AllRefCOCOBuilder(MapStyleBuilder):
    """RefCOCO's three sets: an expression is asked about, and its box is the answer."""

    DATASET = "minigpt4.datasets.datasets.coco_dataset:ReferCOCODataset"
    BUILD_INFO = ReferInfo


class AllInvRefCOCOBuilder(AllRefCOCOBuilder):
    """The same, asked the other way round."""

    DATASET = "minigpt4.datasets.datasets.coco_dataset:InvReferCOCODataset"


@registry.register_builder("refcoco")
class RefCOCOBuilder(AllRefCOCOBuilder):
    """RefCOCO."""

    DATASET_CONFIG = "coco_bbox/refcoco.yaml"


@registry.register_builder("refcocop")
class RefCOCOPBuilder(AllRefCOCOBuilder):
    """RefCOCO+."""

    DATASET_CONFIG = "coco_bbox/refcocop.yaml"


@registry.register_builder("refcocog")
class RefCOCOGBuilder(AllRefCOCOBuilder):
    """RefCOCOg."""

    DATASET_CONFIG = "coco_bbox/refcocog.yaml"


@registry.register_builder("invrefcoco")
class InvRefCOCOBuilder(AllInvRefCOCOBuilder):
    """RefCOCO, what a box holds."""

    DATASET_CONFIG = "coco_bbox/invrefcoco.yaml"


@registry.register_builder("invrefcocop")
class InvRefCOCOPBuilder(AllInvRefCOCOBuilder):
    """RefCOCO+, what a box holds."""

    DATASET_CONFIG = "coco_bbox/invrefcocop.yaml"


@registry.register_builder("invrefcocog")
class InvRefCOCOGBuilder(AllInvRefCOCOBuilder):
    """RefCOCOg, what a box holds."""

    DATASET_CONFIG = "coco_bbox/invrefcocog.yaml"


@dataclass(frozen=True, kw_only=True)
class VisualGenomeInfo(MapStyleInfo):
    """Pictures and annotations are in one folder."""

    data_dir: str | dict[str, Any] | None = key(None, "that folder, or split -> folder")


@registry.register_builder("refvg")
class RefVisualGenomeBuilder(MapStyleBuilder):
    """Visual Genome's regions, as RefCOCO."""

    DATASET = "minigpt4.datasets.datasets.vg_dataset:ReferVisualGenomeDataset"
    DATASET_CONFIG = "vg/ref.yaml"
    BUILD_INFO = VisualGenomeInfo
    FOLDER_LAYOUT = (".", ".")


@registry.register_builder("flickr_grounded_caption")
class GroundedCaptionBuilder(MapStyleBuilder):
    """Flickr30k: descriptions with boxes."""

    DATASET = "minigpt4.datasets.datasets.flickr:GroundedDetailDataset"
    DATASET_CONFIG = "flickr/default.yaml"


@registry.register_builder("flickr_CaptionToPhrase")
class CaptionToPhraseBuilder(MapStyleBuilder):
    """Flickr30k: the boxes of all that a caption names."""

    DATASET = "minigpt4.datasets.datasets.flickr:CaptionToObjectDataset"
    DATASET_CONFIG = "flickr/caption_to_phrase.yaml"


@registry.register_builder("flickr_ObjectToPhrase")
class ObjectToPhraseBuilder(MapStyleBuilder):
    """Flickr30k: the boxes of a phrase."""

    DATASET = "minigpt4.datasets.datasets.flickr:PhraseToObjectDataset"
    DATASET_CONFIG = "flickr/object_to_phrase.yaml"


@registry.register_builder("llava_detail")
class LlavaDetailBuilder(MapStyleBuilder):
    """LLaVA-Instruct: detailed descriptions."""

    DATASET = "minigpt4.datasets.datasets.llava_dataset:LlavaDetailDataset"
    DATASET_CONFIG = "llava/detail.yaml"


@registry.register_builder("llava_reason")
class LlavaReasonBuilder(MapStyleBuilder):
    """LLaVA-Instruct: reasoning."""

    DATASET = "minigpt4.datasets.datasets.llava_dataset:LlavaReasonDataset"
    DATASET_CONFIG = "llava/reason.yaml"


@registry.register_builder("llava_conversation")
class LlavaConversationBuilder(MapStyleBuilder):
    """LLaVA-Instruct: conversations."""

    DATASET = "minigpt4.datasets.datasets.llava_dataset:LlavaConversationDataset"
    DATASET_CONFIG = "llava/conversation.yaml"


@registry.register_builder("multitask_conversation")
class MultitaskConversationBuilder(MapStyleBuilder):
    """Dialogues of several tasks."""

    DATASET = "minigpt4.datasets.datasets.multitask_conversation:MultiTaskConversationDataset"
    DATASET_CONFIG = "multitask_conversation/default.yaml"


@registry.register_builder("unnatural_instruction")
class UnnaturalInstructionBuilder(MapStyleBuilder):
    """Text alone."""

    DATASET = "minigpt4.datasets.datasets.unnatural_instruction:UnnaturalDataset"
    DATASET_CONFIG = "nlp/unnatural_instruction.yaml"
    NEEDS_IMAGE_PATH = False
