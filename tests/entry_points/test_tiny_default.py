"""The embedded default: what ships, what its language models are given, and that stage 1 works with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import minigpt4
from dataset.shapes.make_shards import write_split
from minigpt4.commands import evaluate
from minigpt4.common.config import load_yaml, plain
from minigpt4.common.registry import registry
from minigpt4.conversation.messages import Conversation
from minigpt4.prompts.encoder import IMAGE_ID, PromptEncoder
from minigpt4.prompts.templates import GEMMA, IMAGE_TURN, LLAMA2, PromptTemplate
from minigpt4.weights.resolver import read_tensors
from tests.support import ROOT
from tests.support.prompts import answer_ids, prompt_ids

TINY = ROOT / "minigpt4" / "assets" / "tiny"
IMAGE = [IMAGE_ID] * 8


def build(family: str, **overrides) -> torch.nn.Module:
    model_class = registry.get_model_class("minigpt4")
    config = plain(load_yaml(model_class.default_config_path(f"tiny_{family}")).model)
    return model_class.from_config(config | overrides, device="cpu")


def test_it_is_small_and_laid_out_like_the_published_files() -> None:
    assert sum(p.stat().st_size for p in TINY.rglob("*")) < 12_500_000
    encoder = read_tensors(TINY / "eva_vit_g.pth")
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.3.attn.q_bias"} <= encoder.keys()
    qformer = read_tensors(TINY / "blip2_tiny.pth")["model"]
    assert {
        "query_tokens",
        "ln_vision.weight",
        "Qformer.bert.encoder.layer.0.crossattention.self.query.weight",
    } <= (qformer.keys())
    for family in ("llama", "gemma"):
        config = json.loads((TINY / family / "config.json").read_text())
        assert config["model_type"] == family
        assert "model.embed_tokens.weight" in load_file(TINY / family / "model.safetensors")


def encoder_for(family: str, bos: int, template: PromptTemplate) -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(TINY / family), bos, 8, template, 32, 200)


def test_what_gemma_is_given() -> None:
    """`<bos>` 2, `<start_of_turn>` 4, `<end_of_turn>` 5, newline 16, user 307, model 308."""
    gemma = encoder_for("gemma", 2, GEMMA)
    assert prompt_ids(gemma, "<ImageHere>") == [2, *IMAGE]
    assert answer_ids(gemma, "a star") == [547, 333, 5]
    dialogue = Conversation(GEMMA)
    dialogue.append_message(dialogue.roles[0], f"{IMAGE_TURN}a star")
    dialogue.append_message(dialogue.roles[1], None)
    first = [2, 4, 307, 16, 277, *IMAGE, 309, 269, 333, 5, 16, 4, 308, 16]
    assert prompt_ids(gemma, dialogue.dialogue()) == first
    assert prompt_ids(gemma, GEMMA.turn(f"{IMAGE_TURN}a star")) == first
    dialogue.messages[-1][1] = "star"
    dialogue.append_message(dialogue.roles[0], "a star")
    dialogue.append_message(dialogue.roles[1], None)
    star = answer_ids(gemma, "star")[:-1]
    again = [5, 16, 4, 307, 16, *answer_ids(gemma, "a star"), 16, 4, 308, 16]
    assert prompt_ids(gemma, dialogue.dialogue()) == [*first, *star, *again]


def test_what_llama_is_given() -> None:
    """`<s>` 1, `</s>` 2, "▁[INST]" 312, "▁</Img>" 311, "▁a" 259, "▁star" 333."""
    llama = encoder_for("llama", 1, LLAMA2)
    assert prompt_ids(llama, "<ImageHere>") == [1, *IMAGE]
    assert answer_ids(llama, "a star") == [259, 333, 2]
    ids = prompt_ids(llama, LLAMA2.turn(f"{IMAGE_TURN}a star"))
    assert ids[:2] == [1, 312]
    assert ids[ids.index(IMAGE_ID) :][:11] == [*IMAGE, 311, 259, 333]
    dialogue = Conversation(LLAMA2)
    for message in ("a star", "a star", "a star", None):
        dialogue.append_message(dialogue.roles[len(dialogue.messages) % 2], message)
    # "▁[/INST]" 313 and its last space 545, which stays a token by itself before a reply, as in training.
    turn = [1, 312, 259, 333, 313, 545]
    assert prompt_ids(llama, dialogue.dialogue()) == [*turn, 259, 333, 2, *turn]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_text_as_ids_and_as_embeddings_gives_the_same_logits(family: str) -> None:
    """So image embeddings beside text embeddings are what the first layer sees (Gemma's factor too)."""
    model = build(family, llm_precision="fp32")
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        as_ids = model.llama_model(input_ids=ids).logits
        as_embeddings = model.llama_model(inputs_embeds=model.embed_tokens(ids)).logits
    assert torch.equal(as_ids, as_embeddings)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_what_ships_answers_the_example_questions(family: str) -> None:
    """About one picture and about the right one of two, with the projection that ships."""
    model = minigpt4.load(ROOT / f"eval_configs/minigpt4_tiny_{family}_eval.yaml", device="cpu")
    examples = json.loads((TINY / "examples" / "examples.json").read_text())
    assert sorted(len(example["images"]) for example in examples) == [1, 1, 1, 2, 2]
    mistakes = []
    for example in examples:
        chat, images = model.start_chat(), [TINY / "examples" / name for name in example["images"]]
        for question, answer in zip(example["questions"], example["answers"], strict=True):
            said = chat.ask(question, images=images, temperature=0)
            mistakes += [] if said == answer else [(question, said)]
            images = []
    assert mistakes == []


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_split(folder / "train", "train", 2000, seed=0, samples_per_shard=1000)
    write_split(folder / "test", "test", 120, seed=0, samples_per_shard=120)
    return folder


def evaluated(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> dict[str, Any]:
    """What evaluate.py leaves."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", *words, "--out", str(out)])
    evaluate.main()
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("family", "steps"),
    [
        ("gemma", 120),
        pytest.param("gemma", 300, marks=pytest.mark.slow),
        pytest.param("llama", 300, marks=pytest.mark.slow),
    ],
)
def test_stage1_reads_held_out_scenes(family, steps, shapes, tmp_path, monkeypatch) -> None:
    """train.py, then evaluate.py on what it left: the README's commands, shorter."""
    train_config = f"train_configs/minigpt4_tiny_{family}_stage1_pretrain.yaml"
    storage = f"{{train: '{shapes}/train/{{00000..00001}}.tar', test: '{shapes}/test/00000.tar'}}"
    train = [sys.executable, "train.py", "--cfg-path", train_config, "--options"]
    train += [f"run.output_dir={tmp_path}/job", f"run.iters_per_epoch={steps // 3}"]
    train += [f"datasets.cc_sbu.build_info.storage={storage}"]
    done = subprocess.run(train, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exact match two objects" in done.stdout
    assert f"minigpt4 chat --cfg-path {train_config}" in done.stdout
    report = json.loads((tmp_path / "job" / "report.json").read_text())
    assert report["before"]["exact_match"] <= 0.02
    assert report["exact_match_one_object"] >= 0.95
    assert report["exact_match_two_objects"] >= 0.75
    assert report["trainable_parameters"] == 128 * 128 + 128

    words = ["--cfg-path", f"eval_configs/minigpt4_tiny_{family}_eval.yaml", "--limit", "50"]
    words += ["--shards", f"{shapes}/test/{{00000..00000}}.tar"]
    words += ["--options", f"model.ckpt={tmp_path}/job/checkpoint_latest.pth"]
    monkeypatch.chdir(ROOT)
    seen = evaluated(monkeypatch, tmp_path / "seen.json", *words)
    shuffled = evaluated(monkeypatch, tmp_path / "shuffled.json", *words, "--shuffled", "--batch-size", "25")
    assert seen["samples"] == len(seen["records"]) == 50
    assert [r["image_id"] for r in seen["records"]] == [f"{i:09d}" for i in range(50)]
    assert seen["exact_match"] == sum(r["prediction"] == r["truth"] for r in seen["records"]) / 50 >= 0.8
    assert shuffled["loss"] > seen["loss"] + 1
    assert shuffled["exact_match"] == 0
