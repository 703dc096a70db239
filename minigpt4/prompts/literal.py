"""Tokenises user text so that spelled-out control tokens stay plain text."""

import re
from collections.abc import Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from minigpt4.prompts.templates import PromptTemplate

# A Unicode noncharacter, reserved for internal use; it does not occur in text.
SEAM = "\ufdd0"
# After it, a piece is tokenised as in the middle of a text, not as at the beginning, where some tokenizers
# add a space.
ANCHOR = "\n"


class LiteralText:
    """Tokenises texts in which some passages must not become control tokens.

    Data that contains `</s>` or `<end_of_turn>` would otherwise teach a model to stop there, and a user could
    forge turns.

    Args:
        tokenizer: the language model's.
        template: of turns. An added token in it is also a control token (in some files `<start_of_turn>` is
            not declared special).
        rows: of the embedding table; an added token without a row is plain text, too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate, rows: int) -> None:
        self.tokenizer = tokenizer
        marks = "\0".join(vars(template).values())
        words = {str(token) for token in tokenizer.all_special_tokens}
        for place, token in tokenizer.added_tokens_decoder.items():
            if token.special or place >= rows or token.content in marks:
                words.add(token.content)
        # A one-character token cannot be split.
        long = sorted(word for word in words if len(word) > 1)
        self._words = re.compile(_any_of(long) if long else r"(?!)")
        # Searched first: a character class is much faster than thousands of words.
        self._beginnings = re.compile(
            f"[{re.escape(''.join({word[0] for word in long}))}]" if long else r"(?!)"
        )
        self._anchor = self._plain(ANCHOR)

    def mark(self, text: str) -> str:
        """The text with a SEAM after the first character of each control token."""
        return self._beginnings.sub(self._seam, text)

    def _seam(self, found: re.Match) -> str:
        return found[0] + SEAM * bool(self._words.match(found.string, found.start()))

    def ids(self, text: str) -> list[int]:
        """The ids of a text; nothing across a SEAM becomes a control token."""
        if SEAM not in text:
            return self._plain(text)
        first, *others = text.split(SEAM)
        return self._plain(first) + [one for piece in others for one in self._continued(piece)]

    def _continued(self, piece: str) -> list[int]:
        ids, skipped = self._plain(ANCHOR + piece), len(self._anchor)
        return ids[skipped:] if ids[:skipped] == self._anchor else self._plain(piece)

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []


def _any_of(words: Sequence[str]) -> str:
    """A regular expression for any of these sorted words, as a trie."""
    branches = []
    for _, same in groupby(words, key=lambda word: word[:1]):
        group = list(same)
        shared = group[0]
        while not group[-1].startswith(shared):
            shared = shared[:-1]
        rests = [word[len(shared) :] for word in group]
        branches.append(re.escape(shared) + ("" if "" in rests else _any_of(rests)))
    return f"(?:{'|'.join(branches)})"
