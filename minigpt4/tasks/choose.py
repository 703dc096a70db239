"""Questions with answers to choose from: the likeliest one, or the one that the pictures make likelier."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from minigpt4.common.errors import DataError
from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.controls import grey_images
from minigpt4.tasks.records import Limits, Metrics, Record, accuracy_metrics


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
    if batch.images is not None:  # each picture is encoded once
        batch = replace(batch, images=model.image_tokens(batch.images))
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
        losses = self.losses(model, batch)
        for record, own, of_own in zip(records, batch.candidates, losses, strict=True):
            record.prediction = own[of_own.index(min(of_own))]
            record.scores["accuracy"] = float(record.prediction == record.truth)

    def losses(self, model: MiniGPTBase, batch: Batch) -> list[list[float]]:
        """What each sample's candidates are weighed by, in order; the smallest is chosen."""
        return candidate_losses(model, batch, batch.candidates)

    def summarize(self, records: list[Record]) -> Metrics:
        """The accuracy, of all and of each group."""
        return accuracy_metrics(records)


@registry.register_task("choose_by_gain")
class ChooseByGainTask(ChooseTask):
    """Like `choose`, with the candidate that the pictures make likelier than grey ones do, by most.

    So common words have no advantage over rare ones: the pointwise mutual information of "Surface Form
    Competition" (Holtzman et al., 2021).
    """

    grey_control = False

    def __init__(self) -> None:
        super().__init__()
        # What an answer loses with grey pictures: samples that ask the same with as many pictures share it.
        self._unseen: dict[tuple[Dialogue, int], float] = {}

    def evaluate_batches(
        self, model: MiniGPTBase, batches: Iterable[Batch], limits: Limits | None = None
    ) -> Iterator[list[Record]]:
        self._unseen.clear()  # the model may have been trained since
        yield from super().evaluate_batches(model, batches, limits)

    def losses(self, model: MiniGPTBase, batch: Batch) -> list[list[float]]:
        """Those of the candidates, less those with grey pictures.

        Raises:
            DataError: for a sample without pictures, and for cached features; a grey picture is in no cache.
        """
        if batch.images is not None and batch.images.ndim != 4:
            raise DataError("the task `choose_by_gain` needs pictures, these are cached features")
        for name, count in zip(batch.image_ids, batch.image_counts, strict=True):
            if not count:
                raise DataError(f"{name}: the task `choose_by_gain` needs pictures, this sample has none")
        keys = [
            [(_answered(dialogue, candidate), count) for candidate in own]
            for dialogue, count, own in zip(
                batch.dialogues, batch.image_counts, batch.candidates, strict=True
            )
        ]
        new, met = [], set(self._unseen)
        for own in keys:
            new.append([key for key in dict.fromkeys(own) if key not in met])
            met.update(own)
        answers = [tuple(dialogue.answer or "" for dialogue, _ in own) for own in new]
        for own, unseen in zip(new, candidate_losses(model, grey_images(batch), answers), strict=True):
            self._unseen |= dict(zip(own, unseen, strict=True))
        return [
            [loss - self._unseen[key] for loss, key in zip(of_own, own, strict=True)]
            for of_own, own in zip(super().losses(model, batch), keys, strict=True)
        ]
