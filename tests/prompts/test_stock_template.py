"""Chat templates that are written for transformers."""

import pytest

from minigpt4.prompts.chat_template import render
from minigpt4.prompts.stock_template import write_chat_template
from minigpt4.prompts.templates import CHATML, GEMMA, LLAMA2, PLAIN, VICUNA_V0, PromptTemplate

TEMPLATES = {
    "gemma": (GEMMA, "<bos>"),
    "llama": (LLAMA2, "<s>"),
    "vicuna": (VICUNA_V0, "<s>"),
    "chatml": (CHATML, ""),
    "plain": (PLAIN, ""),
    "quotes": (PromptTemplate("'{{\\ ", " '%}\n", end="'"), ""),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_written_template_renders_as_turns_are_written(name) -> None:
    template, bos = TEMPLATES[name]
    once, twice = render(write_chat_template(template, bos=bos, space=""), ())
    start = bos + template.system + (template.after_system if template.system else "")
    assert once == start + template.turn("Xaskedx")
    reply = f"Xrepliedx{template.end}"
    assert twice == once + reply + template.later_turn("Xagainx")


def test_image_stands_between_its_tags_and_spaces_where_a_text_begins() -> None:
    from minigpt4.prompts import template_process

    template = write_chat_template(LLAMA2, bos="<s>", space=" ")
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": content}]
    (text,) = template_process._render(template, {}, [{"messages": messages, "add_generation_prompt": True}])
    image = "<Img><image> </Img> "
    assert text == f"<s> Be kind.<s> [INST] {image}{image}Which? [/INST] "
