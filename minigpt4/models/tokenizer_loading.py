"""Loading a language model's tokenizer, also from incomplete or misnamed files."""

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from minigpt4.common.errors import ConfigError
from minigpt4.models.pretrained import from_pretrained, location

log = logging.getLogger(__name__)

# Without any of these, transformers silently makes an empty tokenizer.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json", "tiktoken.model"),
)
SPECIAL = ("bos_token", "eos_token", "unk_token")
# The loaders of transformers, in the order they are tried.
KINDS = tuple(kind.from_pretrained for kind in (AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast))
# Any tokenizer of a language model that knows English can encode and decode this.
PLAIN_SENTENCE = "the dog is running in the park"
# Where tokenizers made from one sentencepiece file differ: spaces before words, repeated spaces, punctuation
# next to words, byte-encoded characters.
PROBES = (
    PLAIN_SENTENCE,
    "a red  circle",
    "<Img>two (2) dogs!</Img>",
    "###Human: caf\u00e9 \u65e5\u672c\n[/INST] ",
)


def load_tokenizer(source: Path, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model.

    Args:
        source: the model's folder, or its `.gguf` file.
        rows: of the model's embedding table.

    Raises:
        ConfigError: if it is missing, does not decode what it encodes, or has ids beyond the table.
    """
    where = location(source)
    files = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if source.is_dir() and not files:
        raise ConfigError(
            f"model.llama_model: {source} has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is there"
        )
    if files == ["vocab.json"] and not (source / "merges.txt").is_file():
        raise ConfigError(
            f"model.llama_model: {source} has vocab.json, but not the merges.txt that goes with it"
        )
    if "tokenizer.model" in files and "tokenizer.json" not in files:
        tokenizer = _of_sentencepiece(source, where)
    else:
        tokenizer = from_pretrained(
            AutoTokenizer.from_pretrained, where | _instead_of_empty(_said(source), {})
        )
    _name_bos(tokenizer)
    _check_plain_sentence(tokenizer, source)
    _check_ids(tokenizer, rows, source)
    return tokenizer


def _of_sentencepiece(source: Path, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of transformers that gives sentencepiece's own ids for `tokenizer.model`.

    The folder often names a class that transformers does not know (`LLaMATokenizer`), or none. The default
    of transformers then drops the space before words.
    """
    from sentencepiece import SentencePieceProcessor

    path, said = source / "tokenizer.model", _said(source)
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        with path.open("rb") as file:
            if not re.match(rb"[\w+/=]+ \d+\s*$", file.readline(200)):
                raise ConfigError(
                    f"model.llama_model: {path} is damaged: it is neither sentencepiece's nor tiktoken's"
                ) from error
        # tiktoken's: only its own class can read it
        return from_pretrained(AutoTokenizer.from_pretrained, where | _instead_of_empty(said, {}))
    numbers = {"bos_token": pieces.bos_id(), "eos_token": pieces.eos_id(), "unk_token": pieces.unk_id()}
    names = {key: pieces.id_to_piece(number) for key, number in numbers.items() if number >= 0}
    arguments = where | _instead_of_empty(dict.fromkeys(SPECIAL, "") | said, names)
    if "bos_token" in names:  # the default before transformers 5
        arguments["add_bos_token"] = said.get("add_bos_token") is not False
    best, most, errors = None, 0, []
    for read in (*KINDS, _with_normalizer):
        try:
            tokenizer = from_pretrained(read, arguments)
        except ConfigError as error:  # another loader may work
            errors.append(error)
            continue
        same = [tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text) for text in PROBES]
        if all(same):
            return tokenizer
        if same[0] and sum(same) > most:
            best, most = tokenizer, sum(same)
    if len(errors) > len(KINDS):
        raise errors[0]
    if best is None:
        raise ConfigError(
            f"model.llama_model: transformers reads other ids from {path} than sentencepiece itself: please "
            "add the model's tokenizer.json"
        )
    log.warning("model.llama_model: transformers handles spaces or rare characters differently than %s", path)
    return best


def _with_normalizer(**arguments: Any) -> PreTrainedTokenizerBase:
    """LLaMA's tokenizer with the normalizer of the file (case, spaces)."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, normalizers

    tokenizer: Any = LlamaTokenizer.from_pretrained(**arguments)
    path = Path(arguments["pretrained_model_name_or_path"]) / "tokenizer.model"
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
    steps: list[Any] = []
    if model.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap))
    if model.normalizer_spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _said(source: Path) -> dict[str, Any]:
    """The tokenizer settings of a folder. An unreadable file is reported by transformers later."""
    said = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        with suppress(OSError, ValueError, TypeError, RecursionError):
            said |= json.loads((source / name).read_text(encoding="utf-8"))
    return said


def _instead_of_empty(said: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str | None]:
    """Special tokens named "" -> their real names, or None. Some conversions of LLaMA-1 have them."""
    texts = {key: one.get("content") if isinstance(one, dict) else one for key, one in said.items()}
    return {key: names.get(key) for key, text in texts.items() if key.endswith("_token") and text == ""}


def _name_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Without tokenizer_config.json, a tokenizer adds BOS but has no bos_token."""
    if tokenizer.bos_token_id is None:
        bare = tokenizer("a", add_special_tokens=False).input_ids
        with_special = tokenizer("a").input_ids
        if len(with_special) == len(bare) + 1 and with_special[1:] == bare:
            tokenizer.bos_token = tokenizer.convert_ids_to_tokens(with_special[0])


def _check_plain_sentence(tokenizer: PreTrainedTokenizerBase, source: Path) -> None:
    ids = tokenizer(PLAIN_SENTENCE, add_special_tokens=False).input_ids
    back = str(tokenizer.decode(ids))
    if "".join(back.split()).casefold() != "".join(PLAIN_SENTENCE.split()):
        raise ConfigError(
            f"model.llama_model: the tokenizer of {source} does not reproduce a plain sentence: "
            f"{PLAIN_SENTENCE!r} becomes {back[:60]!r}. Are its files complete, and of this model?"
        )


def _check_ids(tokenizer: PreTrainedTokenizerBase, rows: int, source: Path) -> None:
    """Other added tokens beyond the table do not matter: `PromptEncoder` never uses them."""
    needed = (tokenizer.bos_token, tokenizer.eos_token)
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}.difference(map(str, needed))
    for word, place in tokenizer.get_vocab().items():
        if place >= rows and word not in added:
            raise ConfigError(
                f"model.llama_model: the tokenizer of {source} writes {word[:80]!r} as id {place}, but the "
                f"embedding table of the model has {rows} rows: is it another model's tokenizer?"
            )
