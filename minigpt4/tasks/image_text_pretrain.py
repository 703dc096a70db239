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

    def records(self, model: MiniGPTBase, batch: Batch, predictions: int) -> list[Record]:
        """The loss of every true answer; the first `predictions` are answered greedily too."""
        asked = model.prepare(batch, evaluation=True)
        losses, tokens = model.token_losses(asked)
        sums = losses.new_zeros(len(batch)).index_add(0, tokens.target_row, losses).tolist()
        counts = Counter(tokens.target_row.tolist())
        records = [
            Record(
                image_id=batch.image_ids[row],
                group=batch.groups[row],
                truth=truth,
                loss=sums[row] / counts[row],
                tokens=counts[row],
            )
            for row, truth in enumerate(batch.answers)
        ]
        if predictions:
            first = asked.rows(range(predictions))
            dialogues = [dialogue.unanswered() for dialogue in first.dialogues]
            said = model.generate(first.images, dialogues, max_new_tokens=model.max_txt_len)
            for record, prediction in zip(records, said, strict=False):
                record.prediction = prediction
                record.scores["exact_match"] = float(prediction == record.truth)
        return records

    def summarize(self, records: list[Record]) -> Metrics:
        """Mean loss per token; exact match of the predictions, and of each group that the data names."""
        matches = mean_score(records, "exact_match")
        values = {"loss": mean_loss(records), **matches}
        return Metrics(values, best="loss", percentages=frozenset(matches))
