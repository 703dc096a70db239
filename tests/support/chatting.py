"""A chat that remembers what its model was given, and a model that says what it is told."""

from types import MethodType

import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.prompts.dialogue import Dialogue
from tests.support.prompts import written

RED = Image.new("RGB", (90, 70), "red")
BLUE = Image.new("RGB", (56, 56), "blue")
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 20}


class Scripted(LogitsProcessor):
    """Makes a language model say these ids, and the last of them for ever."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = torch.full_like(scores, -torch.inf)
        scores[:, self.ids[min(input_ids.shape[1], len(self.ids) - 1)]] = 0
        return scores


class RecordingChat(Chat):
    """Remembers the dialogues the model was given, and can be told what to answer."""

    script: list[int] | None = None

    def __init__(self, model, **kwargs):
        super().__init__(model, Blip2ImageEvalProcessor(56), **kwargs)
        self.given: list[tuple[Dialogue, list[torch.Tensor]]] = []
        given = model.__class__.get_context_emb

        def remember(model, dialogue, images):
            self.given.append((dialogue, images))
            return given(model, dialogue, images)

        model.get_context_emb = MethodType(remember, model)

    @property
    def prompt(self) -> str:
        """The last dialogue as text."""
        return written(self.model.prompts, self.given[-1][0])

    def say(self, text: str) -> None:
        self.script = self.model.llama_tokenizer(text, add_special_tokens=False).input_ids

    def model_generate(self, *args, **kwargs):
        if self.script is not None:
            kwargs["logits_processor"] = LogitsProcessorList([Scripted(self.script)])
        return super().model_generate(*args, **kwargs)

    def begin(self, text: str, *images) -> tuple[Conversation, list]:
        conv, img_list = Conversation(self.model.template), []
        for image in images:
            self.upload_img(image, conv, img_list)
        self.encode_img(img_list)
        self.ask(text, conv)
        return conv, img_list
