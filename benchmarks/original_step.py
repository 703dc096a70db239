"""One stage-1 step as the original computes it: the baseline."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F

from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD, normalize
from minigpt4.prompts.sample import Batch


def original_keys(device: torch.device) -> dict[str, Any]:
    """Eager attention; float16 on a GPU (a language model that overflows there takes bfloat16)."""
    precision = "fp16" if device.type == "cuda" else "fp32"
    return {"vit_precision": precision, "llm_precision": precision, "attn_implementation": "eager"}


def normalised(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches as the original's loader returns them: float32, normalised."""
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return cycle([replace(b, images=normalize(b.images, mean, std)) for b in islice(batches, 4)])


def original_step(model: MiniGPTBase, batches: Iterator[Batch]) -> Callable[[], float]:
    """A step that returns its loss.

    Tokenised in the step; with a mask; the language model under autocast on a GPU; logits at all positions,
    and a float32 copy of them; AdamW without fusion; waiting for the loss.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)
    device, dtype = model.device, model.llama_model.dtype
    amp = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=amp)

    def step() -> float:
        batch = next(batches)
        images = batch.images.to(device)
        with torch.autocast(device.type, dtype if amp else torch.bfloat16, enabled=amp):
            tokens = model.prepare(batch).tokens.to(device)
            embeds = model.embed(tokens, model.project(model.image_tokens(images)))
            logits = model.llama_model(
                inputs_embeds=embeds, attention_mask=tokens.attention_mask, use_cache=False
            ).logits.float()
            labels = torch.full((tokens.ids.numel(),), -100, device=device)
            labels[tokens.target_index] = tokens.target_ids
            loss = F.cross_entropy(logits.flatten(0, 1), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.item()

    return step
