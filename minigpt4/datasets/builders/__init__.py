"""Builders: one declarative class per kind of data set. Importing them imports no torch."""

from minigpt4.common.registry import lazily, registry

BUILDERS = {
    "cached_features": "minigpt4.datasets.builders.cached_features_builder:CachedFeaturesBuilder",
    "cc_sbu": "minigpt4.datasets.builders.image_text_pair_builder:CCSBUBuilder",
    "cc_sbu_align": "minigpt4.datasets.builders.image_text_pair_builder:CCSBUAlignBuilder",
    "jsonl": "minigpt4.datasets.builders.jsonl_builder:JsonlBuilder",
    "laion": "minigpt4.datasets.builders.image_text_pair_builder:LaionBuilder",
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
