"""Processors: one image or one caption in, what the model takes out."""

from minigpt4.common.registry import lazily, registry

PROCESSORS = {
    "blip2_image_train": "minigpt4.processors.blip_processors:Blip2ImageTrainProcessor",
    "blip2_image_eval": "minigpt4.processors.blip_processors:Blip2ImageEvalProcessor",
    "blip_caption": "minigpt4.processors.blip_processors:BlipCaptionProcessor",
}

registry.declare("processor", PROCESSORS)

__getattr__ = lazily(*PROCESSORS.values(), "minigpt4.processors.base_processor:BaseProcessor")
