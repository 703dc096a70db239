"""Reading a reply while it grows, at a cost that does not grow with it."""

import random

import pytest
import torch

from minigpt4.prompts.reply_end import ReplyReader, StopAtText, read_reply
from tests.support.families import tokenizer_of

TOKENIZERS = {family: tokenizer_of(family) for family in ("llama", "gemma", "qwen2")}


class Counting:
    """A tokenizer that remembers how much it was asked to decode at a time."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.most = tokenizer, 0

    def decode(self, ids, **how) -> str:
        self.most = max(self.most, len(ids))
        return self.tokenizer.decode(ids, **how)


def ids_of(family: str, text: str) -> list[int]:
    return TOKENIZERS[family](text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("text", ["a red house.", " \n a  b\n\nc", "daïs 中 house 🐕!", "x" * 200])
def test_reply_reader_settles_what_the_whole_reads(family, text) -> None:
    counting, shown = Counting(TOKENIZERS[family]), ""
    reader = ReplyReader(counting, [], "")
    for token in ids_of(family, text):
        reader.add(token)
        assert reader.settled.startswith(shown)
        shown = reader.settled
    assert counting.most <= 12
    assert shown == reader.text == read_reply(TOKENIZERS[family], reader.ids, [], "") == text.strip()


@pytest.mark.parametrize("family", TOKENIZERS)
def test_reply_reader_ends_where_the_reply_does(family) -> None:
    ids = ids_of(family, "\n a # b ### and more")
    reader = ReplyReader(TOKENIZERS[family], [], "###")
    for token in ids:
        if not reader.ended:
            reader.add(token)
    assert reader.text == reader.settled == "a # b" and reader.ids == ids[: len(reader.ids)] != ids
    stop = ReplyReader(TOKENIZERS[family], [ids[2]], "")
    for token in ids[:3]:
        stop.add(token)
    assert stop.ended and stop.text == stop.settled


def test_reply_reader_holds_back_what_may_become_the_end() -> None:
    reader = ReplyReader(TOKENIZERS["llama"], [], "###")
    settled = []
    for token in ids_of("llama", "a ## b #"):
        reader.add(token)
        settled.append(reader.settled)
    assert settled[-1] == "a ## b" and settled.count("a") >= 3 and "a #" not in settled
    assert reader.text == "a ## b #"


@pytest.mark.parametrize("family", TOKENIZERS)
def test_reply_reader_reads_any_tokens(family) -> None:
    """Random ones spell broken characters; it goes on, and reads little at a time."""
    rng, counting = random.Random(family), Counting(TOKENIZERS[family])
    reader = ReplyReader(counting, [], "")
    for _ in range(300):
        reader.add(rng.randrange(len(TOKENIZERS[family])))
    assert counting.most <= 12 and len(reader.settled) > 100


@pytest.mark.parametrize("family", TOKENIZERS)
def test_stop_at_text_reads_the_end_of_a_reply_alone(family) -> None:
    counting = Counting(TOKENIZERS[family])
    stop = StopAtText(counting, "###")
    long = ids_of(family, "a red house " * 40)
    for text, ended in (("b ###", True), ("b ## c", False)):
        row = torch.tensor([long + ids_of(family, text)])
        assert stop(row).tolist() == [ended]
    assert counting.most <= stop.reach < len(long)
    blank = torch.tensor([ids_of(family, "\n") * 40])
    assert StopAtText(TOKENIZERS[family], "\n")(blank).tolist() == [False]
    assert StopAtText(TOKENIZERS[family], "\n")(
        torch.tensor([ids_of(family, "a") + blank[0].tolist()])
    ).tolist() == [True]
