"""Questions with answers to choose from: the one that the model finds most likely."""

from dataclasses import replace

import torch

from minigpt4.common.errors import DataError
from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, accuracy_metrics


@torch.no_grad()
def candidate_losses(
    model: MiniGPTBase, batch: Batch, candidates: list[tuple[str, ...]]
) -> list[list[float]]:
    """How unlikely each candidate is as the last answer: the sum of its tokens' losses, in nats.

    A sum, as in MiniGPT-v2's `multi_select`: a mean would prefer long candidates whose ends are certain.

    Args:
        model: in evaluation mode.
        batch: B samples.
        candidates: of each sample.

    Returns:
        The losses of each sample's candidates, in order.
    """
    losses: list[list[float]] = [[] for _ in candidates]
    for number in range(max(map(len, candidates), default=0)):  # one candidate of each sample at a time
        rows = [row for row, own in enumerate(candidates) if number < len(own)]
        answered = [_answered(batch.dialogues[row], candidates[row][number]) for row in rows]
        asked = replace(batch.rows(rows), dialogues=answered)
        each, tokens = model.token_losses(model.prepare(asked, evaluation=True))
        sums = each.new_zeros(len(rows)).index_add(0, tokens.target_row, each)
        for row, loss in zip(rows, sums.tolist(), strict=True):
            losses[row].append(loss)
    return losses


def _answered(dialogue: Dialogue, answer: str) -> Dialogue:
    """The dialogue, which may be a caption alone, with another last answer."""
    before = dialogue.turns if dialogue.answer is None else dialogue.turns[:-1]
    return Dialogue((*before, Turn("assistant", answer)))


@registry.register_task("choose")
class ChooseTask(BaseTask):
    """Every sample has `candidates`. The most accurate checkpoint is the best."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """The candidate with the smallest loss is the prediction.

        Raises:
            DataError: for a sample without candidates.
        """
        for record, own in zip(records, batch.candidates, strict=True):
            if not own:
                raise DataError(
                    f"{record.image_id}: the task `choose` needs candidates, this sample has none"
                )
        losses = candidate_losses(model, batch, batch.candidates)
        for record, own, of_own in zip(records, batch.candidates, losses, strict=True):
            record.prediction = own[of_own.index(min(of_own))]
            record.scores["accuracy"] = float(record.prediction == record.truth)

    def summarize(self, records: list[Record]) -> Metrics:
        """The accuracy, of all and of each group."""
        return accuracy_metrics(records)
