"""What ends a reply, and what a language model was taught to read as turns, whatever the YAML says."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from minigpt4.models.backbones.base_backbone import BaseBackbone, choose_backbone
from minigpt4.prompts.templates import PromptTemplate
from tests.support import GOLDEN
from tests.support.families import MISTRAL, TINY, chatml_tokenizer, save_model
from tests.support.golden import build_golden_model

VICUNA, LLAMA2 = "###Human: {} ###Assistant: ", "[INST] {} [/INST] "


@pytest.mark.parametrize("end_sym", ["</s>", "###", "\n"])
def test_end_ids_hold_the_familys_own_end_of_turn(end_sym) -> None:
    """Gemma's `<end_of_turn>` 5 and ChatML's `<|im_end|>` 258, beside EOS."""
    gemma = choose_backbone("gemma", "gemma", AutoTokenizer.from_pretrained(TINY / "gemma"))
    chatml = choose_backbone("auto", "qwen2", chatml_tokenizer())
    assert {1, 5} <= {*gemma.end_ids(GenerationConfig(eos_token_id=1), end_sym)}
    assert {256, 258} <= {*chatml.end_ids(GenerationConfig(eos_token_id=256), end_sym)}


def test_end_ids_hold_no_ordinary_word_that_the_end_symbol_replaced() -> None:
    """A family that ends its replies with a word does so only where the YAML does not say otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / "gemma")
    word = tokenizer.convert_ids_to_tokens(333)

    class Wordy(BaseBackbone):
        template = PromptTemplate(end=word)

    assert 333 in Wordy(tokenizer).end_ids(GenerationConfig(eos_token_id=1), word)
    assert 333 not in Wordy(tokenizer).end_ids(GenerationConfig(eos_token_id=1), "###")


def warnings_of(folder: Path, caplog, template: str | None) -> list[str]:
    caplog.clear()
    build_golden_model(
        llama_model=str(folder), prompt_template=template, end_sym=None, ckpt=None, llm_sanity_check=False
    )
    return [message for message in caplog.messages if "prompt_template" in message]


def test_turns_that_a_model_was_never_taught_are_warned_of(tmp_path, caplog) -> None:
    gemma = save_model(tmp_path / "gemma", "gemma")
    (warning,) = warnings_of(gemma, caplog, LLAMA2)
    assert all(marks in warning for marks in ("'[INST]...[/INST]'", "'<start_of_turn>user...", "gemma was"))
    assert not warnings_of(gemma, caplog, None)
    own = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
    assert not warnings_of(gemma, caplog, own)


def test_turns_that_a_chat_template_shows(tmp_path, caplog) -> None:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "llm")
    tokenizer.chat_template = MISTRAL
    llama2 = save_model(tmp_path / "llama2", "llama", tokenizer)
    assert len(warnings_of(llama2, caplog, VICUNA)) == 1
    assert not warnings_of(llama2, caplog, LLAMA2)


def test_turns_of_which_nothing_is_known_are_the_users(caplog) -> None:
    """Vicuna's files say no more than LLaMA's."""
    for template in (VICUNA, LLAMA2):
        assert not warnings_of(GOLDEN / "llm", caplog, template)
