"""What every task is: how the parts are built, one step of training, and one evaluation."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from tqdm import tqdm

from minigpt4.common import launch
from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import Datasets, build_datasets
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.pictures import in_shape
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch
from minigpt4.prompts.templates import IMAGE_TURN
from minigpt4.prompts.video import without_video
from minigpt4.tasks.controls import controlled
from minigpt4.tasks.intervals import Interval, intervals_of_scores
from minigpt4.tasks.records import Limits, Metrics, Record

log = logging.getLogger(__name__)


def setup_task(cfg: Config, default: str | None = None) -> "BaseTask":
    """The task that `run.task` names.

    Args:
        cfg: the whole configuration.
        default: the name of the task where the config has none; without it, one must be named.
    """
    name = cfg.run_cfg.get("task", default)
    if name is None:
        raise ConfigError("run.task is missing: please set it in the YAML, e.g. `image_text_pretrain`")
    return registry.get_task_class(name)()


class BaseTask:
    """Builds model and data sets, and says what a training step and an evaluation are.

    A task that trains as this one does says what a batch comes to, and what all batches come to together:

        class LengthTask(BaseTask):
            def score(self, model, batch, records, predictions): ...  # fills in each record
            def summarize(self, records): ...  # returns `Metrics`

    `minigpt4/tasks/short_answer.py` is one to copy. `run.task` finds a task outside the package by its import
    path, `my_module:LengthTask`.

    Attributes:
        max_new_tokens: the longest prediction; None: `model.max_txt_len`.
        grey_control: whether grey pictures are a control; not where answers are weighed against them anyway.
    """

    max_new_tokens: int | None = None
    grey_control: ClassVar[bool] = True

    def build_datasets(self, cfg: Config) -> Datasets:
        """Name -> (builder, datasets by split)."""
        datasets = build_datasets(cfg.datasets_cfg)
        model_class = self.model_class(cfg)
        for builder, splits in datasets.values():
            builder.check_model(model_class, plain(cfg.model_cfg), splits)
        return datasets

    @staticmethod
    def model_class(cfg: Config) -> type[MiniGPTBase]:
        """The class that `model.arch` names."""
        if "arch" not in cfg.model_cfg:
            raise ConfigError("model.arch is missing: please set it in the YAML, e.g. `arch: minigpt4`")
        return registry.get_model_class(cfg.model_cfg.arch)

    def build_model(
        self,
        cfg: Config,
        device: str | torch.device | None = None,
        datasets: Datasets | None = None,
    ) -> MiniGPTBase:
        """Build the model that `model:` describes; what starts at random starts from `run.seed`.

        Args:
            cfg: the whole configuration.
            device: where the model goes.
            datasets: what it is for, as `build_datasets` gave them. Where all of them are cached features,
                the model has no encoder and no Q-Former, and their files are not read.
        """
        model_class = self.model_class(cfg)
        shapes = [builder.token_shape() for builder, _ in (datasets or {}).values()]
        cached = {"features": shapes[0]} if shapes and None not in shapes else {}
        torch.manual_seed(cfg.run_value("seed"))
        model = model_class.from_config(cfg.model_cfg, device=device, **cached)
        for builder, splits in (datasets or {}).values():
            builder.check_room(model.prompts)
            for split in splits:
                where = f"{builder.where}.vis_processor.{split}"
                model.vision.warn_of_other_statistics(builder.vis_processor(split), where)
        return model

    def train_step(self, model: torch.nn.Module, samples: Batch) -> torch.Tensor:
        """The loss of one batch that the model prepared: the sum over its target tokens, with a gradient.

        The engine divides it by the number of targets in all batches of an update, on all ranks.
        """
        return model(samples, reduction="sum")["loss"]

    def evaluate(
        self, model: MiniGPTBase, batches: Iterable[Batch], limits: Limits | None = None
    ) -> list[Record]:
        """A record per sample, in order; see `evaluate_batches`."""
        return [record for records in self.evaluate_batches(model, batches, limits) for record in records]

    def evaluate_batches(
        self, model: MiniGPTBase, batches: Iterable[Batch], limits: Limits | None = None
    ) -> Iterator[list[Record]]:
        """The records of each batch, one per sample; what was skipped on the way is logged.

        Args:
            model: it is left in the mode it was in.
            batches: as `BatchStream` gives them.
            limits: how much is wanted; without any, a prediction for each sample and no picture.
        """
        limits = limits or Limits()
        done = 0
        bad: Counter[str] = Counter()
        was_training = model.training
        model.eval()
        hidden = True if launch.rank() else None  # None: where the output is not a terminal
        with tqdm(total=limits.total, desc="evaluating", unit="sample", disable=hidden) as bar:
            for batch in batches:
                bad.update(batch.bad)
                batch = controlled(batch, limits.control)
                records = new_records(model, batch, limits.pictures - done)
                wanted = len(records) if limits.predictions is None else limits.predictions - done
                if records:
                    with torch.no_grad():
                        self.score(model, batch, records, min(max(wanted, 0), len(records)))
                done += len(records)
                bar.update(len(records))
                yield records
        model.train(was_training)
        if bad:
            log.warning("samples skipped: %s", dict(bad))

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Fill in the records of a batch: `prediction`, `loss`, `tokens`, `scores`.

        Args:
            model: in evaluation mode, without gradients.
            batch: the samples.
            records: one per sample, with what the data says.
            predictions: the first so many need a prediction; a task whose best metric is made of
                predictions makes all of them.
        """
        raise NotImplementedError

    def summarize(self, records: list[Record]) -> Metrics:
        """What the records come to, and which value decides the best checkpoint."""
        raise NotImplementedError

    def intervals(self, records: list[Record]) -> dict[str, Interval]:
        """The 95 % interval of each metric that is the mean of a score, by the metric's name."""
        return intervals_of_scores(records)

    def predict(self, model: MiniGPTBase, batch: Batch, count: int) -> list[str]:
        """What the model answers to the first `count` samples of a batch, greedily."""
        if not count:
            return []
        first, request = batch.rows(range(count)), model.prompts.requests[0]
        dialogues = [dialogue.requested(request).unanswered() for dialogue in first.dialogues]
        return model.generate(
            first.images, dialogues, max_new_tokens=self.max_new_tokens or model.max_txt_len
        )


def new_records(model: MiniGPTBase, batch: Batch, pictures: int) -> list[Record]:
    """A record for each sample with what the data says, the first `pictures` with their picture."""
    records = []
    for row, dialogue in enumerate(batch.dialogues):
        record = Record(
            image_id=batch.image_ids[row],
            group=batch.groups[row],
            prompt=_question(dialogue),
            truth=dialogue.answer or "",
            references=batch.references[row],
            cluster=batch.clusters[row],
        )
        images = batch.images_of(row)
        if row < pictures and images is not None and images.ndim == 4:  # cached features show nothing
            record.picture = in_shape(model.to_pixels(images[0]), batch.sizes[row])
        records.append(record)
    return records


def _question(dialogue: Dialogue) -> str | None:
    """What the last answer answers, without the images before it; None for a caption."""
    asked = [turn.text for turn in dialogue.turns if turn.role == "user"]
    if not asked:
        return None
    text = without_video(asked[-1]).replace(IMAGE_TURN.strip(), "<image>")
    return re.sub(r"^(<image>\s*)+", "", text)
