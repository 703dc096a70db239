"""The processor of an exported model: tokenizer, chat template and image processor of transformers."""

import copy
import logging
from typing import Any

import numpy as np
from PIL import Image
from transformers import AddedToken, BlipImageProcessor, LlavaProcessor

from minigpt4.common.errors import ConfigError
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.prompts.dialogue import Dialogue, Role, Turn
from minigpt4.prompts.encoder import IMAGE_ID
from minigpt4.prompts.stock_template import IMAGE_TOKEN, write_chat_template
from minigpt4.prompts.templates import IMAGE_TURN

log = logging.getLogger(__name__)

# Dialogues whose ids are compared: users' texts, of which some have an image, and replies.
IMAGE = object()
ASKED = [[IMAGE, "What is this?"]]
SEVERAL = [[IMAGE, IMAGE, "Which of the two (2) is red,\nand why?"]]
LONGER = [[IMAGE, "What is this?"], ["A red circle."], [IMAGE, "And this?"]]


def build_processor(model: MiniGPTBase, images: ImageProcessor) -> LlavaProcessor:
    """A processor that makes the ids and pixels of a model.

    Args:
        model: of which the tokenizer and the template are taken.
        images: the data sets' image processor.

    """
    size, vision = images.image_size, model.vision
    mean, std = (
        getattr(images, name, None) or list(getattr(vision.encoder, name)) for name in ("mean", "std")
    )
    pixels = BlipImageProcessor(
        size={"height": size, "width": size}, image_mean=list(mean), image_std=list(std)
    )
    tokenizer = copy.deepcopy(model.language.tokenizer)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)], special_tokens=True)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    bos = str(tokenizer.bos_token) if model.prompts.bos else ""
    for space in ("", " "):
        tokenizer.chat_template = write_chat_template(model.template, bos=bos, space=space)
        processor = LlavaProcessor(
            image_processor=pixels,
            tokenizer=tokenizer,
            patch_size=size,
            num_additional_image_tokens=vision.token_shape.count - 1,
            vision_feature_select_strategy="full",
            chat_template=tokenizer.chat_template,
        )
        if same_ids(processor, model, ASKED):
            break
    return processor  # type: ignore[possibly-unbound]


def check_ids(processor: LlavaProcessor, model: MiniGPTBase) -> None:
    """Compare a processor's ids for questions with those of the model's training.

    Raises:
        ConfigError: if they differ.
    """
    if not all(same_ids(processor, model, turns) for turns in (ASKED, SEVERAL)):
        raise ConfigError(
            f"model.llama_model: with the tokenizer of {model.language.name}, a question has other ids in "
            "transformers than this model was trained with, so it cannot be exported"
        )
    if not same_ids(processor, model, LONGER):
        log.warning(
            "from the second question on, transformers writes slightly other ids than this project: it "
            "tokenises a reply together with the mark before it"
        )


def same_ids(processor: LlavaProcessor, model: MiniGPTBase, turns: list[list[Any]]) -> bool:
    """Whether transformers' ids for a dialogue are those of `PromptEncoder`."""
    size = model.image_size
    blank = Image.fromarray(np.zeros((size, size, 3), np.uint8))
    roles: list[Role] = ["user", "assistant"]
    # Like in chat, the template's own system text comes first.
    messages, said = [], [Turn("system", model.template.system)] if model.template.system else []
    for place, parts in enumerate(turns):
        role = roles[place % 2]
        content = [
            {"type": "image", "image": blank} if part is IMAGE else {"type": "text", "text": part}
            for part in parts
        ]
        messages.append({"role": role, "content": content})
        said.append(Turn(role, "".join(IMAGE_TURN if part is IMAGE else part for part in parts)))
    theirs: Any = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True
    )
    ours, _ = model.prompts.ids(Dialogue(tuple(said)))
    image = processor.image_token_id
    return list(np.ravel(theirs["input_ids"])) == [image if one == IMAGE_ID else one for one in ours]
