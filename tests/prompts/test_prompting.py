"""What the language model is given, id by id."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.prompts import templates
from minigpt4.prompts.encoder import IMAGE_ID, PromptEncoder
from tests.support import GOLDEN
from tests.support.prompts import answer_ids, prompt_ids, whole

# The golden LLaMA tokenizer: "▁" 354, "a" 356, "▁d" 282, "og" 351, "</s>" 2, "<s>" 1.
A_DOG = [354, 356, 282, 351]
OPEN_IMAGE = [354, 374, 384, 366, 362, 375]  # ▁ < I m g >
CLOSE_IMAGE = [354, 374, 385, 384, 366, 362, 375]  # ▁ < / I m g >
INST = [354, 391, 384, 388, 389, 390, 392]  # ▁ [ I N S T ]


@pytest.fixture(scope="module")
def llama() -> PromptEncoder:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "llm")
    return PromptEncoder(tokenizer, 1, 3, templates.LLAMA2, max_txt_len=8, max_context_len=60)


def test_llama_turn(llama: PromptEncoder) -> None:
    ids = prompt_ids(llama, templates.LLAMA2.turn("<Img><ImageHere></Img> a dog"))
    close_inst = [354, 391, 385, 384, 388, 389, 390, 392, 354]  # ▁ [ / I N S T ] ▁
    image = [IMAGE_ID] * 3
    assert ids == [1, *INST, *OPEN_IMAGE, *image, *CLOSE_IMAGE, *A_DOG, *close_inst]


def test_vicuna_turn_keeps_the_spacing_of_training(llama: PromptEncoder) -> None:
    text = templates.VICUNA_V0.turn("<Img><ImageHere></Img> a dog")
    assert text == "###Human: <Img><ImageHere></Img> a dog ###Assistant: "
    human = [354, 373, 373, 373, 291, 387]  # ▁ # # # Human :
    assistant = [354, 373, 373, 373, 289, 387, 354]  # ▁ # # # Assistant : ▁
    assert prompt_ids(llama, text) == [
        *[1, *human, *OPEN_IMAGE, *[IMAGE_ID] * 3],
        *[*CLOSE_IMAGE, *A_DOG, *assistant],
    ]


def test_bos_is_not_doubled(llama: PromptEncoder) -> None:
    assert prompt_ids(llama, "<s>a dog") == prompt_ids(llama, "a dog") == [1, *A_DOG]


def test_no_bos_for_models_without(llama: PromptEncoder) -> None:
    encoder = PromptEncoder(llama.tokenizer, None, 3, templates.LLAMA2, 8, 60)
    assert prompt_ids(encoder, "<ImageHere>") == [IMAGE_ID] * 3


def test_a_long_answer_keeps_its_end_symbol(llama: PromptEncoder) -> None:
    assert answer_ids(llama, "a dog") == [*A_DOG, 2]
    long = answer_ids(llama, "a dog and a car on the grass")
    assert len(long) == 8
    assert long[:4] == A_DOG and long[-1] == 2


@pytest.mark.parametrize("end", ["\n", "###"])
def test_an_end_symbol_that_the_tokenizer_cannot_write_is_an_error(end) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "dog": 2, "[SEP]": 3}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", sep_token="[SEP]")
    arguments = {"max_txt_len": 8, "max_context_len": 60}
    with pytest.raises(ConfigError, match=r"^model\.end_sym is "):
        PromptEncoder(tokenizer, None, 3, replace(templates.PLAIN, end=end), **arguments)
    ended = PromptEncoder(tokenizer, None, 3, replace(templates.PLAIN, end="[SEP]"), **arguments)
    assert answer_ids(ended, "a dog") == [1, 2, 3]


def test_a_template_with_a_place_for_an_image_is_an_error(llama: PromptEncoder) -> None:
    template = replace(templates.LLAMA2, user="<Img><ImageHere></Img> ")
    with pytest.raises(ConfigError, match=r"^model\.prompt_template, or .* has <ImageHere> itself"):
        PromptEncoder(llama.tokenizer, 1, 3, template, 8, 60)


def test_labels(llama: PromptEncoder) -> None:
    batch = llama.encode([whole("<ImageHere>", "a dog"), whole("<ImageHere> a", "dog")])
    dog = answer_ids(llama, "dog")
    assert batch.ids.tolist() == [
        [1, 0, 0, 0, *A_DOG, 2],
        [1, 0, 0, 0, 354, 356, *dog] + [0] * (3 - len(dog)),
    ]
    assert batch.attention_mask.sum(1).tolist() == [9, 6 + len(dog)]
    assert batch.image_index.tolist() == [1, 2, 3, 10, 11, 12]
    # A target is predicted from the place before it: the first from the last of the context.
    assert batch.target_ids.tolist() == [*A_DOG, 2, *dog]
    first = 9 + 5
    assert batch.target_index.tolist() == [3, 4, 5, 6, 7, *range(first, first + len(dog))]
    assert batch.target_row.tolist() == [0] * 5 + [1] * len(dog)


def test_padding_on_the_left_for_generation(llama: PromptEncoder) -> None:
    batch = llama.encode([whole("<ImageHere>"), whole("<ImageHere> a")], pad_left=True)
    assert batch.ids.tolist() == [[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 354, 356]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6]
    assert batch.image_index.tolist() == [3, 4, 5, 7, 8, 9]
    assert batch.target_ids.numel() == 0


def test_refusals(llama: PromptEncoder) -> None:
    with pytest.raises(DataError, match=r"longer than model\.max_context_len=60"):
        prompt_ids(llama, "dog " * 60)


def test_pad_positions_do_not_depend_on_ids(llama: PromptEncoder) -> None:
    """The pad id also occurs as a word (`<unk>` is 0): it is attended to and learned like any other."""
    batch = llama.encode([whole("<unk>", "a"), whole("a dog", "a dog")])
    row = batch.ids[0].tolist()
    assert 0 in row[:2]
    assert batch.attention_mask[0, row.index(0)] == 1
    assert torch.equal(batch.attention_mask.sum(1), torch.tensor([2 + 3, 5 + 5]))
