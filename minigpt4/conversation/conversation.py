"""Where the original has these names; the package itself uses `minigpt4.conversation.chat` and `messages`."""

from minigpt4.compat.conversation import (
    CONV_VISION,
    CONV_VISION_Gemma,
    CONV_VISION_LLama2,
    CONV_VISION_minigptv2,
    CONV_VISION_Vicuna0,
    Conversation,
    SeparatorStyle,
)
from minigpt4.conversation.chat import Chat
from minigpt4.prompts.reply_end import StoppingCriteriaSub

__all__ = [
    "CONV_VISION",
    "CONV_VISION_Gemma",
    "CONV_VISION_LLama2",
    "CONV_VISION_Vicuna0",
    "CONV_VISION_minigptv2",
    "Chat",
    "Conversation",
    "SeparatorStyle",
    "StoppingCriteriaSub",
]
