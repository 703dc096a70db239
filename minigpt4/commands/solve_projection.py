"""Write a projection to begin training with, in closed form: a picture becomes what its caption's words are.

A ridge regression from the image tokens to the mean word embedding of the caption needs no training step. The
language model then reads something like the right words, and training goes on from there.

example:
  python -m minigpt4 solve-projection --cfg-path train_configs/pictures.yaml --out start.pth

writes a checkpoint for `model.ckpt`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from minigpt4.common import cli

if TYPE_CHECKING:
    import torch

    from minigpt4.models.minigpt_base import MiniGPTBase
    from minigpt4.prompts.sample import Batch

log = logging.getLogger("solve_projection")

BATCH = 32
# The penalty, in units of the tokens' variance, and the factor of the deviation from the mean word, which a
# regression shrinks. Both were chosen on drawings in an unseen style.
RIDGE, GAIN = 0.36, 2.0


class Regression:
    """A ridge regression from image tokens to words; it keeps sums, no samples.

    Args:
        width: of the tokens.
        words: width D of the word embeddings.
    """

    def __init__(self, width: int, words: int) -> None:
        import torch

        self.count = 0
        self.x, self.y = torch.zeros(width, dtype=torch.float64), torch.zeros(words, dtype=torch.float64)
        self.xx = torch.zeros(width, width, dtype=torch.float64)
        self.xy = torch.zeros(width, words, dtype=torch.float64)

    def add(self, tokens: torch.Tensor, words: torch.Tensor) -> None:
        """Tokens [N, width] and what each of them is to become, [N, D]."""
        tokens, words = tokens.cpu().double(), words.cpu().double()  # MPS has no float64
        self.count += len(tokens)
        self.x += tokens.sum(0)
        self.y += words.sum(0)
        self.xx += tokens.T @ tokens
        self.xy += tokens.T @ words

    def solve(self, ridge: float = RIDGE, gain: float = GAIN) -> tuple[torch.Tensor, torch.Tensor]:
        """The linear layer that comes closest to the words.

        Args:
            ridge: penalty on the weights, for tokens of variance 1.
            gain: factor of what the layer says beyond the mean word.

        Returns:
            weight [D, width] and bias [D] in float32.
        """
        import torch

        mean, word = self.x / self.count, self.y / self.count
        covariance = self.xx / self.count - torch.outer(mean, mean)
        scale = covariance.diagonal().clamp(min=0).sqrt() + 1e-6
        correlation = covariance / torch.outer(scale, scale) + ridge * torch.eye(len(mean), dtype=mean.dtype)
        with_words = (self.xy / self.count - torch.outer(mean, word)) / scale[:, None]
        weight = gain * torch.linalg.solve(correlation, with_words).T / scale
        return weight.float(), (word - weight @ mean).float()


def regress(model: MiniGPTBase, batches: Iterable[Batch], pictures: int) -> Regression:
    """Image tokens against the mean embedding of the answer's words.

    Args:
        model: in evaluation mode.
        batches: samples without a picture or an answer are left out.
        pictures: how many are looked at, at most.

    Raises:
        DataError: if no sample has both.
    """
    import torch
    from tqdm import tqdm

    from minigpt4.common.errors import DataError

    regression, left = Regression(model.projection.in_features, model.projection.out_features), pictures
    with torch.inference_mode(), tqdm(total=pictures, unit=" pictures", disable=None) as bar:
        for batch in batches:
            words = {
                row: _mean_word(model, answer) for row, answer in enumerate(batch.answers) if answer.strip()
            }
            answered = batch.rows([*words])
            if answered.images is None:
                continue
            counts = torch.tensor(answered.image_counts)
            aims = torch.stack([*words.values()]).repeat_interleave(counts, dim=0)[:left]
            # A video's frames are many.
            for images, own in zip(answered.images.split(BATCH), aims.split(BATCH), strict=False):
                tokens = model.image_tokens(images[: len(own)])
                regression.add(tokens.flatten(0, 1), own.repeat_interleave(tokens.shape[1], dim=0))
                bar.update(len(own))
            left -= len(aims)
            if not left:
                break
    if not regression.count:
        raise DataError("the training data has no sample with both a picture and an answer")
    log.info("looked at %d pictures, %d image tokens", pictures - left, regression.count)
    return regression


def _mean_word(model: MiniGPTBase, answer: str) -> torch.Tensor:
    ids = model.language.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return model.language.embed(ids[0].to(model.device)).float().mean(0).cpu()


def solve_projection(args: argparse.Namespace) -> None:
    """Read what is trained on, one data set after the other, solve, write."""
    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.files import require_writable

    cfg = Config(args)
    settings = cfg.run_settings()
    if args.pictures < 1:
        raise ConfigError(f"--pictures is {args.pictures}, it must be at least 1")
    require_writable(args.out, "--out")
    check_model(cfg, settings.device)

    import torch

    from minigpt4.datasets.collate import BatchStream
    from minigpt4.runners.evaluation import check_train_splits
    from minigpt4.tasks import setup_task
    from minigpt4.weights.checkpoint import save_checkpoint

    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    check_train_splits(datasets, settings)
    model = task.build_model(cfg, device=settings.device, datasets=datasets).eval()
    batches = (
        batch
        for builder, splits in datasets.values()
        for split in settings.train_splits
        if builder.sample_ratio
        for batch in BatchStream(splits[split], BATCH, settings.max_bad_fraction, prompts=model.prompts)
    )
    weight, bias = regress(model, batches, args.pictures).solve()
    with torch.no_grad():
        model.projection.weight.copy_(weight)
        model.projection.bias.copy_(bias)
    # All that is trained: what a Q-Former or an adapter begins with has to be the same in training.
    tensors = {key: tensor.cpu() for key, tensor in model.trainable_state_dict().items()}
    save_checkpoint({"model": tensors, "meta": model.checkpoint_meta()}, args.out)
    print(args.out)


def main() -> None:
    """The command line."""
    parser = cli.config_parser(__doc__)
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="FILE")
    parser.add_argument(
        "--pictures", type=int, default=20_000, metavar="N", help="look at so many at most (default: 20000)"
    )
    cli.run(solve_projection, parser.parse_args())


if __name__ == "__main__":
    main()
