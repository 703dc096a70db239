"""One dialogue, one way to token ids: training, evaluation and chat give a language model the same ids."""

from collections.abc import Callable

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from minigpt4.conversation.messages import Conversation
from minigpt4.prompts.chat_template import read_chat_template
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import IMAGE_ID, PromptEncoder
from minigpt4.prompts.templates import (
    CHATML,
    GEMMA,
    IMAGE_TURN,
    LLAMA2,
    MINIGPT_V2,
    PLAIN,
    VICUNA_V0,
    PromptTemplate,
)
from tests.support import GOLDEN
from tests.support.families import TINY, chatml_tokenizer

TURNS = [(f"{IMAGE_TURN}a red star", "a star"), ("a circle", "two")]


def recorded_ids(text: str) -> list[list[int]]:
    """The ids of each part; I stands for an image token, of which one image has two here."""
    return [[IMAGE_ID if word == "I" else int(word) for word in part.split()] for part in text.split("|")]


def saved(folder: str) -> Callable[[], PreTrainedTokenizerBase]:
    return lambda: AutoTokenizer.from_pretrained(GOLDEN / "llm" if folder == "golden" else TINY / folder)


# Tokenizer, template, and the ids in which they write TURNS: question | answer | question | answer.
FAMILIES = {
    "llama": (
        saved("llama"),
        LLAMA2,
        "1 312 277 I I 311 259 367 333 313 545 | 259 333 2 | 1 312 259 341 313 545 | 321 2",
    ),
    "minigpt_v2": (
        saved("llama"),
        MINIGPT_V2,
        "1 312 277 I I 311 259 367 333 313 | 259 333 2 | 1 312 259 341 313 | 321 2",
    ),
    "vicuna": (
        saved("golden"),
        VICUNA_V0,
        "1 354 373 373 373 291 387 354 374 384 366 362 375 I I 354 374 385 384 366 362 375 354 356 "
        "321 263 357 268 354 373 373 373 289 387 354 | 354 356 263 357 268 373 373 373 | 354 291 387 "
        "354 356 279 360 361 369 367 355 354 373 373 373 289 387 354 | 262 371 363 373 373 373",
    ),
    "gemma": (
        saved("gemma"),
        GEMMA,
        "2 4 307 16 277 I I 309 269 374 333 5 16 4 308 16 | 547 333 5 | 16 4 307 16 547 348 5 16 4 "
        "308 16 | 504 5",
    ),
    "plain": (
        saved("golden"),
        PLAIN,
        "1 354 374 384 366 362 375 I I 354 374 385 384 366 362 375 354 356 321 263 357 268 14 | 354 "
        "356 263 357 268 14 | 354 356 279 360 361 369 367 355 14 | 262 371 363 14",
    ),
    "chatml": (
        chatml_tokenizer,
        CHATML,
        "257 84 82 68 81 198 27 40 76 70 29 I I 27 14 40 76 70 29 220 64 220 81 68 67 220 82 83 64 81 "
        "258 198 257 64 82 82 72 82 83 64 77 83 198 | 64 220 82 83 64 81 258 | 198 257 84 82 68 81 "
        "198 64 220 66 72 81 66 75 68 258 198 257 64 82 82 72 82 83 64 77 83 198 | 83 86 78 258",
    ),
}


def encoder(tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> PromptEncoder:
    bos = tokenizer.bos_token_id if tokenizer("a").input_ids[0] == tokenizer.bos_token_id else None
    return PromptEncoder(tokenizer, bos, 2, template, max_txt_len=40, max_context_len=400)


def chatted(template: PromptTemplate) -> Dialogue:
    """The first turn said and answered, the second one asked, as chat keeps them."""
    chat = Conversation(template)
    for role, text in zip(chat.roles * 2, [*TURNS[0], TURNS[1][0], None], strict=True):
        chat.append_message(role, text)
    return chat.dialogue()


@pytest.mark.parametrize("family", FAMILIES)
def test_training_evaluation_and_chat_give_the_recorded_ids(family: str) -> None:
    make, template, recorded = FAMILIES[family]
    prompts = encoder(make(), template)
    first, answer, second, last = recorded_ids(recorded)
    everything = [*first, *answer, *second, *last]
    start = len(everything) - len(last)

    ids, targets = prompts.ids(Dialogue.of(TURNS))
    assert ids == everything
    assert targets == [*range(len(first), len(first) + len(answer)), *range(start, len(everything))]

    ids, targets = prompts.ids(Dialogue.of(TURNS), learn_all=False)
    assert ids == everything and targets == [*range(start, len(everything))]

    dialogue = chatted(template)
    system = Turn("system", template.system)
    assert dialogue.turns[0] == (system if template.system else Dialogue.of(TURNS).turns[0])
    without_system = Dialogue(tuple(turn for turn in dialogue.turns if turn.role != "system"))
    assert prompts.ids(without_system)[0] == everything[:start]


def test_what_is_read_off_a_chat_template_gives_the_same_ids() -> None:
    tokenizer = chatml_tokenizer()
    read = encoder(tokenizer, read_chat_template(tokenizer))
    assert read.ids(Dialogue.of(TURNS)) == encoder(tokenizer, CHATML).ids(Dialogue.of(TURNS))


def test_an_answer_that_is_only_read_is_whole_and_one_that_is_learned_is_cut() -> None:
    prompts = encoder(saved("gemma")(), GEMMA)
    prompts.max_txt_len = 3
    long = Dialogue.of([("a", "a red star"), ("a", "a red star")])
    whole = prompts.ids(Dialogue.of([("a", "a red star"), ("a", "")]), learn_all=False)[0]
    # a 547, ▁red 374, ▁star 333, <end_of_turn> 5
    ids, targets = prompts.ids(long, learn_all=False)
    assert ids == [*whole[:-1], 547, 374, 5] and [ids[place] for place in targets] == [547, 374, 5]
    assert [prompts.ids(long)[0][place] for place in prompts.ids(long)[1]] == [547, 374, 5] * 2


@pytest.mark.parametrize(
    "roles", [[], ["system"], ["user"] * 2, ["assistant"] * 2, ["user", "system"], ["system", "assistant"]]
)
def test_turns_alternate(roles: list) -> None:
    with pytest.raises(ValueError, match="must alternate"):
        Dialogue(tuple(Turn(role, "x") for role in roles))
