"""Builders: one declarative class per kind of data set. Importing them imports no torch."""

from minigpt4.common.registry import lazily, registry

BUILDERS = {
    "cached_features": "minigpt4.datasets.builders.cached_features_builder:CachedFeaturesBuilder",
    "jsonl": "minigpt4.datasets.builders.jsonl_builder:JsonlBuilder",
    "published": "minigpt4.datasets.builders.published_builder:PublishedBuilder",
    "cmd_video": "minigpt4.datasets.builders.video_builders:CMDVideoBuilder",
    "webvid": "minigpt4.datasets.builders.video_builders:WebVidBuilder",
    "video_chatgpt": "minigpt4.datasets.builders.video_builders:VideoChatGPTBuilder",
} | {
    name: f"minigpt4.datasets.builders.image_text_pair_builder:{builder}"
    for name, builder in {
        "aok_vqa": "AOKVQABuilder",
        "cc_sbu": "CCSBUBuilder",
        "cc_sbu_align": "CCSBUAlignBuilder",
        "coco_caption": "COCOCapBuilder",
        "coco_vqa": "COCOVQABuilder",
        "flickr_CaptionToPhrase": "CaptionToPhraseBuilder",
        "flickr_ObjectToPhrase": "ObjectToPhraseBuilder",
        "flickr_grounded_caption": "GroundedCaptionBuilder",
        "gqa": "GQABuilder",
        "invrefcoco": "InvRefCOCOBuilder",
        "invrefcocog": "InvRefCOCOGBuilder",
        "invrefcocop": "InvRefCOCOPBuilder",
        "laion": "LaionBuilder",
        "llava_conversation": "LlavaConversationBuilder",
        "llava_detail": "LlavaDetailBuilder",
        "llava_reason": "LlavaReasonBuilder",
        "multitask_conversation": "MultitaskConversationBuilder",
        "ocrvqa": "OCRVQABuilder",
        "ok_vqa": "OKVQABuilder",
        "refcoco": "RefCOCOBuilder",
        "refcocog": "RefCOCOGBuilder",
        "refcocop": "RefCOCOPBuilder",
        "refvg": "RefVisualGenomeBuilder",
        "textcaps_caption": "TextcapCaptionBuilder",
        "unnatural_instruction": "UnnaturalInstructionBuilder",
    }.items()
}

registry.declare("builder", BUILDERS)

__getattr__ = lazily(
    *BUILDERS.values(),
    "minigpt4.datasets.builders.base_dataset_builder:BaseDatasetBuilder",
    "minigpt4.datasets.builders.base_dataset_builder:Datasets",
    "minigpt4.datasets.builders.base_dataset_builder:build_datasets",
    "minigpt4.datasets.builders.image_text_pair_builder:WebdatasetBuilder",
    "minigpt4.datasets.builders.map_style_builder:MapStyleBuilder",
)
