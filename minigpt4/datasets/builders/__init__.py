"""Builders: one declarative class a dataset name."""

from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder, Datasets, build_datasets
from minigpt4.datasets.builders.cached_features_builder import CachedFeaturesBuilder
from minigpt4.datasets.builders.image_text_pair_builder import (
    CCSBUAlignBuilder,
    CCSBUBuilder,
    LaionBuilder,
)
from minigpt4.datasets.builders.jsonl_builder import JsonlBuilder
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder

__all__ = [
    "BaseDatasetBuilder",
    "CCSBUAlignBuilder",
    "CCSBUBuilder",
    "CachedFeaturesBuilder",
    "Datasets",
    "JsonlBuilder",
    "LaionBuilder",
    "MapStyleBuilder",
    "build_datasets",
]
