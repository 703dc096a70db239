"""`minigpt4 solve-projection`: the projection in closed form."""

import logging
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dataset.shapes.make_shards import write_split
from minigpt4.commands import solve_projection
from minigpt4.common.errors import DataError
from minigpt4.models.minigpt4 import MiniGPT4
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.tasks import setup_task
from minigpt4.tasks.base_task import BaseTask
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


def words_of(model: MiniGPT4, answer: str) -> torch.Tensor:
    ids = model.language.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return model.language.embed(torch.tensor(ids)).mean(0).double()


def sample(answer: str, *greys: int, size: int = 56) -> Sample:
    pixels = [torch.full((3, size, size), grey, dtype=torch.uint8) for grey in greys]
    dialogue = Dialogue.of([("<Img><ImageHere></Img>" * len(greys) + " what?", answer)])
    return Sample(dialogue=dialogue, image=torch.stack(pixels) if pixels else None)


@torch.no_grad()
def test_every_picture_goes_with_its_own_answer(golden_model, monkeypatch, caplog) -> None:
    """Of samples with several, with none, and without an answer; no more than are wanted."""
    monkeypatch.setattr(solve_projection, "BATCH", 2)
    first = [sample("two cats", 10, 90, 200), sample("words"), sample("", 50)]
    batches = [Batch.of(first), Batch.of([sample("words")]), Batch.of([sample("a dog", 5), sample("red", 7)])]
    answers = {10: "two cats", 90: "two cats", 200: "two cats", 5: "a dog", 7: "red"}
    for wanted, looked_at in ((2, 2), (4, 4), (9, 5)):
        with caplog.at_level(logging.INFO):
            regression = solve_projection.regress(golden_model, batches, wanted)
        assert f"{looked_at} pictures" in caplog.messages[-1]
        expected = 0
        for grey in [*answers][:looked_at]:
            tokens = golden_model.vision(sample("", grey).images)[0].double()
            expected += torch.outer(tokens.sum(0), words_of(golden_model, answers[grey]))
        assert regression.count == looked_at * golden_model.token_shape.count
        torch.testing.assert_close(regression.xy, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError):
        solve_projection.regress(golden_model, batches[1:2], 9)


def solve(path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    command = ["solve-projection", "--cfg-path", str(path), "--out", str(out), *words]
    monkeypatch.setattr(sys, "argv", command)
    solve_projection.main()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--pictures", "0"], "--pictures"),
        (["--pictures", "-1"], "--pictures"),
        (["--out", "."], "--out"),
        (["--options", "run.train_splits=[other]"], "other"),
        (["--options", "model.ckpt=/nothing/there.pth"], "/nothing/there.pth"),
    ],
)
def test_what_cannot_be_solved_is_refused_before_the_work(tmp_path, monkeypatch, words, named) -> None:
    write_split(tmp_path / "train", "train", 2, seed=0, samples_per_shard=2)
    path = config(tmp_path / "c.yaml", {"train": f"{tmp_path}/train/00000.tar"}, TINY)
    monkeypatch.setattr(BaseTask, "build_model", lambda *_, **__: pytest.fail("a model is built"))
    with pytest.raises(SystemExit, match=re.escape(named)):
        solve(path, tmp_path / "start.pth", monkeypatch, *words)
    assert not (tmp_path / "start.pth").exists()


@pytest.mark.parametrize(
    "section",
    [
        TINY | {"q_former_model": "random", "freeze_qformer": False},
        {"arch": "minigpt_v2", "model_type": "tiny_gemma"},  # with LoRA
    ],
)
def test_what_else_is_trained_begins_as_it_was_when_the_projection_was_solved(
    tmp_path, monkeypatch, section
) -> None:
    write_split(tmp_path / "train", "train", 2, seed=0, samples_per_shard=2)
    size = 112 if section["arch"] == "minigpt_v2" else 56
    path = config(tmp_path / "c.yaml", {"train": f"{tmp_path}/train/00000.tar"}, section, size)
    built, build = [], BaseTask.build_model
    monkeypatch.setattr(
        BaseTask, "build_model", lambda *args, **kwargs: built.append(build(*args, **kwargs)) or built[0]
    )
    solve(path, tmp_path / "start.pth", monkeypatch)
    torch.manual_seed(7)
    again = type(built[0]).from_config(section | {"ckpt": str(tmp_path / "start.pth")}, "cpu")
    own, loaded = built[0].trainable_state_dict(), again.trainable_state_dict()
    assert own.keys() == loaded.keys() and len(own) > 10
    for key, tensor in own.items():
        assert torch.equal(tensor, loaded[key]), key


def test_the_start_knows_more_than_a_random_one(tmp_path, monkeypatch) -> None:
    """Read by `model.ckpt`, it puts pictures nearest to their own captions' mean words."""
    write_split(tmp_path / "train", "train", 60, seed=0, samples_per_shard=60)
    path = config(tmp_path / "c.yaml", {"train": f"{tmp_path}/train/00000.tar"}, TINY)
    out = tmp_path / "start.pth"
    solve(path, out, monkeypatch)
    section = yaml.safe_load(path.read_text())["model"] | {"ckpt": str(out)}
    model = MiniGPT4.from_config(section, "cpu")
    cfg = load(path)
    (_, splits) = setup_task(cfg).build_datasets(cfg)["cc_sbu"]
    batch = Batch.of(list(read(splits["train"])))
    with torch.no_grad():
        said = model.project(model.vision(batch.images)).mean(1)
        words = torch.stack([words_of(model, answer) for answer in batch.answers])
    said, words = (torch.nn.functional.normalize(x - x.mean(0), dim=1) for x in (said.float(), words.float()))
    similar = said @ words.T
    right = (similar.argmax(1) == torch.arange(len(batch))).float().mean()
    assert right > 0.2  # chance: 0.02
