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
from typing import TYPE_CHECKING

from minigpt4.common import cli

if TYPE_CHECKING:
    import torch

    from minigpt4.datasets.stream import SampleStream
    from minigpt4.models.minigpt_base import MiniGPTBase

log = logging.getLogger("solve-projection")

BATCH = 32
# The penalty, in units of the tokens' variance, and by what the deviation from the mean word is multiplied: a
# regression shrinks it. Both were chosen on an unseen style (dataset/pictures/README.md).
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
        tokens, words = tokens.double().cpu(), words.double().cpu()
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


def regress(model: MiniGPTBase, stream: SampleStream, pictures: int) -> Regression:
    """Image tokens against the mean embedding of the answer's words, of at least so many pictures, or all."""
    import torch

    from minigpt4.datasets.collate import BatchStream

    regression, seen = Regression(model.llama_proj.in_features, model.llama_proj.out_features), 0
    with torch.inference_mode():
        for batch in BatchStream(stream, BATCH):
            if batch.images is None:
                continue
            tokens = model.vision(batch.images.to(model.device)).float()
            words = torch.stack([_mean_word(model, answer) for answer in batch.answers])
            words = words.repeat_interleave(torch.tensor(batch.image_counts), dim=0)
            regression.add(tokens.flatten(0, 1), words.repeat_interleave(tokens.shape[1], dim=0))
            seen += len(tokens)
            log.info("%d pictures", seen)
            if seen >= pictures:
                break
    return regression


def _mean_word(model: MiniGPTBase, answer: str) -> torch.Tensor:
    ids = model.language.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return model.language.embed(ids[0].to(model.device)).float().mean(0).cpu()


def solve_projection(args: argparse.Namespace) -> None:
    """Read the first data set's `train`, solve, write."""
    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config

    cfg = Config(args)
    device = cfg.run_settings().device
    check_model(cfg, device)

    from minigpt4.tasks import setup_task
    from minigpt4.weights.checkpoint import save_checkpoint

    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device=device, datasets=datasets)
    (_, splits), *_ = datasets.values()
    weight, bias = regress(model, splits["train"], args.pictures).solve()
    tensors = {"llama_proj.weight": weight, "llama_proj.bias": bias}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({"model": tensors, "meta": model.checkpoint_meta()}, args.out)
    print(args.out)


def main() -> None:
    """The command line."""
    parser = cli.config_parser(__doc__)
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="FILE")
    parser.add_argument(
        "--pictures", type=int, default=20_000, metavar="N", help="at most so many (default: 20000)"
    )
    cli.run(solve_projection, parser.parse_args())


if __name__ == "__main__":
    main()
