"""MiniGPT-v2's dialogues about COCO's pictures, with several tasks in turn."""

from minigpt4.datasets.datasets.llava_dataset import LlavaConversationDataset


class MultiTaskConversationDataset(LlavaConversationDataset):
    """The format of LLaVA's conversations; questions begin with `[refer]`, `[caption]` and so on."""
