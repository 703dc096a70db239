"""Inference, for the page, the command line, the server and Python (docs/inference.md)."""

from minigpt4.common.registry import lazily

__getattr__ = lazily(
    "minigpt4.models.generation:GenerationSettings",
    "minigpt4.serving.chat_model:ChatModel",
    "minigpt4.serving.loading:from_config",
    "minigpt4.serving.loading:load",
    "minigpt4.serving.messages:Message",
    "minigpt4.serving.replies:Reply",
    "minigpt4.serving.session:ChatSession",
)
