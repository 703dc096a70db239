"""The original's conversations: what they write, and what the model is given of them."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from minigpt4.conversation import conversation
from minigpt4.conversation.conversation import Conversation, SeparatorStyle
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.templates import GEMMA, LLAMA2, VICUNA_V0, PromptTemplate
from tests.support import GOLDEN
from tests.support.prompts import written

READY_MADE = ["CONV_VISION_Vicuna0", "CONV_VISION_LLama2", "CONV_VISION_minigptv2"]
TEXTS = ["<Img><ImageHere></Img> what is this?", "a dog.", "what colour?", None]

# In what the model is given another text than the original's, all of it on purpose.
SPACING = ("###Assistant: ", " ###Assistant: ")  # as in training
END_SYMBOL = ("a dog.<s>", "a dog.</s><s>")  # a reply ends as the model learned to end it
AFTER_BOS = ("<s>[INST]", "<s> [INST]")  # today's tokenizers need it to write the ids of yesterday's
FIRST_BOS = ("<s> [INST] <Img>", "[INST] <Img>")  # put in front as an id, once
# name -> the YAML's `prompt_template` and `end_sym`, and the differences
MEANT = {
    "CONV_VISION_Vicuna0": ("###Human: {} ###Assistant: ", "###", [SPACING]),
    "CONV_VISION_LLama2": ("[INST] {} [/INST] ", "</s>", [END_SYMBOL, AFTER_BOS]),
    "CONV_VISION_minigptv2": ("[INST] {} [/INST]", "</s>", [END_SYMBOL, AFTER_BOS, FIRST_BOS]),
}


def talk(conv: Any) -> Any:
    """Two turns, of which the second awaits its reply."""
    for role, text in zip([*conv.roles, *conv.roles], TEXTS, strict=True):
        conv.append_message(role, text)
    return conv


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(GOLDEN / "llm")


def encoder(tokenizer: Any, name: str) -> PromptEncoder:
    prompt_template, end_sym, _ = MEANT[name]
    template = LLAMA2.with_overrides(prompt_template, end_sym)
    return PromptEncoder(tokenizer, 1, 2, template, max_txt_len=40, max_context_len=900)


@pytest.mark.parametrize("name", READY_MADE)
def test_prompt_is_the_recorded_one(name: str, reference: dict[str, Any]) -> None:
    assert talk(getattr(conversation, name).copy()).get_prompt() == reference["prompts"][name]
    assert getattr(conversation, name).messages == []


@pytest.mark.parametrize("name", READY_MADE)
def test_model_is_given_the_recorded_prompt_but_for_what_is_meant(name, reference, tokenizer) -> None:
    expected = reference["prompts"][name]
    for original, here in MEANT[name][2]:
        assert original in expected
        expected = expected.replace(original, here)
    dialogue = talk(getattr(conversation, name).copy()).dialogue()
    assert written(encoder(tokenizer, name), dialogue) == expected


def test_llama2_dialogue_begins_with_the_ids_of_the_original(tokenizer) -> None:
    """BOS, the system text, and a turn that begins with BOS."""

    def words(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    dialogue = talk(conversation.CONV_VISION_LLama2.copy()).dialogue()
    ids, _ = encoder(tokenizer, "CONV_VISION_LLama2").ids(dialogue)
    beginning = [1, *words(VICUNA_V0.system), 1, *words("[INST] <Img>")]
    assert ids[: len(beginning)] == beginning
    assert ids.count(1) == 3


@pytest.mark.parametrize(
    "roles",
    [
        ("Human", "Assistant"),
        ("Human: ", "Assistant: "),
        ("<s>[INST] ", " [/INST] "),
        [r"<s>[INST] ", r" [/INST]"],
        ("USER", "ASSISTANT"),
    ],
)
def test_roles_of_any_spelling_make_the_same_dialogue(roles: Any) -> None:
    conv = Conversation(
        system="", roles=roles, messages=[], offset=2, sep_style=SeparatorStyle.SINGLE, sep=""
    )
    asked, said, more, _ = TEXTS
    assert talk(conv).dialogue() == Dialogue(
        (Turn("user", asked), Turn("assistant", said), Turn("user", more))
    )


def test_first_release_writes_a_colon_after_its_roles() -> None:
    conv = talk(Conversation(system="Look.", roles=("Human", "Assistant"), messages=(), offset=2))
    assert conv.get_prompt() == (
        "Look.###Human: <Img><ImageHere></Img> what is this?###Assistant: a dog.###"
        "Human: what colour?###Assistant:"
    )


def test_two_separators_take_turns() -> None:
    style = {"sep_style": SeparatorStyle.TWO, "sep": " ", "sep2": "</s>"}
    conv = talk(Conversation("A chat.", ("USER", "ASSISTANT"), [], 0, **style))
    assert conv.get_prompt() == (
        "A chat. USER: <Img><ImageHere></Img> what is this? ASSISTANT: a dog.</s>"
        "USER: what colour? ASSISTANT:"
    )


def test_gemma_writes_its_template() -> None:
    dialogue = talk(conversation.CONV_VISION_Gemma.copy())
    first = GEMMA.turn(TEXTS[0]) + "a dog."
    assert dialogue.get_prompt() == first + GEMMA.next_turn + GEMMA.turn("what colour?")


def test_describes_itself() -> None:
    conv = talk(conversation.CONV_VISION_LLama2.copy())
    assert conversation.CONV_VISION is conversation.CONV_VISION_Vicuna0
    assert (conv.sep, conv.sep2, conv.offset, conv.sep_style) == ("", None, 2, SeparatorStyle.SINGLE)
    assert conv.to_gradio_chatbot() == [["what colour?", None]]
    assert conv.dict() == {
        "system": VICUNA_V0.system,
        "roles": ("<s>[INST] ", " [/INST] "),
        "messages": conv.messages,
        "offset": 2,
        "sep": "",
        "sep2": None,
        "conv_id": None,
    }
    other = conv.copy()
    other.append_message(other.roles[0], "x")
    assert len(other.messages) == len(conv.messages) + 1 and other.offset == 2


def test_a_yaml_template_chooses_how_a_dialogue_begins() -> None:
    """MiniGPT-v2 marks turns as LLaMA-2 does, but for a space, and has no system text."""
    assert LLAMA2.system == "" == LLAMA2.with_overrides("[INST] {} [/INST]", None).system
    with_space = PromptTemplate(end="x").with_overrides("[INST] {} [/INST] ", None)
    assert (with_space.system, with_space.end) == (VICUNA_V0.system, "x")
