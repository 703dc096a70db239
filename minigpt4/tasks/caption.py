"""Captions beside several that people wrote: CIDEr, BLEU-4, ROUGE-L, and METEOR where Java is.

Vedantam et al. 2015, Papineni et al. 2002, Lin 2004, Denkowski and Lavie 2014, computed by `pycocoevalcap`,
the public evaluation of COCO's captions.
"""

import logging
import re
import shutil
from collections.abc import Mapping, Sequence

import numpy as np

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.intervals import Interval, Z
from minigpt4.tasks.records import Metrics, Record

log = logging.getLogger(__name__)

# The words of captions, for machines without Java; the public evaluation's tokenizer is Stanford's, in Java.
_WORDS = re.compile(r"[\w']+")
Captions = dict[int, list[str]]


@registry.register_task("caption")
class CaptionTask(BaseTask):
    """Captions with `references`. The checkpoint with the highest CIDEr is the best."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Every picture is described; what that is worth depends on all captions, see `summarize`."""
        for record, answer in zip(records, self.predict(model, batch, len(records)), strict=True):
            record.prediction = answer

    def summarize(self, records: list[Record]) -> Metrics:
        """Fill in the scores of each record, and sum up.

        Raises:
            ConfigError: if pycocoevalcap is not installed.
        """
        values, each = caption_scores(
            [record.prediction or "" for record in records], [record.answers for record in records]
        )
        for number, record in enumerate(records):
            record.scores |= {name: float(scores[number]) for name, scores in each.items()}
        return Metrics(values, best="cider", higher_is_better=True)

    def intervals(self, records: list[Record]) -> dict[str, Interval]:
        """Of CIDEr, the normal one of a mean: it goes beyond 1. BLEU is no mean, and has none."""
        scores = [record.scores["cider"] for record in records]
        half = Z * np.std(scores) / np.sqrt(len(scores))
        return super().intervals(records) | {"cider": (np.mean(scores) - half, np.mean(scores) + half)}


def caption_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of captions.

    Args:
        predictions: one per picture.
        references: what people wrote, of each picture.

    Returns:
        The metrics of all, by name, and those of each caption, where a metric is their mean.

    Raises:
        ConfigError: if pycocoevalcap is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ConfigError("the task `caption` needs pycocoevalcap: pip install '.[caption]'") from error
    said = _tokenized({number: [text] for number, text in enumerate(predictions)})
    true = _tokenized({number: list(texts) for number, texts in enumerate(references)})
    cider, of_each = Cider().compute_score(true, said)
    bleu, _ = Bleu(4).compute_score(true, said, verbose=0)
    rouge, rouge_of_each = Rouge().compute_score(true, said)
    values = {"cider": cider, "bleu_4": bleu[3], "rouge_l": rouge}
    if shutil.which("java"):
        from pycocoevalcap.meteor.meteor import Meteor

        values["meteor"], _ = Meteor().compute_score(true, said)
    return {name: float(value) for name, value in values.items()}, {
        **{"cider": np.asarray(of_each), "rouge_l": np.asarray(rouge_of_each)}
    }


def _tokenized(captions: Mapping[int, list[str]]) -> Captions:
    """Words with spaces between them, as the metrics take them."""
    if shutil.which("java"):
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        given = {number: [{"caption": text} for text in texts] for number, texts in captions.items()}
        return PTBTokenizer().tokenize(given)
    log.warning(
        "without Java, words are split in a simpler way than in published results, and METEOR is left out"
    )
    return {
        number: [" ".join(_WORDS.findall(text.lower())) for text in texts]
        for number, texts in captions.items()
    }
