"""Write a projection to begin with, in closed form: a picture becomes what the words of its caption are.

A ridge regression from the image tokens to the mean word embedding of the caption needs no training step. The
language model then reads something like the right words, and training goes on from there.

example:
  python -m dataset.pictures.make_start --cfg-path train_configs/pictures.yaml --out start.pth \\
      --options model.ckpt=null

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

log = logging.getLogger("make_start")

BATCH = 32
# The penalty, in units of the tokens' variance, and by what the deviation from the mean word is multiplied: a
# regression shrinks it. Both were chosen on an unseen style (README.md).
RIDGE, GAIN = 0.36, 2.0


def solve(
    tokens: torch.Tensor, words: torch.Tensor, ridge: float = RIDGE, gain: float = GAIN
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear layer that comes closest to `words`, given `tokens`.

    Args:
        tokens: [N, width].
        words: [N, D].
        ridge: penalty on the weights, for tokens of variance 1.
        gain: factor of what the layer says beyond the mean word.

    Returns:
        weight [D, width] and bias [D] in float32.
    """
    import torch

    tokens, words = tokens.double(), words.double()
    mean, scale = tokens.mean(0), tokens.std(0) + 1e-6
    x, word = (tokens - mean) / scale, words.mean(0)
    covariance = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    weight = gain * torch.linalg.solve(covariance, x.T @ (words - word) / len(x)).T / scale
    return weight.float(), (word - weight @ mean).float()


def tokens_and_words(model: MiniGPTBase, stream: SampleStream) -> tuple[torch.Tensor, torch.Tensor]:
    """Image tokens [N, width] of all pictures, and the mean embedding [N, D] of each one's caption."""
    import torch

    from minigpt4.datasets.collate import BatchStream

    tokens, words = [], []
    with torch.inference_mode():
        for batch in BatchStream(stream, BATCH):
            seen = model.vision(batch.images).float()
            for one, answer in zip(seen, batch.answers, strict=True):
                ids = model.language.tokenizer(answer, add_special_tokens=False, return_tensors="pt")
                tokens.append(one)
                words.append(model.language.embed(ids["input_ids"][0]).float().mean(0).expand(len(one), -1))
            log.info("%d pictures", len(words))
    return torch.cat(tokens).cpu(), torch.cat(words).cpu()


def make(args: argparse.Namespace) -> None:
    """Read the first data set's `train`, solve, write."""
    from minigpt4.common.config import Config
    from minigpt4.tasks import setup_task
    from minigpt4.weights.checkpoint import save_checkpoint

    cfg = Config(args)
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, datasets=datasets)
    (_, splits), *_ = datasets.values()
    weight, bias = solve(*tokens_and_words(model, splits["train"]))
    tensors = {"llama_proj.weight": weight, "llama_proj.bias": bias}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({"model": tensors, "meta": model.checkpoint_meta()}, args.out)
    print(args.out)


def main() -> None:
    """The command line."""
    parser = cli.config_parser(__doc__)
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="FILE")
    cli.run(make, parser.parse_args())


if __name__ == "__main__":
    main()
