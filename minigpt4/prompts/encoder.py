"""Dialogues as ids: what the language model reads, before anything is embedded.

All of this happens on the CPU, in plain integers. What travels to the device are small tensors of ids and
places, and nothing there has to be searched, compared or waited for.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.literal import LiteralText
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, PromptTemplate

# Stands for one image token among text ids; never looked up.
IMAGE_ID = -1


@dataclass
class TokenBatch:
    """A padded batch of B sequences of T tokens.

    Attributes:
        ids: [B, T]; 0 where an image token or padding stands.
        attention_mask: [B, T]; 1 for text and images.
        image_index: [image tokens of the batch], places in the flattened B*T, in order.
        target_index: [targets], places (flattened) whose next token is a target.
        target_ids: [targets], the tokens to predict there.
        target_row: [targets], the sequence each target belongs to.
    """

    ids: torch.Tensor
    attention_mask: torch.Tensor
    image_index: torch.Tensor
    target_index: torch.Tensor
    target_ids: torch.Tensor
    target_row: torch.Tensor

    @property
    def targets(self) -> int:
        """How many tokens are to be predicted; known here without asking the device."""
        return len(self.target_ids)

    def to(self, device: torch.device) -> "TokenBatch":
        return TokenBatch(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def pin_memory(self) -> "TokenBatch":
        return TokenBatch(*(t.pin_memory() for t in vars(self).values()))


class PromptEncoder:
    """Turns dialogues into a TokenBatch: the only way from a dialogue to ids.

    Each prompt between two answers, each piece of it between images, and each answer with its end symbol is
    tokenised separately, in training (as in MiniGPT-4), evaluation and chat. Control tokens in user text are
    plain text; only templates and verbatim prompts write control tokens.

    Args:
        tokenizer: the language model's.
        bos_id: the id that begins every sequence, or None for models without one.
        image_tokens: how many tokens stand for one image.
        template: how turns are written.
        max_txt_len: longest answer that is learned, end symbol included, in tokens.
        max_context_len: longest prompt, images included, in tokens.
        requests: for captions; training draws one per batch. Without any, it is the bare image.
        rows: of the embedding table, if some ids may have none.

    Raises:
        ConfigError: if the template needs a token that has no row, has a place for an image, or an end symbol
            that the tokenizer cannot write.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        bos_id: int | None,
        image_tokens: int,
        template: PromptTemplate,
        max_txt_len: int,
        max_context_len: int,
        requests: Sequence[str] = (),
        rows: int = sys.maxsize,
    ) -> None:
        self.tokenizer = tokenizer
        self.bos = [] if bos_id is None else [bos_id]
        self.image_tokens = image_tokens
        self.template = template
        self.max_txt_len = max_txt_len
        self.max_context_len = max_context_len
        bare_image = Turn("user", IMAGE_PLACEHOLDER, verbatim=True)
        self.requests = [Turn("user", request) for request in requests] or [bare_image]
        self.rows = rows
        self.literal = LiteralText(tokenizer, template, rows)
        self.end_length = len(self._ids("a" + template.end)) - len(self._ids("a"))
        self._check_template()

    def _check_template(self) -> None:
        template, unknown = self.template, self.tokenizer.unk_token
        written = "\n".join(vars(template).values())
        self._check_rows(self._ids(written), ConfigError)
        if IMAGE_PLACEHOLDER in written:
            raise ConfigError(
                f"model.prompt_template, or the chat template of model.llama_model, has "
                f"{IMAGE_PLACEHOLDER} itself: only what is said has places for images"
            )
        lost = not self.end_length or self.tokenizer.unk_token_id in self._ids(template.end)
        if template.end and lost and template.end != unknown:
            raise ConfigError(
                f"model.end_sym is {template.end!r}, which the tokenizer of model.llama_model cannot write, "
                "so no reply would ever end: please name one of its tokens"
            )

    def draw_request(self) -> Turn:
        """The request for the captions of a batch; training draws it from Python's generator."""
        return random.choice(self.requests)

    def texts(self, dialogue: Dialogue) -> Iterator[tuple[Turn, str]]:
        """Each turn and its text, including marks and end symbols; joined, they are the prompt.

        A control token in user text contains a SEAM.
        """
        turns, before = list(dialogue.turns), ""
        if turns[0].role == "system":
            before = self.literal.mark(turns.pop(0).text) + self.template.after_system
        for place, turn in enumerate(turns):
            if turn.verbatim:
                yield turn, before + turn.text
                continue
            said = self.literal.mark(turn.text)
            if turn.role == "assistant":
                yield turn, said + self.template.end
            elif place == 0:
                yield turn, before + self.template.turn(said)
            else:
                yield turn, self.template.later_turn(said)

    def ids(self, dialogue: Dialogue, *, learn_all: bool = True) -> tuple[list[int], list[int]]:
        """BOS and all turns -> (ids, places of the targets among them).

        Args:
            dialogue: one that ends with the user's turn has no last answer, and is for generation. A caption
                needs its request.
            learn_all: whether all answers are targets, or the last one alone; none is where the last one is
                to be generated. An answer that is only read is whole; a target is cut to `max_txt_len`, but
                keeps its end symbol.

        Raises:
            DataError: if the prompt before the last answer is longer than `max_context_len`, or a verbatim
                prompt holds a token that the embedding table has no row for.
        """
        if dialogue.is_caption:
            raise ValueError("a caption without the request that it answers")
        learn_all = learn_all and dialogue.answer is not None
        ids: list[int] = []
        targets: list[int] = []
        prompt_length = 0
        for turn, text in self.texts(dialogue):
            if turn.role == "user":
                ids = self._prompt_ids(text, before=ids)
                prompt_length = len(ids)
            elif learn_all or turn is dialogue.turns[-1]:
                answer = self._cut(self._ids(text))
                targets += range(len(ids), len(ids) + len(answer))
                ids += answer
            else:
                ids += self._ids(text)
        if prompt_length > self.max_context_len:
            raise DataError(
                f"a prompt of {prompt_length} tokens is longer than "
                f"model.max_context_len={self.max_context_len}"
            )
        self._check_rows(ids, DataError)
        return ids, targets

    def lengths(self, dialogue: Dialogue, *, learn_all: bool = True) -> list[int]:
        """The number of tokens of each turn in `ids`; BOS and a system text count for the first question."""
        lengths = [0] * (dialogue.turns[0].role == "system")
        for place, (turn, text) in enumerate(self.texts(dialogue)):
            if turn.role == "user":
                lengths.append(len(self._prompt_ids(text, before=[0] * (place > 0))) - (place > 0))
            else:
                length = len(self._ids(text))
                learned = dialogue.answer is not None and (learn_all or turn is dialogue.turns[-1])
                lengths.append(min(length, self.max_txt_len) if learned else length)
        return lengths

    def encode(
        self, dialogues: Sequence[Dialogue], *, learn_all: bool = True, pad_left: bool = False
    ) -> TokenBatch:
        """Assemble a batch.

        Args:
            dialogues, learn_all: as for `ids`.
            pad_left: True for generation, which goes on at the right end.

        Raises:
            DataError: for a prompt that is too long.
        """
        rows = [self.ids(dialogue, learn_all=learn_all) for dialogue in dialogues]
        length = max(len(sequence) for sequence, _ in rows)
        ids, mask, target_index, target_ids, target_row = [], [], [], [], []
        for row, (sequence, targets) in enumerate(rows):
            padding = [0] * (length - len(sequence))
            start = row * length + (len(padding) if pad_left else 0)
            ids.append(padding + sequence if pad_left else sequence + padding)
            real = [1] * len(sequence)
            mask.append(padding + real if pad_left else real + padding)
            target_index += [start + place - 1 for place in targets]
            target_ids += [sequence[place] for place in targets]
            target_row += [row] * len(targets)
        ids = torch.tensor(ids)
        return TokenBatch(
            ids=ids.clamp(min=0),
            attention_mask=torch.tensor(mask),
            image_index=(ids.flatten() == IMAGE_ID).nonzero().flatten(),
            target_index=torch.tensor(target_index, dtype=torch.long),
            target_ids=torch.tensor(target_ids, dtype=torch.long),
            target_row=torch.tensor(target_row, dtype=torch.long),
        )

    def _ids(self, text: str) -> list[int]:
        return self.literal.ids(text)

    def _check_rows(self, ids: Sequence[int], error: type[ConfigError | DataError]) -> None:
        beyond = max(ids, default=0)
        if beyond >= self.rows:
            raise error(
                f"model.llama_model: {self.tokenizer.convert_ids_to_tokens(beyond)!r} is token {beyond}, and "
                f"the embedding table has {self.rows} rows: the model was not resized for this tokenizer"
            )

    def _prompt_ids(self, text: str, before: Sequence[int]) -> list[int]:
        """`before`, or BOS, and the prompt. BOS written out at the very beginning is not doubled."""
        if not before and self.bos:
            text = text.removeprefix(str(self.tokenizer.bos_token))
        ids = list(before or self.bos)
        for place, piece in enumerate(text.split(IMAGE_PLACEHOLDER)):
            ids += [IMAGE_ID] * self.image_tokens * (place > 0) + self._ids(piece)
        return ids

    def _cut(self, ids: list[int]) -> list[int]:
        """A long answer is cut, its end symbol never is."""
        if len(ids) <= self.max_txt_len:
            return ids
        return ids[: self.max_txt_len - self.end_length] + ids[len(ids) - self.end_length :]
