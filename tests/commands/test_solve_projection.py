"""`minigpt4 solve-projection`: the projection in closed form."""

import sys

import pytest
import torch
import yaml

from dataset.shapes.make_shards import write_split
from minigpt4.commands import solve_projection
from minigpt4.models.minigpt4 import MiniGPT4
from minigpt4.prompts.sample import Batch
from minigpt4.tasks import setup_task
from tests.support.caching import config, load
from tests.support.shards import read

TINY = {"arch": "minigpt4", "model_type": "tiny_gemma"}


def solved(tokens: torch.Tensor, words: torch.Tensor, **how: float) -> tuple[torch.Tensor, torch.Tensor]:
    regression = solve_projection.Regression(tokens.shape[1], words.shape[1])
    for some in range(0, len(tokens), 150):
        regression.add(tokens[some : some + 150], words[some : some + 150])
    return regression.solve(**how)


@pytest.mark.unit
def test_solve_finds_the_linear_layer_that_made_the_words() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(400, 6) * torch.tensor([1.0, 2, 3, 0.1, 10, 1]) + 5
    layer = torch.nn.Linear(6, 4).requires_grad_(False)
    weight, bias = solved(tokens, layer(tokens), ridge=0, gain=1)
    torch.testing.assert_close(weight, layer.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias, layer.bias, rtol=1e-4, atol=1e-4)


@pytest.mark.unit
def test_gain_and_ridge_act_on_what_differs_from_the_mean() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(400, 6)
    words = tokens @ torch.randn(6, 4) + 3
    said = []
    for ridge, gain in ((0.5, 1), (0.5, 2), (1e6, 1)):
        weight, bias = solved(tokens, words, ridge=ridge, gain=gain)
        said.append(tokens @ weight.T + bias - words.mean(0))
    torch.testing.assert_close(said[1], 2 * said[0], rtol=1e-4, atol=1e-4)
    assert said[0].norm() < (words - words.mean(0)).norm()
    assert said[2].abs().max() < 1e-3


def test_the_start_knows_more_than_a_random_one(tmp_path, monkeypatch) -> None:
    """Read by `model.ckpt`, it puts pictures nearest to their own captions' mean words."""
    write_split(tmp_path / "train", "train", 60, seed=0, samples_per_shard=60)
    path = config(tmp_path / "c.yaml", {"train": f"{tmp_path}/train/00000.tar"}, TINY)
    out = tmp_path / "start.pth"
    monkeypatch.setattr(sys, "argv", ["solve-projection", "--cfg-path", str(path), "--out", str(out)])
    solve_projection.main()
    section = yaml.safe_load(path.read_text())["model"] | {"ckpt": str(out)}
    model = MiniGPT4.from_config(section, "cpu")
    cfg = load(path)
    (_, splits) = setup_task(cfg).build_datasets(cfg)["cc_sbu"]
    batch = Batch.of(list(read(splits["train"])))
    with torch.no_grad():
        said = model.project(model.vision(batch.images)).mean(1)
        ids = [
            model.language.tokenizer(answer, add_special_tokens=False)["input_ids"]
            for answer in batch.answers
        ]
        words = torch.stack([model.language.embed(torch.tensor(one)).mean(0) for one in ids])
    said, words = (torch.nn.functional.normalize(x - x.mean(0), dim=1) for x in (said.float(), words.float()))
    similar = said @ words.T
    right = (similar.argmax(1) == torch.arange(len(batch))).float().mean()
    assert right > 0.2  # chance: 0.02
