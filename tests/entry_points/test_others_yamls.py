"""The YAMLs of the original's MiniGPT-4 and of the Gemma fork run with tiny weights, by `--options`."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from dataset.shapes import make_align
from minigpt4.common.config import plain
from minigpt4.common.registry import registry
from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation
from minigpt4.processors.base_processor import processors_of
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support import TESTS
from tests.support.runs import load, train

# tests/entry_points/test_minigptv2_finetune.py trains on MiniGPT-v2's data sets.
YAMLS = [
    path for path in sorted((TESTS / "original_configs").glob("*.yaml")) if path.stem != "minigptv2_finetune"
]
TINY = "pkg://minigpt4/assets/tiny"
PARTS = (
    *(f"model.vit_weights={TINY}/eva_vit_g.pth", "model.image_size=56"),
    "model.vit_kwargs={patch_size: 7, embed_dim: 128, depth: 4, num_heads: 4, mlp_ratio: 3.0}",
    f"model.q_former_model={TINY}/blip2_tiny.pth",
    "model.q_former_kwargs={hidden_size: 128, num_hidden_layers: 2, num_attention_heads: 4, "
    "intermediate_size: 384, cross_attention_frequency: 1}",
    *("model.num_query_token=8", "model.vit_precision=fp32", "model.llm_precision=fp32"),
    *("model.low_resource=False", "model.llm_sanity_check=False", "model.max_txt_len=160"),
)
RUN = (
    *("run.device=cpu", "run.distributed=False", "run.amp=False", "run.wandb_log=False"),
    *("run.max_epoch=1", "run.iters_per_epoch=2", "run.warmup_steps=1", "run.init_lr=0.001"),
    *("run.num_workers=0", "run.log_freq=1"),
)


@pytest.fixture(scope="module")
def align(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("align")
    make_align.write_folder(folder, "train", 8, seed=0)
    return folder


def language_model(path: Path) -> str:
    """The option that names a tiny language model, by the key that the YAML itself uses."""
    family = "gemma" if "gemma" in path.name else "llama"
    key = "llm_backbone" if "keys" in path.name else "llama_model"
    return f"model.{key}={TINY}/{family}"


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_yaml_builds_trains_two_steps_and_chats(path, shapes, align, tmp_path, undrawn) -> None:
    options = [*PARTS, *RUN, language_model(path), f"run.output_dir={tmp_path}"]
    for dataset in load(path).datasets_cfg:
        storage = align if dataset == "cc_sbu_align" else f"{shapes}/train/00000.tar"
        options += [f"datasets.{dataset}.build_info.storage={{train: '{storage}'}}"]
        options += [
            f"datasets.{dataset}.batch_size=2",
            f"datasets.{dataset}.vis_processor.train.image_size=56",
        ]
    train(load(path, *options, "model.ckpt=null"))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert all(0 < line["loss"] < 20 and math.isfinite(line["loss"]) for line in log)

    cfg = load(path, *options, f"model.ckpt={tmp_path}/checkpoint_latest.pth")
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, device="cpu").eval()
    trained = read_checkpoint(tmp_path / "checkpoint_latest.pth")["model"]
    adapter = {key for key in trained if ".lora_" in key}
    assert trained.keys() - adapter == {"llama_proj.weight", "llama_proj.bias"}
    assert bool(adapter) == ("v2" in path.name)
    assert torch.equal(model.llama_proj.weight, trained["llama_proj.weight"])
    # Gemma ends a turn with <end_of_turn> 5, whatever the fork's `end_sym: "</s>"` says; LLaMA with </s> 2.
    assert (5 if "gemma" in path.name else 2) in model.stop_ids

    chat = Chat(model, processors_of(plain(cfg.datasets_cfg), "train", 56)[0])
    conv, images = Conversation(model.template), []
    chat.upload_img(Image.new("RGB", (90, 70), "red"), conv, images)
    chat.ask("What is this?", conv)
    reply, ids = chat.answer(conv, images, max_new_tokens=4, temperature=0)
    assert 1 <= len(ids) <= 4 and conv.messages[-1] == [conv.roles[1], reply]
