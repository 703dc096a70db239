"""What the original kept in this module, under its names: dialogues, chat and stopping."""

from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation
from minigpt4.prompts import templates
from minigpt4.prompts.reply_end import StoppingCriteriaSub

CONV_VISION_Vicuna0 = Conversation(templates.VICUNA_V0)
CONV_VISION_LLama2 = Conversation(templates.LLAMA2)
CONV_VISION_minigptv2 = Conversation(templates.MINIGPT_V2)

__all__ = [
    "CONV_VISION_LLama2",
    "CONV_VISION_Vicuna0",
    "CONV_VISION_minigptv2",
    "Chat",
    "Conversation",
    "StoppingCriteriaSub",
]
