"""The two families of tiny language models: their templates, tokenizers and empty networks.

Text reaches the model in pieces, each tokenized by itself: that is how MiniGPT-4 splices image
tokens in, and with LLaMA's dummy prefix it matters.
"""

from __future__ import annotations

import json
import random
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GemmaTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from dataset.shapes import language, world

WIDTH = 128
VOCABULARY = 640
_SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class Family:
    """How one family writes a conversation, and how its parts are made.

    Attributes:
        first: the first turn, up to the answer; `{}` is what is asked.
        later: any further turn, after the end symbol of the answer before it.
        end: the end symbol.
    """

    first: str
    later: str
    end: str
    make_tokenizer: Callable[[Path], PreTrainedTokenizerBase]
    make_model: Callable[[PreTrainedTokenizerBase], PreTrainedModel]
    chat_template: str


def corpus(count: int, seed: int) -> list[str]:
    """Lines that tokenizers are trained on."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        scene = language.random_scene(rng)
        turn = language.ask(scene, rng)
        # Without its mark, so that no word is learned together with one.
        question = turn.question.rstrip("?.")
        lines += [world.caption(scene), question, f"</Img> {question} [/INST]", turn.answer]
        lines += ["[INST] <Img>", "<Img>", "user", "model"]
        lines += ["a " + " ".join(world.attributes(scene)), rng.choice(language.CONTEXT_WORDS)]
    return [*lines, *[language.GREETING, language.NO_PICTURE] * (count // 20)]


def _train_sentencepiece(file: Path, lines: list[str], **kwargs: object) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(file.with_suffix("")),
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,  # "<Img>" and "[INST]" may become words
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        num_threads=1,
        minloglevel=2,
        **kwargs,
    )
    file.with_suffix(".vocab").unlink()


def _llama_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    _train_sentencepiece(
        folder / "tokenizer.model",
        corpus(4000, seed=0),
        vocab_size=VOCABULARY,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
    )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _SHAPE["max_position_embeddings"],
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": LLAMA.chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return LlamaTokenizer.from_pretrained(folder)


def _gemma_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    turns = ["<start_of_turn>", "<end_of_turn>"]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokenizer.model"
        _train_sentencepiece(
            file,
            corpus(4000, seed=0),
            vocab_size=VOCABULARY,
            add_dummy_prefix=False,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
            control_symbols=turns,
        )
        parts = SentencePieceExtractor(str(file)).extract(None)
    tokenizer = GemmaTokenizer(
        vocab=parts["vocab"],
        merges=parts["merges"],
        mask_token=None,
        additional_special_tokens=turns,
        add_bos_token=True,
        clean_up_tokenization_spaces=False,
        model_max_length=_SHAPE["max_position_embeddings"],
    )
    tokenizer.chat_template = GEMMA.chat_template
    tokenizer.save_pretrained(folder)
    return GemmaTokenizer.from_pretrained(folder)


def _llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        **_SHAPE,
    )
    model = LlamaForCausalLM(config)
    # Large enough that what a fresh linear layer gives is of the same order.
    nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    return model


def _gemma(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = GemmaConfig(
        vocab_size=len(tokenizer),
        head_dim=WIDTH // _SHAPE["num_attention_heads"],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")],
        **_SHAPE,
    )
    model = GemmaForCausalLM(config)
    # Its embedding call multiplies by sqrt(width), its head, the same matrix, does not.
    nn.init.normal_(model.get_input_embeddings().weight, std=WIDTH**-0.5)
    return model


LLAMA = Family(
    first="[INST] {} [/INST] ",
    later="<s> [INST] {} [/INST] ",
    end="</s>",
    make_tokenizer=_llama_tokenizer,
    make_model=_llama,
    chat_template=(
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + ' [INST] ' + message['content'] + ' [/INST] ' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
)
GEMMA = Family(
    first="<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    later="\n<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    end="<end_of_turn>",
    make_tokenizer=_gemma_tokenizer,
    make_model=_gemma,
    chat_template=(
        "{{ bos_token }}{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] + '<end_of_turn>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
)
FAMILIES = {"llama": LLAMA, "gemma": GEMMA}
