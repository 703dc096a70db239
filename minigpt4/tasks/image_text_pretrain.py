"""Captions: the loss of the true ones, and what the model says by itself."""

from collections import Counter

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, mean_loss, mean_score


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """Stage 1, and any other training on pictures with captions or dialogues."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """The loss of every true answer; the first `predictions` are also answered by the model."""
        losses, tokens = model.token_losses(model.prepare(batch, evaluation=True))
        sums = losses.new_zeros(len(batch)).index_add(0, tokens.target_row, losses).tolist()
        counts = Counter(tokens.target_row.tolist())
        for row, count in counts.items():
            records[row].loss, records[row].tokens = sums[row] / count, count
        for record, answer in zip(records, self.predict(model, batch, predictions), strict=False):
            record.prediction = answer
            record.scores["exact_match"] = float(answer == record.truth)

    def summarize(self, records: list[Record]) -> Metrics:
        """Mean loss per token; exact match of the predictions, and of each group that the data names."""
        matches = mean_score(records, "exact_match")
        values = {"loss": mean_loss(records), **matches}
        return Metrics(values, best="loss", percentages=frozenset(matches))
