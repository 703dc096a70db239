"""The data sets of MiniGPT-v2 are where outside code imports them from."""

import importlib

import pytest

from minigpt4.datasets.datasets.base_dataset import BaseDataset

NAMES = {
    "aok_vqa_datasets": ["AOKVQADataset"],
    "coco_caption": ["COCOCapDataset"],
    "coco_dataset": ["ReferCOCODataset", "InvReferCOCODataset"],
    "coco_vqa_datasets": ["COCOVQADataset"],
    "flickr": ["GroundedDetailDataset", "CaptionToObjectDataset", "PhraseToObjectDataset"],
    "gqa_datasets": ["GQADataset"],
    "llava_dataset": ["LlavaDetailDataset", "LlavaReasonDataset", "LlavaConversationDataset"],
    "multitask_conversation": ["MultiTaskConversationDataset"],
    "ocrvqa_dataset": ["OCRVQADataset"],
    "text_caps": ["TextCapDataset"],
    "unnatural_instruction": ["UnnaturalDataset"],
    "vg_dataset": ["ReferVisualGenomeDataset"],
    "vqa_datasets": ["VQADataset"],
}
BUILDERS = (
    *(
        "MultitaskConversationBuilder",
        "UnnaturalInstructionBuilder",
        "LlavaDetailBuilder",
        "LlavaReasonBuilder",
    ),
    *("AllRefCOCOBuilder", "RefCOCOBuilder", "RefCOCOPBuilder", "RefCOCOGBuilder", "RefVisualGenomeBuilder"),
    *(
        "TextcapCaptionBuilder",
        "COCOVQABuilder",
        "OKVQABuilder",
        "AOKVQABuilder",
        "GQABuilder",
        "OCRVQABuilder",
    ),
    *("GroundedCaptionBuilder", "CaptionToPhraseBuilder", "COCOCapBuilder", "CCSBUAlignBuilder"),
)


@pytest.mark.parametrize("module", NAMES)
def test_data_sets_are_in_the_originals_modules(module: str) -> None:
    for name in NAMES[module]:
        assert issubclass(
            getattr(importlib.import_module(f"minigpt4.datasets.datasets.{module}"), name), BaseDataset
        )


def test_builders_are_in_the_originals_module() -> None:
    module = importlib.import_module("minigpt4.datasets.builders.image_text_pair_builder")
    for name in BUILDERS:
        config = getattr(module, name).default_config_path()
        assert config is None or config.is_file(), name
    assert module.RefCOCOBuilder.dataset_class().__name__ == "ReferCOCODataset"
    assert module.InvRefCOCOBuilder.dataset_class().__name__ == "InvReferCOCODataset"
