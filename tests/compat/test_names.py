"""The original's functions and methods, and that the project itself uses none of them."""

import argparse
import ast
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from minigpt4.common import dist_utils, utils
from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.models import load_model, load_model_and_preprocess, load_preprocess
from minigpt4.models.minigpt4 import MiniGPT4
from tests.support import ROOT
from tests.support.golden import golden_model_config

HANDED_ON = {"minigpt4.compat", "minigpt4.common.dist_utils", "minigpt4.common.utils"}
HANDED_ON |= {"minigpt4.conversation.conversation", "minigpt4.common.eval_utils"}
# An outside builder, recognised by what it declares, gets the bridge that it needs.
BRIDGE = "minigpt4/datasets/builders/base_dataset_builder.py"


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{one.name}" for one in node.names)}
    return found


def test_nothing_of_the_project_uses_them() -> None:
    users = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "minigpt4").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        module = name.removesuffix(".py").replace("/", ".")
        if not any(f"{module}.".startswith(f"{one}.") for one in HANDED_ON):
            used = imports_of(path)
            if any(f"{one}.".startswith(f"{other}.") for one in used for other in HANDED_ON):
                users.add(name)
    assert users == {BRIDGE}


def test_ranks_are_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (dist_utils.get_rank(), dist_utils.get_world_size()) == (0, 1)
    assert dist_utils.is_main_process() and not dist_utils.is_dist_avail_and_initialized()
    assert dist_utils.main_process(lambda number: number + 1)(1) == 2
    args = SimpleNamespace()
    dist_utils.init_distributed_mode(args)
    assert vars(args) == {"distributed": False}
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (dist_utils.get_rank(), dist_utils.get_world_size()) == (3, 4)
    assert dist_utils.main_process(lambda number: number + 1)(1) is None


@pytest.mark.integration
@pytest.mark.slow
def test_two_processes_are_connected() -> None:
    code = """
from types import SimpleNamespace
import torch.distributed as dist
from omegaconf import OmegaConf
from minigpt4.common.dist_utils import get_rank, get_world_size, init_distributed_mode, main_process

args, section = SimpleNamespace(device="cpu"), OmegaConf.create({"device": "cpu"})
init_distributed_mode(args)
init_distributed_mode(section)
assert (args.distributed, args.world_size, args.rank, args.gpu) == (True, 2, get_rank(), get_rank())
assert section == {"device": "cpu", "distributed": True, "world_size": 2}
assert (get_world_size(), dist.get_backend()) == (2, "gloo")
dist.barrier()
main_process(print)("said once")
"""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "--no-python", sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("said once") == 1


def test_helpers() -> None:
    assert len(utils.now()) == 11 and utils.now().isdigit()
    assert utils.is_url("HTTPS://example.org/a") and not utils.is_url("/a/http://b")
    assert os.path.isfile(utils.get_abs_path("configs/models/minigpt4_vicuna0.yaml"))
    assert Path(registry.get_path("library_root")) == ROOT / "minigpt4"
    assert Path(registry.get_path("repo_root")) == ROOT
    assert registry.get_path("elsewhere") is None


def test_config_tells_what_it_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: {arch: minigpt4, model_type: tiny_gemma, max_txt_len: 17}\n")
    cfg = Config(argparse.Namespace(cfg_path=path, options=None))
    assert cfg.get_config().model.max_txt_len == 17
    with caplog.at_level(logging.INFO):
        cfg.pretty_print()
    (record,) = caplog.records
    assert yaml.safe_load(record.message.split(":\n", 1)[1])["model"]["max_txt_len"] == 17


def test_models_by_name() -> None:
    model, vis, text = load_model_and_preprocess("minigpt4", "tiny_gemma", is_eval=True)
    assert type(model) is MiniGPT4 and model.device.type == "cpu" and not model.training
    assert vis["train"].name == "blip2_image_train" and vis["eval"].image_size == model.image_size == 56
    assert text["eval"]("A Red (star).") == "a red star"
    with pytest.raises(ConfigError, match=r"model\.llama_model"):
        load_model("minigpt4", "pretrain_vicuna0")


def test_model_by_name_with_a_checkpoint(tmp_path: Path) -> None:
    projection = load_model("minigpt4", "tiny_gemma").llama_proj
    weights = {"llama_proj.weight": projection.weight * 2, "llama_proj.bias": projection.bias + 1}
    path = tmp_path / "a.pth"
    meta = {"embedding_convention": "first_layer_input"}
    torch.save({"model": {key: value.detach() for key, value in weights.items()}, "meta": meta}, path)
    model = load_model("minigpt4", "tiny_gemma", checkpoint=str(path))
    assert model.training and torch.equal(model.llama_proj.bias, weights["llama_proj.bias"])


def test_processors_of_a_section() -> None:
    vis, text = load_preprocess({"vis_processor": {"eval": {"name": "blip2_image_eval", "image_size": 40}}})
    assert (
        vis["eval"].image_size == 40 and vis["train"]("as it is") == text["train"]("as it is") == "as it is"
    )


@pytest.mark.parametrize("device_8bit", [0, 7])
def test_device_8bit_names_the_gpu(device_8bit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    section = golden_model_config(device_8bit=device_8bit, llm_sanity_check=False)
    if not torch.cuda.is_available():
        assert MiniGPT4.from_config(section).device.type in ("cpu", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=f"cuda:{device_8bit}"):
        MiniGPT4.from_config(section)
    assert MiniGPT4.from_config(section, device="cpu").device.type == "cpu"


def test_section_of_an_unknown_model_type_has_no_defaults(caplog: pytest.LogCaptureFixture) -> None:
    section = golden_model_config(model_type="pretrain_vicuna_7b", max_txt_len=21)
    settings = MiniGPT4.settings(section)
    assert (settings.model_type, settings.max_txt_len) == (None, 21)
    assert "pretrain_vicuna_7b" in caplog.text


def test_prompt_wrap_puts_images_into_prompts(golden_model, golden_io) -> None:
    model = golden_model
    images, mask = model.encode_img(golden_io["image"][:2])
    prompts = ["[INST] <Img><ImageHere></Img> what? [/INST]", "<ImageHere>"]
    embeds, attended = model.prompt_wrap(images, mask, prompts)
    for row, prompt in enumerate(prompts):
        length = int(attended[row].sum())
        expected = model.get_context_emb(prompt, [images[row][None]])[0, 1:]  # without BOS
        assert attended[row].tolist() == [1] * length + [0] * (attended.shape[1] - length)
        assert torch.equal(embeds[row, :length], expected)
    assert model.prompt_wrap(images, mask, None) == (images, mask)
    one_for_all, _ = model.prompt_wrap(images, mask, "<ImageHere>")
    assert torch.equal(one_for_all, images)


def test_prompt_wrap_takes_several_images_of_a_sample(golden_model, golden_io) -> None:
    images, mask = golden_model.encode_img(golden_io["image"])
    padded = torch.stack([images[:2], images[1:3]])
    prompts = ["<ImageHere><ImageHere>", "<ImageHere>"]
    embeds, attended = golden_model.prompt_wrap(padded, mask, prompts, lengths=[2, 1])
    count = images.shape[1]
    assert attended.sum(1).tolist() == [2 * count, count]
    assert torch.equal(embeds[0], torch.cat([images[0], images[1]]))
    assert torch.equal(embeds[1, :count], images[1])


def test_maybe_autocast_is_the_language_models_precision(golden_model: Any) -> None:
    left = torch.ones(2, 2)
    with golden_model.maybe_autocast():  # float32 here
        assert (left @ left).dtype == torch.float32
    with golden_model.maybe_autocast(torch.bfloat16):
        assert (left @ left).dtype == torch.bfloat16
