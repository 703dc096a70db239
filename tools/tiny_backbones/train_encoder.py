"""Trains the tiny vision encoder and Q-Former that see the drawn world.

    python -m tools.tiny_backbones.train_encoder --out minigpt4/assets/tiny

Each of the eight queries is taught one attribute of the scene (`world.SLOTS`) by one linear
classifier that all queries share, so that "red" is the same direction whichever query says it.
That is what the projection of stage 1 needs: it is one linear map for all queries too. Cross
entropy alone would leave a class spread out; the squared error to the one-hot vector beside it
makes each class a point, so that a linear map can send it to any word embedding.

Colour and shape must be seen apart, or a pair that train has not is taken for one that it has
("red and pointed: surely a triangle"). So one thing in five in training is painted in some
colour that has no name here, and its colour is not taught.

The patch tokens are taught as well: which of the two things covers the patch, and its attributes.
The queries then only have to look there. Both classifiers are thrown away in the end.

Letters: B pictures, P patches, S slots = queries, D width, C words, H dense classes.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from dataset.shapes import world
from tools.tiny_backbones.optimizer import MuonWithAdamW

PATCH = 7
GRID = world.SIDE // PATCH
VIT_KWARGS = {"patch_size": PATCH, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 3.0}
Q_FORMER_KWARGS = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "cross_attention_frequency": 1,
}
# CLIP's statistics, which MiniGPT-4's processors use.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_RELATION_WORDS = tuple(relation.split()[0] for relation in world.RELATIONS)
WORDS = ("one", "two", *world.SIZES, *world.COLOURS, *world.SHAPES, *_RELATION_WORDS, world.NONE)
# What a patch is asked: which thing covers it (0 none, 1, 2), and of that thing where it is seen
# from the other (alone, or as in _SIDES) and its attributes. The sides are what makes the relation
# learnable in time: which is the first thing, and which relation it is, follow from them.
_SIDES = {"left of": ("left", "right"), "above": ("above", "below")}
_SIDE_NAMES = ("alone", *(side for sides in _SIDES.values() for side in sides))
_DENSE = {
    "role": 3,
    "side": len(_SIDE_NAMES),
    "size": len(world.SIZES),
    "colour": len(world.COLOURS),
    "shape": len(world.SHAPES),
}
PATCH_LOGITS = sum(_DENSE.values())
_COLOUR = list(_DENSE).index("colour")
NAMELESS = 0.2  # share of things painted in a colour without a name
SURE = 10.0  # the logit of a word that is there; of any other, 0
NOWHERE = -100  # cross_entropy leaves these targets out


class VisionWithHeads(nn.Module):
    """Encoder, `ln_vision` and Q-Former, and the two classifiers that teach them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_encoder = Eva(
            img_size=world.SIDE,
            num_classes=0,
            global_pool="",
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **VIT_KWARGS,
        )
        self.visual_encoder.norm = nn.Identity()  # MiniGPT-4's encoder has none
        for block in self.visual_encoder.blocks:
            block.attn.fused_attn = False  # at this size, on a CPU, plain attention is twice as fast
        width = VIT_KWARGS["embed_dim"]
        self.ln_vision = nn.LayerNorm(width)
        config = Blip2QFormerConfig(
            encoder_hidden_size=width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **Q_FORMER_KWARGS,
        )
        self.Qformer = Blip2QFormerModel(config)
        self.Qformer.set_attn_implementation("eager")
        self.query_tokens = nn.Parameter(
            torch.randn(1, len(world.SLOTS), config.hidden_size) * config.initializer_range
        )
        self.read_slot = nn.Linear(config.hidden_size, len(WORDS))
        self.read_patch = nn.Linear(width, PATCH_LOGITS)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pixels [B, 3, 56, 56] -> word logits [B, S, C], patch logits [B, P, H]."""
        mean = torch.tensor(MEAN).view(3, 1, 1)
        std = torch.tensor(STD).view(3, 1, 1)
        tokens = self.visual_encoder.forward_features((pixels / 255 - mean) / std)  # [B, 1+P, D]
        tokens = self.ln_vision(tokens)
        queries = self.query_tokens.expand(len(pixels), -1, -1)
        seen = self.Qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        return self.read_slot(seen), self.read_patch(tokens[:, 1:])


def patch_targets(scene: world.Scene, layout: world.Layout) -> np.ndarray:
    """For each patch centre, what covers it: int64 [P, 5] as in `_DENSE`."""
    centres = (np.arange(GRID) + 0.5) * PATCH
    y, x = np.meshgrid(centres, centres, indexing="ij")
    targets = np.full((GRID, GRID, len(_DENSE)), NOWHERE, dtype=np.int64)
    targets[..., 0] = 0
    for role, (thing, spot) in enumerate(zip(scene.things, layout.placements, strict=True), 1):
        inside = (x - spot.x) ** 2 + (y - spot.y) ** 2 < spot.radius**2
        colour = list(world.COLOURS).index(thing.colour)
        shape = world.SHAPES.index(thing.shape)
        side = _SIDES[scene.relation][role - 1] if scene.relation else "alone"
        size = world.SIZES.index(thing.size)
        targets[inside] = (role, _SIDE_NAMES.index(side), size, colour, shape)
    return targets.reshape(-1, len(_DENSE))


def nameless_colour(background: world.Rgb, rng: random.Random) -> world.Rgb:
    """A colour far from all that have a name, and from the background."""
    while True:
        red, green, blue = rgb = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if all(math.dist(rgb, other) > 70 for other in (*world.COLOURS.values(), background)):
            return red, green, blue


def render(
    split: str, count: int, single_share: float, seed: int, nameless: float = 0.0, times: int = 1
) -> tuple[np.ndarray, ...]:
    """Draws pictures as they come out of their JPEG files.

    Args:
        nameless: share of things that get a colour without a name; its targets are left out.
        times: how much larger than usual the pictures are.

    Returns:
        pixels uint8 [count, 3, 56 times, 56 times], words int64 [count, S], patch targets int8 [count, P, 5],
        and the box of each thing, in parts of the picture: float32 [count, 2, 4], NaN where there is none.
    """
    rng = random.Random(f"{split} {seed}")
    side = world.SIDE * times
    pixels = np.empty((count, 3, side, side), dtype=np.uint8)
    words = np.empty((count, len(world.SLOTS)), dtype=np.int64)
    patches = np.empty((count, GRID * GRID, len(_DENSE)), dtype=np.int8)
    boxes = np.full((count, 2, 4), np.nan, dtype=np.float32)
    for i in range(count):
        scene = world.sample_scene(split, single_share, rng)
        layout = world.lay_out(scene, rng)
        strange = [rng.random() < nameless for _ in scene.things]
        spots = tuple(
            replace(spot, rgb=nameless_colour(layout.background, rng)) if odd else spot
            for spot, odd in zip(layout.placements, strange, strict=True)
        )
        layout = replace(layout, placements=spots)
        image = Image.open(io.BytesIO(world.jpeg(world.draw(scene, layout, times))))
        pixels[i] = np.asarray(image).transpose(2, 0, 1)
        words[i] = [WORDS.index(word) for word in world.attributes(scene)]
        patches[i] = patch_targets(scene, layout)
        for role, (thing, spot, odd) in enumerate(zip(scene.things, spots, strange, strict=True), 1):
            boxes[i, role - 1] = np.array(world.bounds(thing, spot)) / world.SIDE
            if odd:
                words[i, world.SLOTS.index(f"colour{role}")] = NOWHERE
                patches[i, patches[i, :, 0] == role, _COLOUR] = NOWHERE
    return pixels, words, patches, boxes


def batches(arrays: tuple[np.ndarray, ...], size: int, seed: int) -> Iterator[list[Tensor]]:
    """Endless shuffled batches."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(arrays[0]))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield [torch.from_numpy(array[chosen]) for array in arrays]


def loss_of(model: VisionWithHeads, pixels: Tensor, words: Tensor, patches: Tensor) -> Tensor:
    """Mean over slots and patches; see the head of this file."""
    with torch.autocast("cpu", torch.bfloat16):
        word_logits, patch_logits = model(pixels)
    word_logits, patch_logits = word_logits.float().flatten(0, 1), patch_logits.float()
    words = words.flatten()
    word_logits, words = word_logits[words != NOWHERE], words[words != NOWHERE]
    loss = F.cross_entropy(word_logits, words)
    one_hot = F.one_hot(words, len(WORDS)).float()
    loss = loss + (word_logits / SURE - one_hot).square().sum(-1).mean()
    return loss + patch_loss(patch_logits, patches)


def patch_loss(logits: Tensor, patches: Tensor) -> Tensor:
    """Cross entropy of what each patch is asked, summed over the questions."""
    pieces = logits.split(list(_DENSE.values()), dim=-1)
    targets = patches.long().flatten(0, 1).unbind(-1)
    return sum(
        (
            F.cross_entropy(piece.flatten(0, 1), target, ignore_index=NOWHERE)
            for piece, target in zip(pieces, targets, strict=True)
        ),
        start=logits.new_zeros(()),
    )


@torch.no_grad()
def accuracy(model: VisionWithHeads, arrays: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Share of pictures whose whole scene is right, and of right words in each slot."""
    model.eval()
    right = []
    for start in range(0, len(arrays[0]), 250):
        pixels, words = (torch.from_numpy(array[start : start + 250]) for array in arrays[:2])
        right.append(model(pixels)[0].argmax(-1) == words)
    model.train()
    hits = torch.cat(right)  # [count, S]
    single = torch.from_numpy(arrays[1][:, 0] == WORDS.index("one"))
    scenes = hits.all(-1).float()
    found = {"one": scenes[single].mean().item(), "two": scenes[~single].mean().item()}
    return found | dict(zip(world.SLOTS, hits.float().mean(0).tolist(), strict=True))


def train(model: VisionWithHeads, pictures: int, steps: int, batch_size: int, rate: float, seed: int) -> None:
    """Trains on pictures of train scenes."""
    jobs = [("train", pictures // 4, 0.25, seed + part, NAMELESS) for part in range(4)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        parts = pool.starmap(render, jobs)
    shown = tuple(np.concatenate(part) for part in zip(*parts, strict=True))[:3]
    unseen = render("val", 1000, 0.5, seed)
    optimizer = MuonWithAdamW(model, rate, steps)
    start, mean_loss = time.time(), 0.0
    for step, batch in zip(range(1, steps + 1), batches(shown, batch_size, seed), strict=False):
        loss = loss_of(model, *batch)
        optimizer.step(loss)
        mean_loss += (loss.item() - mean_loss) * 0.05
        if step % 250 == 0 or step == steps:
            found = " ".join(f"{k} {v:.3f}" for k, v in accuracy(model, unseen).items())
            print(
                f"step {step} {time.time() - start:.0f}s loss {mean_loss:.4f} val {found}",
                flush=True,
            )


def save(model: VisionWithHeads, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes both files under the key names of the published ones."""
    encoder = {
        key: value.to(dtype)
        for key, value in model.visual_encoder.state_dict().items()
        if not key.endswith("k_bias")
    }
    bridge = {"query_tokens": model.query_tokens.detach()}
    bridge |= {f"ln_vision.{key}": value for key, value in model.ln_vision.state_dict().items()}
    for key, value in model.Qformer.state_dict().items():
        key = key.replace("attention.attention.", "attention.self.")
        key = key.replace("layernorm.", "embeddings.LayerNorm.")
        bridge[f"Qformer.bert.{key}"] = value
    bridge = {key: value.to(dtype) for key, value in bridge.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("eva_vit_g.pth", encoder), ("blip2_tiny.pth", {"model": bridge})):
        partial_file = folder / f"{name}.partial"
        torch.save(content, partial_file)
        partial_file.replace(folder / name)


def main() -> None:
    """Trains, measures on unseen scenes with the rounded weights, saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = VisionWithHeads()
    train(
        model,
        args.pictures,
        args.steps,
        args.batch_size,
        args.learning_rate,
        args.seed,
    )
    save(model, args.out)
    model.bfloat16().float()  # as a reader of the files will have them
    print("test", accuracy(model, render("test", 4000, 0.5, args.seed)))


if __name__ == "__main__":
    main()
