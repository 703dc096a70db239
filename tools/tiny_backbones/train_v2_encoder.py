"""Trains the tiny encoder of MiniGPT-v2, which sees pictures of the drawn world at twice the usual size.

    python -m tools.tiny_backbones.train_v2_encoder --out minigpt4/assets/tiny/eva_vit_g_v2.pth

MiniGPT-v2 has no Q-Former: four neighbouring patches in raster order are one image token, and one linear
layer must make of them what the language model reads. So the tokens themselves are taught what the
Q-Former's queries were: the first eight one attribute of the scene each (`world.SLOTS`), and the other eight
the edges of the first and then of the second thing (left, top, right, bottom), each with the thing's size,
colour and shape.

An edge is taught as a point between the middles of 20 bins: the two nearest share one unit, so that the place
is a linear function of what is said, and nothing jumps where one number ends and the next begins.

It begins with the weights of `train_encoder`: 14 pixels of the larger picture are 7 of the smaller one.

Letters: B pictures, P patches, T tokens, F facts that a token may state.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.shapes import world
from tools.tiny_backbones import train_encoder as small
from tools.tiny_backbones.optimizer import MuonWithAdamW

TIMES = 2
TOGETHER = 4  # patches of a token
WIDTH = small.VIT_KWARGS["embed_dim"]
VIT_KWARGS = small.VIT_KWARGS | {"patch_size": small.PATCH * TIMES}
EDGES, THINGS, BINS = 4, 2, 20
_WORDS = len(small.WORDS)
# A token states some of these facts: words; the bin of an edge, or that there is none; which edge, of which.
_BIN = slice(_WORDS, _WORDS + BINS + 1)
_EDGE = slice(_BIN.stop, _BIN.stop + EDGES)
_THING = slice(_EDGE.stop, _EDGE.stop + THINGS)
FACTS = _THING.stop
_SLOTS = len(world.SLOTS)


class EncoderWithHeads(nn.Module):
    """The encoder, and the two classifiers that teach it."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        super().__init__()
        self.visual_encoder = Eva(
            img_size=world.SIDE * TIMES,
            num_classes=0,
            global_pool="",
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **VIT_KWARGS,
        )
        self.visual_encoder.norm = nn.Identity()  # MiniGPT-4's encoder has none
        # Each pixel of the smaller picture is four of the larger one.
        start = {key: value.float() for key, value in start.items()}
        kernel = start["patch_embed.proj.weight"]
        for side in (-1, -2):
            kernel = kernel.repeat_interleave(TIMES, side) / TIMES
        start["patch_embed.proj.weight"] = kernel
        self.visual_encoder.load_state_dict(start, strict=False)  # timm adds a bias that is always zero
        self.read_token = nn.Linear(WIDTH * TOGETHER, FACTS)
        self.read_patch = nn.Linear(WIDTH, small.PATCH_LOGITS)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pixels [B, 3, 112, 112] -> facts [B, T, F] (1 where true, else 0), patch logits [B, P, H]."""
        mean = torch.tensor(small.MEAN).view(3, 1, 1)
        std = torch.tensor(small.STD).view(3, 1, 1)
        patches = self.visual_encoder.forward_features((pixels / 255 - mean) / std)[:, 1:]
        # As the model's `ln_vision`, which nobody trains.
        patches = F.layer_norm(patches, (WIDTH,))
        joined = patches.reshape(len(pixels), -1, WIDTH * TOGETHER)
        return self.read_token(joined) / small.SURE, self.read_patch(patches)


def facts(words: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the tokens are to state.

    Args:
        words: int64 [count, S], NOWHERE where a colour has no name.
        boxes: float32 [count, 2, 4], NaN where there is no thing.

    Returns:
        targets float32 [count, T, F], and which of them are known: bool, of the same shape.
    """
    count = len(words)
    targets = np.zeros((count, _SLOTS + THINGS * EDGES, FACTS), dtype=np.float32)
    known = np.ones(targets.shape, dtype=bool)
    rows = np.arange(count)
    named = words != small.NOWHERE
    for slot in range(_SLOTS):
        targets[rows[named[:, slot]], slot, words[named[:, slot], slot]] = 1
        known[~named[:, slot], slot] = False
    for thing in range(THINGS):
        there = ~np.isnan(boxes[:, thing, 0])
        slots = [world.SLOTS.index(f"{kind}{thing + 1}") for kind in ("size", "colour", "shape")]
        for edge in range(EDGES):
            token = _SLOTS + thing * EDGES + edge
            targets[:, token, _EDGE.start + edge] = 1
            targets[:, token, _THING.start + thing] = 1
            targets[~there, token, _BIN.stop - 1] = 1
            place = np.clip(boxes[there, thing, edge] * BINS - 0.5, 0, BINS - 1)
            low = np.minimum(place.astype(int), BINS - 2)
            targets[rows[there], token, _BIN.start + low] = 1 - (place - low)
            targets[rows[there], token, _BIN.start + low + 1] = place - low
            for slot in slots:
                said = there & named[:, slot]
                targets[rows[said], token, words[said, slot]] = 1
                known[~named[:, slot], token, :_WORDS] = False
    return targets, known


def loss_of(
    model: EncoderWithHeads, pixels: Tensor, patches: Tensor, targets: Tensor, known: Tensor
) -> Tensor:
    """Squared error of the facts, cross entropy of words and bins, and that of the patches."""
    stated, patch_logits = model(pixels)
    loss = ((stated - targets).square() * known).sum(-1).mean()
    for tokens, which in ((slice(_SLOTS), slice(_WORDS)), (slice(_SLOTS, None), _BIN)):
        logits, wanted = stated[:, tokens, which] * small.SURE, targets[:, tokens, which]
        loss = loss + 0.2 * F.cross_entropy(logits.flatten(0, 1), wanted.flatten(0, 1))
    return loss + 0.3 * small.patch_loss(patch_logits, patches)


@torch.no_grad()
def accuracy(model: EncoderWithHeads, arrays: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Share of pictures whose whole scene is right, and how far edges are off, in percent of the picture."""
    model.eval()
    pixels, _, targets, _ = arrays
    chunks = [torch.from_numpy(pixels[start : start + 250]) for start in range(0, len(pixels), 250)]
    stated, wanted = torch.cat([model(chunk)[0] for chunk in chunks]), torch.from_numpy(targets)
    model.train()
    words = [values[:, :_SLOTS, :_WORDS].argmax(-1) for values in (stated, wanted)]
    places = [_places(values[:, _SLOTS:, _BIN]) for values in (stated, wanted)]
    there = wanted[:, _SLOTS:, _BIN.stop - 1] == 0
    off = (places[0] - places[1])[there].abs() * 100
    scenes = (words[0] == words[1]).all(-1).float().mean().item()
    return {"scenes": scenes, "off": off.mean().item(), "off, 90%": off.quantile(0.9).item()}


def _places(bins: Tensor) -> Tensor:
    """Where edges are, in parts of the picture: the mean of the largest bin and its neighbours."""
    middles = (torch.arange(BINS) + 0.5) / BINS
    bins = bins[..., :BINS]
    near = (torch.arange(BINS) - bins.argmax(-1, keepdim=True)).abs() <= 1
    weights = bins.clamp(min=1e-6) * near
    return (weights * middles).sum(-1) / weights.sum(-1)


def pictures(split: str, count: int, seed: int, nameless: float) -> tuple[np.ndarray, ...]:
    """Drawn pictures: pixels, patch targets, facts, and which of these are known."""
    single = 0.25 if split == "train" else 0.5
    pixels, words, patches, boxes = small.render(split, count, single, seed, nameless, TIMES)
    return pixels, patches, *facts(words, boxes)


def save(model: EncoderWithHeads, file: Path) -> None:
    """Writes the encoder under the key names of the published one, in bfloat16."""
    state = model.visual_encoder.state_dict().items()
    tensors = {key: value.bfloat16() for key, value in state if not key.endswith("k_bias")}
    unfinished = file.with_name(f"{file.name}.partial")
    torch.save(tensors, unfinished)
    unfinished.replace(file)


def main() -> None:
    """Trains, saves, measures on unseen scenes with the rounded weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=Path("minigpt4/assets/tiny/eva_vit_g.pth"))
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = EncoderWithHeads(torch.load(args.start, weights_only=True))
    jobs = [("train", args.pictures // 4, args.seed + part, small.NAMELESS) for part in range(4)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        parts = pool.starmap(pictures, jobs)
    shown = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    optimizer = MuonWithAdamW(model, args.learning_rate, args.steps)
    start, stream = time.time(), small.batches(shown, args.batch_size, args.seed)
    for step, batch in zip(range(1, args.steps + 1), stream, strict=False):
        loss = loss_of(model, *batch)
        optimizer.step(loss)
        if step % 100 == 0:
            print(f"step {step} {time.time() - start:.0f}s loss {loss.item():.4f}", flush=True)
    save(model, args.out)
    model.bfloat16().float()  # as a reader of the file will have it
    print("test", accuracy(model, pictures("test", 2000, args.seed, 0.0)))


if __name__ == "__main__":
    main()
