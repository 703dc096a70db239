"""Captions: the loss of true ones, and what the model says when nobody helps it."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm

from minigpt4.common import launch
from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase, flat_images
from minigpt4.tasks.base_task import BaseTask

log = logging.getLogger(__name__)


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """Stage 1 (and any other training on pictures with captions)."""

    @torch.no_grad()
    def evaluate(
        self,
        model: MiniGPTBase,
        batches: Iterable[dict[str, Any]],
        *,
        shuffled: bool = False,
        keep_images: int = 0,
        captions: int | None = None,
        total: int | None = None,
    ) -> list[dict[str, Any]]:
        """Caption pictures greedily, and take the loss of their true captions.

        Args:
            model: any model with `token_losses` and `generate`; it is left in the mode it was in.
            batches: as `BatchStream` gives them.
            shuffled: deal the pictures to wrong captions, which shows what the loss owes to looking.
                Samples of a batch in which no other caption is found are left out.
            keep_images: how many of the first records keep their pixels (uint8 array [H, W, 3]).
            captions: only the first so many are captioned; of the others the loss alone is taken.
            total: number of samples, for the progress bar.

        Returns:
            Dicts with `image_id`, `group`, `truth`, `loss` (nats a token), `tokens`; with `caption` and
            `exact_match` where captioned, and `image` where kept.
        """
        was_training = model.training
        model.eval()
        records: list[dict[str, Any]] = []
        bad: Counter[str] = Counter()
        hidden = True if launch.rank() else None  # None: where the output is no terminal
        with tqdm(total=total, desc="evaluating", unit="picture", disable=hidden) as bar:
            for samples in batches:
                bad.update(samples.pop("bad", {}))
                samples.pop("reader", None)  # where the loader stands: a sample has no such thing
                samples = deal_to_wrong_captions(samples) if shuffled else samples
                truths = samples["answer"]
                if truths:
                    more = len(truths) if captions is None else max(captions - len(records), 0)
                    records += _records(model, samples, keep_images - len(records), more)
                bar.update(len(samples["answer"]))
        model.train(was_training)
        if bad:
            log.warning("samples skipped: %s", dict(bad))
        return records

    def summarize(self, records: list[dict[str, Any]]) -> dict[str, float]:
        """Mean loss a token; exact match of what was captioned, and of each group that the data names."""
        tokens = sum(r["tokens"] for r in records)
        captioned = [r for r in records if "caption" in r]
        metrics = {
            "samples": len(records),
            "loss": sum(r["loss"] * r["tokens"] for r in records) / max(tokens, 1),
            "exact_match": _share(captioned),
        }
        for group in sorted({r["group"] for r in captioned if r["group"]}):
            metrics[f"exact_match_{group}"] = _share([r for r in captioned if r["group"] == group])
        return metrics


def _share(records: list[dict[str, Any]]) -> float:
    return sum(r["exact_match"] for r in records) / max(len(records), 1)


def _records(model: MiniGPTBase, samples: dict[str, Any], keep: int, captioned: int) -> list[dict[str, Any]]:
    truths = samples["answer"]
    prompts = model.evaluation_prompts(samples)
    losses, tokens = model.token_losses(samples | {"instruction_input": prompts})
    sums = losses.new_zeros(len(truths)).index_add(0, tokens.target_row, losses).tolist()
    counts = Counter(tokens.target_row.tolist())
    first = {key: values[:captioned] for key, values in samples.items()}
    captions = []
    if first["answer"]:
        captions = model.generate(flat_images(first), prompts[:captioned], max_new_tokens=model.max_txt_len)
    records = []
    for row, truth in enumerate(truths):
        record = {
            "image_id": samples["image_id"][row],
            "group": samples["group"][row],
            "truth": truth,
            "loss": sums[row] / counts[row],
            "tokens": counts[row],
        }
        if row < len(captions):
            record |= {"caption": captions[row], "exact_match": captions[row] == truth}
        if row < keep and "image" in samples:
            image = samples["image"][row]
            record["image"] = model.to_pixels(image if image.ndim == 3 else image[0])
        records.append(record)
    return records


def deal_to_wrong_captions(samples: dict[str, Any]) -> dict[str, Any]:
    """Give each caption the picture of the next sample of the batch whose caption differs."""
    answers = samples["answer"]
    count = len(answers)
    pairs = []
    for row, answer in enumerate(answers):
        others = ((row + step) % count for step in range(1, count))
        other = next((o for o in others if answers[o] != answer), None)
        if other is not None:
            pairs.append((row, other))
    dealt: dict[str, Any] = {
        key: [values[row] for row, _ in pairs] for key, values in samples.items() if isinstance(values, list)
    }
    images = "image_features" if "image_features" in samples else "image"
    dealt[images] = samples[images][[other for _, other in pairs]]
    return dealt
