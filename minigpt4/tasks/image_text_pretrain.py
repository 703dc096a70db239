"""Captions: the loss of the true ones, and what the model says by itself."""

from collections import Counter
from typing import Any

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase, flat_images
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, mean_loss, mean_score


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """Stage 1, and any other training on pictures with captions or dialogues."""

    def records(self, model: MiniGPTBase, samples: dict[str, Any], predictions: int) -> list[Record]:
        """The loss of every true answer; the first `predictions` are answered greedily too."""
        truths = samples["answer"]
        prompts = model.evaluation_prompts(samples)
        losses, tokens = model.token_losses(samples | {"instruction_input": prompts})
        sums = losses.new_zeros(len(truths)).index_add(0, tokens.target_row, losses).tolist()
        counts = Counter(tokens.target_row.tolist())
        records = [
            Record(
                image_id=samples["image_id"][row],
                group=samples["group"][row],
                truth=truth,
                loss=sums[row] / counts[row],
                tokens=counts[row],
            )
            for row, truth in enumerate(truths)
        ]
        if predictions:
            first = {key: values[:predictions] for key, values in samples.items()}
            said = model.generate(flat_images(first), prompts[:predictions], max_new_tokens=model.max_txt_len)
            for record, prediction in zip(records, said, strict=False):
                record.prediction = prediction
                record.scores["exact_match"] = float(prediction == record.truth)
        return records

    def summarize(self, records: list[Record]) -> Metrics:
        """Mean loss per token; exact match of the predictions, and of each group that the data names."""
        matches = mean_score(records, "exact_match")
        values = {"loss": mean_loss(records), **matches}
        return Metrics(values, best="loss", percentages=frozenset(matches))
