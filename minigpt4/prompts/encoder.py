"""Text with images in it, as ids: what the language model reads, before anything is embedded.

All of this happens on the CPU, in plain integers. What travels to the device are four small tensors,
and nothing there has to be searched, compared or waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from minigpt4.common.errors import DataError
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER

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
    """Turns prompts and answers into a TokenBatch.

    Args:
        tokenizer: the language model's.
        bos_id: the id that begins every sequence, or None for models without one.
        image_tokens: how many tokens stand for one image.
        end_sym: what ends an answer.
        max_txt_len: longest answer, end symbol included, in tokens.
        max_context_len: longest prompt, images included, in tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        bos_id: int | None,
        image_tokens: int,
        end_sym: str,
        max_txt_len: int,
        max_context_len: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.bos = [] if bos_id is None else [bos_id]
        self.image_tokens = image_tokens
        self.end_sym = end_sym
        self.max_txt_len = max_txt_len
        self.max_context_len = max_context_len
        self.end_length = len(self._ids("a" + end_sym)) - len(self._ids("a"))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def prompt_ids(self, prompt: str, before: Sequence[int] = ()) -> list[int]:
        """BOS, then the prompt, each piece of text between images tokenised by itself (as MiniGPT-4).

        BOS written out at the very beginning is not doubled.

        Args:
            prompt: with IMAGE_PLACEHOLDER where an image goes.
            before: the ids of the turns before this one, which stand in BOS's stead.

        Raises:
            DataError: if all this is longer than the model can be given.
        """
        if not before and self.bos and prompt.startswith(self.tokenizer.bos_token):
            prompt = prompt[len(self.tokenizer.bos_token) :]
        ids = list(before or self.bos)
        for place, piece in enumerate(prompt.split(IMAGE_PLACEHOLDER)):
            ids += [IMAGE_ID] * self.image_tokens * (place > 0) + self._ids(piece)
        if len(ids) > self.max_context_len:
            raise DataError(
                f"a prompt of {len(ids)} tokens is longer than model.max_context_len={self.max_context_len}"
            )
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """The answer and the end symbol; a long answer is cut, its end symbol never is."""
        ids = self._ids(answer + self.end_sym)
        if len(ids) > self.max_txt_len:
            ids = ids[: self.max_txt_len - self.end_length] + ids[len(ids) - self.end_length :]
        return ids

    def dialogue_ids(
        self, prompts: Sequence[str], answers: Sequence[str] | None
    ) -> tuple[list[int], list[int]]:
        """Turn after turn, each piece tokenised by itself -> (ids, places of the targets among them).

        Args:
            prompts: a turn's prompt each, the later ones as `PromptTemplate.later_turn` writes them.
            answers: the reply to each; None to let the model go on.
        """
        ids: list[int] = []
        targets: list[int] = []
        for turn, prompt in enumerate(prompts):
            ids = self.prompt_ids(prompt, before=ids)
            answer = [] if answers is None else self.answer_ids(answers[turn])
            targets += range(len(ids), len(ids) + len(answer))
            ids += answer
        return ids, targets

    def encode(
        self,
        prompts: Sequence[str | Sequence[str]],
        answers: Sequence[str | Sequence[str]] | None = None,
        *,
        pad_left: bool = False,
    ) -> TokenBatch:
        """Assemble a batch.

        Args:
            prompts: with IMAGE_PLACEHOLDER where an image goes; for a dialogue one a turn, as in
                `dialogue_ids`.
            answers: what should follow each; None to let the model go on.
            pad_left: True for generation, which goes on at the right end.
        """
        replies = [None] * len(prompts) if answers is None else [_as_turns(answer) for answer in answers]
        rows = [self.dialogue_ids(_as_turns(p), a) for p, a in zip(prompts, replies, strict=True)]
        if answers is not None and not any(targets for _, targets in rows):
            raise DataError("a batch without one target token: all answers are empty")
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


def _as_turns(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts
