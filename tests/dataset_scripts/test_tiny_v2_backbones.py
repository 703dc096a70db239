"""The tiny encoder of MiniGPT-v2 as it ships, and what it and the language models were taught with."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from dataset.shapes import world
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.processors.boxes import iou, parse_boxes, to_grid, without_boxes
from tools.tiny_backbones import train_v2_encoder as encoder
from tools.tiny_backbones import train_v2_language_model as writer
from tools.tiny_backbones.optimizer import Muon, orthogonal
from tools.tiny_backbones.train_encoder import WORDS


def _edges(stated: torch.Tensor) -> torch.Tensor:
    """Facts [B, T, F] -> the edges of both things, in parts of the picture: [B, 8]."""
    return encoder._places(stated[:, len(world.SLOTS) :, len(WORDS) : len(WORDS) + encoder.BINS + 1])


def test_facts_say_where_the_edges_are() -> None:
    boxes = np.random.default_rng(0).uniform(0.03, 0.97, (50, 2, 4)).astype(np.float32)
    targets, known = encoder.facts(np.zeros((50, len(world.SLOTS)), dtype=np.int64), boxes)
    assert known.all()
    assert _edges(torch.from_numpy(targets)).reshape(50, 2, 4).numpy() == pytest.approx(boxes, abs=1e-4)


def test_one_linear_layer_reads_scenes_and_boxes_from_the_shipped_encoder() -> None:
    """Fitted by least squares to 250 training pictures, it reads held-out ones."""
    vision = MiniGPTv2.from_config({"arch": "minigpt_v2", "model_type": "tiny_gemma"}, device="cpu").vision

    def seen(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, _, targets, _ = encoder.pictures(split, count, seed=1, nameless=0.0)
        tokens = vision(torch.from_numpy(pixels)).float()
        return torch.cat([tokens, torch.ones_like(tokens[..., :1])], -1), torch.from_numpy(targets)

    tokens, targets = seen("train", 250)
    layer = torch.linalg.lstsq(tokens.flatten(0, 1), targets.flatten(0, 1)).solution
    tokens, targets = seen("test", 40)
    stated = tokens @ layer
    slots, words = slice(len(world.SLOTS)), slice(len(WORDS))
    right = (stated[:, slots, words].argmax(-1) == targets[:, slots, words].argmax(-1)).all(-1)
    assert right.float().mean() >= 0.95
    boxes = [
        (found, true)
        for found, true, none in zip(
            _edges(stated).reshape(-1, 4).tolist(),
            _edges(targets).reshape(-1, 4).tolist(),
            targets[:, len(world.SLOTS) :: encoder.EDGES, len(WORDS) + encoder.BINS].flatten().tolist(),
            strict=True,
        )
        if not none
    ]
    assert sum(iou(found, true) > 0.5 for found, true in boxes) / len(boxes) >= 0.95


def test_language_models_are_taught_the_boxes_that_the_facts_state() -> None:
    rng = random.Random(0)
    scene = world.parse_caption("a small red circle above a big green square")
    boxes = writer.laid_out(scene, rng)
    assert boxes[0][3] < boxes[1][1]  # above
    stated = _edges(writer.facts(scene, boxes, rng)[None])[0].reshape(2, 4)
    assert np.array(boxes) == pytest.approx(stated.numpy(), abs=0.05)
    grid = [to_grid(box, (1, 1)) for box in boxes]
    _, answer = writer._refer(scene, grid, rng)
    assert parse_boxes(answer)[0] in grid


def test_language_models_are_taught_dialogues_about_one_picture() -> None:
    rng = random.Random(0)
    scene = world.parse_caption("a small red circle above a big green square")
    taught = writer.sample(scene, [writer._ground, writer._caption, writer._identify], rng)
    grounded, caption, name = (turn.text for turn in taught.dialogue.turns if turn.role == "assistant")
    assert without_boxes(grounded) == caption == world.caption(scene)
    assert len(parse_boxes(grounded)) == 2
    assert name in ("the small red circle", "the big green square")
    assert taught.features.shape == (writer.TOKENS, writer.FACTS)


def test_muon_goes_in_all_directions_alike() -> None:
    """Singular values near one, singular vectors as they were, and steps of AdamW's size."""
    matrix = torch.nn.Parameter(torch.zeros(12, 40))
    matrix.grad = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix.grad, full_matrices=False)
    for turned in (matrix.grad, matrix.grad.mT):
        found = orthogonal(turned[None])[0]
        values = left.mT @ (found if turned is matrix.grad else found.mT) @ right.mT
        assert (values - values.diag().diag()).abs().max() < 1e-4
        assert 0.6 < values.diag().min() < values.diag().max() < 1.3
    Muon([matrix], 0.1, weight_decay=0.0).step()
    assert matrix.detach().pow(2).mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.25)
