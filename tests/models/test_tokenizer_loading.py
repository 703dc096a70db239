"""Tokenizers: the ids that the files hold, whatever class they name, or one clear line."""

import json
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from minigpt4.common.errors import ConfigError
from minigpt4.models.tokenizer_loading import load_tokenizer
from tests.support.families import TINY, chatml_tokenizer

ROWS = 640
TEXTS = [
    "a red circle",
    "<Img></Img> describe this",
    "a  b",
    "caf\u00e9 \u65e5\u672c\n",
    "x  y ",
    "[INST] a [/INST] ",
]


def llama(folder: Path, remove: tuple[str, ...] = (), **keys) -> Path:
    """The tiny LLaMA's tokenizer with a changed tokenizer_config.json."""
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        if name not in remove:
            shutil.copy(TINY / "llama" / name, folder)
    if "tokenizer_config.json" not in remove:
        path = folder / "tokenizer_config.json"
        said = json.loads(path.read_text()) | keys
        path.write_text(json.dumps({key: value for key, value in said.items() if value != "LEFT OUT"}))
    return folder


EMPTY = {"bos_token": "", "eos_token": "", "unk_token": ""}


@pytest.mark.parametrize(
    ("remove", "keys"),
    [
        ((), {}),
        ((), {"tokenizer_class": "LLaMATokenizer"}),  # LLaMA-1, from which Vicuna v0 was made
        ((), {"tokenizer_class": "LEFT OUT"}),
        ((), {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ((), {"tokenizer_class": "GPT2Tokenizer"}),
        ((), {"tokenizer_class": "SomebodysTokenizer"}),
        ((), {"add_bos_token": "LEFT OUT"}),
        ((), {"add_bos_token": None}),
        ((), {"bos_token": ""}),
        ((), EMPTY),
        ((), EMPTY | {"tokenizer_class": "LLaMATokenizer", "add_bos_token": "LEFT OUT"}),
        ((), {"bos_token": {"content": ""}, "pad_token": ""}),
        (("tokenizer_config.json",), {}),
    ],
)
def test_a_sentencepiece_file_is_read_as_what_it_is(tmp_path, remove, keys) -> None:
    tokenizer = load_tokenizer(llama(tmp_path, remove=remove, **keys), ROWS)
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text)
        assert tokenizer(text).input_ids == [1, *pieces.encode(text)]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)


AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("said", [None, "LlamaTokenizer", "GemmaTokenizer"])
@pytest.mark.parametrize(
    "options",
    [
        AS_IT_IS,
        AS_IT_IS | {"bos_id": 3, "eos_id": 0, "unk_id": 1, "pad_id": 2},
        AS_IT_IS | {"add_dummy_prefix": False},
        {},  # as OpenLLaMA: spaces in a row are one
        {"normalization_rule_name": "nmt_nfkc_cf"},  # lower case
    ],
)
def test_sentencepiece_files_of_all_kinds(tmp_path, options, said) -> None:
    words = ["The dog is running in the park [INST] two red circles", *TEXTS] * 9
    SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        byte_fallback=True,
        vocab_size=320,
        minloglevel=2,
        **options,
    )
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma" if said else "llama"}))
    if said:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": said}))
    tokenizer = load_tokenizer(tmp_path, 320)
    for text in [*TEXTS, "A Red  Circle"]:
        assert tokenizer(text).input_ids == [pieces.bos_id(), *pieces.encode(text)]
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id) == (pieces.eos_id(), pieces.unk_id())


def test_a_folder_may_say_that_there_is_no_bos(tmp_path) -> None:
    tokenizer = load_tokenizer(llama(tmp_path, add_bos_token=False), ROWS)
    assert tokenizer("a").input_ids == [259]


def test_bos_is_known_from_tokenizer_json_alone(tmp_path) -> None:
    AutoTokenizer.from_pretrained(TINY / "llama").save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    shutil.copy(TINY / "llama" / "config.json", tmp_path)
    tokenizer = load_tokenizer(tmp_path, ROWS)
    assert (tokenizer.bos_token_id, tokenizer("a circle").input_ids) == (1, [1, 259, 341])


def test_a_folder_without_tokenizer_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer: none of tokenizer.json, tokenizer.model, "):
        load_tokenizer(llama(tmp_path, remove=("tokenizer.model",)), ROWS)


def test_a_vocabulary_without_merges_is_refused(tmp_path) -> None:
    llama(tmp_path, remove=("tokenizer.model",), tokenizer_class="GPT2Tokenizer")
    (tmp_path / "vocab.json").write_text(json.dumps(chatml_tokenizer().get_vocab()))
    with pytest.raises(ConfigError, match=r"has vocab.json, but not the merges.txt"):
        load_tokenizer(tmp_path, ROWS)


@pytest.mark.parametrize("left", [{}, {"the": 5, "dog": 6}])
def test_a_tokenizer_without_words_is_refused(tmp_path, left) -> None:
    chatml_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"] |= {"vocab": left, "merges": []}
    path.write_text(json.dumps(content))
    shutil.copy(TINY / "llama" / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"not reproduce a plain sentence: 'the dog is .*' becomes '"):
        load_tokenizer(tmp_path, ROWS)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json"])
def test_a_damaged_file_is_named(tmp_path, name) -> None:
    (llama(tmp_path) / name).write_bytes(b"\x00\xff{damaged")
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_tokenizer(tmp_path, ROWS)


def test_a_tokenizer_of_another_model_is_refused(tmp_path) -> None:
    with pytest.raises(
        ConfigError, match=r"writes '.*' as id \d+, but the embedding table of the model has 600 rows"
    ):
        load_tokenizer(llama(tmp_path), 600)


def test_an_added_token_beyond_the_table_is_taken_unless_it_begins_or_ends_texts(tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY / "llama")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(TINY / "llama" / "config.json", tmp_path)
    assert load_tokenizer(tmp_path, ROWS).pad_token_id == ROWS
    tokenizer.eos_token = "[PAD]"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"writes '\[PAD\]' as id 640, but .* has 640 rows"):
        load_tokenizer(tmp_path, ROWS)
