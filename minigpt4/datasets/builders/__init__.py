"""Builders: one declarative class a dataset name."""

from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder, build_datasets
from minigpt4.datasets.builders.cached_features_builder import CachedFeaturesBuilder
from minigpt4.datasets.builders.image_text_pair_builder import (
    CCSBUAlignBuilder,
    CCSBUBuilder,
    LaionBuilder,
)

__all__ = [
    "BaseDatasetBuilder",
    "CCSBUAlignBuilder",
    "CCSBUBuilder",
    "CachedFeaturesBuilder",
    "LaionBuilder",
    "build_datasets",
]
