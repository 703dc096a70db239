"""What every task is: how to build the parts, and one step of training."""

from collections.abc import Iterable
from typing import Any

import torch

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import Datasets, build_datasets
from minigpt4.models.base_model import BaseModel


def setup_task(cfg: Config) -> "BaseTask":
    """The task that `run.task` names."""
    if "task" not in cfg.run_cfg:
        raise ConfigError("run.task is missing: please set it in the YAML, e.g. `image_text_pretrain`")
    return registry.get_task_class(cfg.run_cfg.task)()


class BaseTask:
    """Builds model and datasets, and says what a step and an evaluation are."""

    def build_datasets(self, cfg: Config) -> Datasets:
        """Name -> (builder, datasets by split)."""
        datasets = build_datasets(cfg.datasets_cfg, seed=cfg.run_cfg.get("seed", 42))
        model_class = self.model_class(cfg)
        for builder, splits in datasets.values():
            builder.check_model(model_class, plain(cfg.model_cfg), splits)
        return datasets

    @staticmethod
    def model_class(cfg: Config) -> type[BaseModel]:
        """The class that `model.arch` names."""
        if "arch" not in cfg.model_cfg:
            raise ConfigError("model.arch is missing: please set it in the YAML, e.g. `arch: minigpt4`")
        return registry.get_model_class(cfg.model_cfg.arch)

    def build_model(
        self,
        cfg: Config,
        device: str | torch.device | None = None,
        datasets: Datasets | None = None,
    ) -> BaseModel:
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
        torch.manual_seed(cfg.run_cfg.get("seed", 42))
        return model_class.from_config(cfg.model_cfg, device=device, **cached)

    def train_step(self, model: torch.nn.Module, samples: dict[str, Any]) -> torch.Tensor:
        """The loss of one batch that the model prepared: the sum over its target tokens, with a gradient.

        The engine divides it by the number of targets in all batches of an update, on all ranks.
        """
        return model(samples, reduction="sum")["loss"]

    def evaluate(self, model: BaseModel, batches: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """One record a sample."""
        raise NotImplementedError

    def summarize(self, records: list[dict[str, Any]]) -> dict[str, float]:
        """Records -> metrics by name."""
        raise NotImplementedError
