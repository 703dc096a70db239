"""VQA accuracy, as the VQA challenge computes it: an answer is right as far as people gave it, too.

Antol et al. 2015, "VQA: Visual Question Answering"; the rules that make answers alike are those of its public
evaluation (VQAv2, OK-VQA, A-OKVQA and VizWiz use them).
"""

import re
from collections.abc import Sequence

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, accuracy_metrics

# An answer that so many of the other people gave is wholly right.
AGREEING = 3

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED_DIGITS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32  # the challenge's code removes no more: it passes a flag where a count belongs
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_CONTRACTIONS = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd
who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've
y'all'll you'd you'd've you'll you're you've
"""
# Written without one of its apostrophes, a word is put right; `somebodyd` is how the challenge writes it.
_PUT_RIGHT = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}


def vqa_normalized(answer: str) -> str:
    """An answer as the challenge compares it: punctuation, case, numbers, articles and contractions alike."""
    text = " ".join(answer.split())
    spaced = " " if _GROUPED_DIGITS.search(text) is None else ""
    plain = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_space else spaced)
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", plain, count=MAX_PERIODS).lower().split()]
    return " ".join(_PUT_RIGHT.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How right an answer is, from 0 to 1.

    With several references: the mean, over leaving out each of them, of min(1, those equal / 3). With one:
    whether it is equal.
    """
    said = vqa_normalized(answer)
    equal = [vqa_normalized(reference) == said for reference in references]
    if len(equal) == 1:
        return float(equal[0])
    return sum(min(1.0, (sum(equal) - one) / AGREEING) for one in equal) / len(equal)


@registry.register_task("vqa")
class VqaTask(BaseTask):
    """Questions with the answers of several people, or with one. The most accurate checkpoint is the best."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Every question is answered: the accuracy decides which checkpoint is the best."""
        for record, answer in zip(records, self.predict(model, batch, len(records)), strict=True):
            record.prediction = answer
            record.scores["accuracy"] = vqa_accuracy(answer, record.answers)

    def summarize(self, records: list[Record]) -> Metrics:
        """The accuracy, of all and of each group."""
        return accuracy_metrics(records)
