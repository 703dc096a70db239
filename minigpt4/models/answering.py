"""How a model answers prompts, and ranks answers, with the `generate` of transformers.

Shapes: B prompts, N images of all prompts, P tokens per image, T text and image tokens, D width of the
language model.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import StoppingCriteriaList

from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.vision_tower import CachedVision, VisionTower
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from minigpt4.prompts.reply_end import StopAtText, read_reply


class Answering(nn.Module):
    """The part of a model that evaluation and outside code call.

    Attributes:
        stop_ids: the ids that end a reply.
    """

    vision: VisionTower | CachedVision
    language: LanguageModel
    prompts: PromptEncoder
    backbone: BaseBackbone
    device: torch.device
    stop_ids: list[int]
    embed: Callable[[TokenBatch, torch.Tensor | None], torch.Tensor]
    project: Callable[[torch.Tensor], torch.Tensor]

    @property
    def end_text(self) -> str:
        """The end symbol that is searched for in the text of a reply, such as "###".

        "" if the end symbol is a token in `stop_ids`: spelled out, it does not end a reply.
        """
        end = self.prompts.template.end
        token = self.backbone.added_tokens.get(end)
        return "" if token in self.stop_ids else end

    def text_stops(self) -> StoppingCriteriaList:
        """What ends a reply beside `stop_ids`."""
        end = self.end_text
        return StoppingCriteriaList([StopAtText(self.language.tokenizer, end)] if end else [])

    def get_context_emb(self, prompt: str | Dialogue, img_list: Sequence[torch.Tensor]) -> torch.Tensor:
        """A dialogue to go on with, and its images' embeddings [1, P, D] each -> [1, T, D].

        Args:
            prompt: a text is a whole prompt, with IMAGE_PLACEHOLDER where an image goes.
            img_list: in the order of their places.
        """
        dialogue = _as_dialogue(prompt)
        check_image_count(dialogue, len(img_list))
        tokens = self.prompts.encode([dialogue]).to(self.device)
        return self.embed(tokens, torch.cat(list(img_list)) if img_list else None)

    @torch.no_grad()
    def generate(
        self,
        images: torch.Tensor | None,
        texts: Sequence[str | Dialogue],
        num_beams: int = 1,
        max_new_tokens: int = 20,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1.0,
        temperature: float = 1.0,
        do_sample: bool = False,
        *,
        lengths: Sequence[int] | None = None,
    ) -> list[str]:
        """Answer a batch of prompts, each with its images.

        Args:
            images: [N, 3, H, W], or cached features [N, P, width], for all IMAGE_PLACEHOLDERs of `texts`
                in order; None without any.
            texts: dialogues to go on with, or whole prompts as `template.turn` writes them.
            lengths: where `images` has equally many for every prompt, padding among them: how many of each
                prompt's are real.

        Returns:
            One reply per prompt, without its end symbol and surrounding white space.
        """
        if images is not None and lengths is not None:
            images = _without_padding(images, lengths)
        dialogues = [_as_dialogue(text) for text in texts]
        check_image_count(dialogues, 0 if images is None else len(images))
        tokens = self.prompts.encode(dialogues, pad_left=True).to(self.device)
        embeds = None if images is None else self.project(self.vision(images))
        sampling = {"top_p": float(top_p), "temperature": float(temperature)} if do_sample else {}
        ids = self.language.generate(
            inputs_embeds=self.embed(tokens, embeds),
            attention_mask=tokens.attention_mask,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_length,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
            do_sample=do_sample,
            eos_token_id=self.stop_ids,
            stopping_criteria=self.text_stops(),
            **sampling,
        )
        return [
            read_reply(self.language.tokenizer, row, self.stop_ids, self.end_text) for row in ids.tolist()
        ]

    @torch.no_grad()
    def multi_select(
        self,
        images: torch.Tensor | None,
        texts: Sequence[str],
        answers: Sequence[Sequence[str]],
        num_cand: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Rank candidate answers by their loss per token of the padded batch, as the original does.

        Args:
            images: [B, 3, H, W], or [B, n, 3, H, W]; None for text alone.
            texts: B prompts, as `instruction_input` in training.
            answers: the first candidate of each prompt, the second, …
            num_cand: how many candidates each prompt has, where some have fewer; the others come last.

        Returns:
            For each prompt the numbers of its candidates, the best first.
        """
        seen = {} if images is None else {"image": images}
        losses = torch.stack(
            [
                self(seen | {"instruction_input": texts, "answer": candidate}, reduction="none")["loss"]
                for candidate in answers
            ],
            dim=1,
        )
        for row, count in enumerate(num_cand or ()):
            losses[row, count:] = torch.inf
        return losses.argsort(dim=1, stable=True).tolist()


def check_image_count(dialogues: Dialogue | Sequence[Dialogue], images: int) -> None:
    """Raise ValueError unless dialogues have places for as many images."""
    dialogues = [dialogues] if isinstance(dialogues, Dialogue) else dialogues
    wanted = sum(dialogue.images for dialogue in dialogues)
    if wanted != images:
        raise ValueError(f"the prompts have {wanted} <ImageHere>, but {images} images were given")


def _as_dialogue(prompt: str | Dialogue) -> Dialogue:
    return prompt if isinstance(prompt, Dialogue) else Dialogue((Turn("user", prompt, verbatim=True),))


def _without_padding(images: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The first images of each prompt: [B n, ...] or pixels [B, n, 3, H, W] -> [N, ...]."""
    rows = images if images.ndim == 5 else images.unflatten(0, (len(lengths), -1))
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
