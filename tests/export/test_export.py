"""Exported folders, read by transformers and by this package."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import minigpt4
from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.export.__main__ import write
from tests.support import GOLDEN, ROOT
from tests.support.exports import CLOSE, PICTURES, QUESTION, compare, expected, export_tiny, replies
from tests.support.families import save_model
from tests.support.stock import ask


@pytest.mark.parametrize("llm", ["gemma", "llama"])
@pytest.mark.integration
def test_blip2_folder_answers_alike_where_this_package_is_not_imported(llm, stock, models) -> None:
    answer = stock[f"{llm}-blip2"]
    assert answer["class"] == "Blip2ForConditionalGeneration"
    compare(answer, models[llm])
    assert len({*answer["piped"]}) == 4


@pytest.mark.parametrize("llm", ["gemma", "llama"])
def test_llava_folder_answers_alike_with_the_registered_tower(llm, folders, models) -> None:
    answer = ask(str(folders / f"{llm}-llava"), PICTURES)
    assert answer["class"] == "LlavaForConditionalGeneration"
    compare(answer, models[llm])


@pytest.mark.parametrize("form", ["blip2", "llava"])
@pytest.mark.parametrize("llm", ["gemma", "llama"])
def test_load_reads_a_folder_back(llm, form, folders, models) -> None:
    model = minigpt4.load(folders / f"{llm}-{form}", "cpu")
    own = models[llm].model
    assert model.model.template == own.template
    assert model.model.stop_ids == own.stop_ids
    pixels = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.model.project(model.model.vision(pixels)), own.project(own.vision(pixels)))
    assert replies(model) == replies(models[llm])


def test_folder_has_what_others_need_and_no_path_of_this_machine(folders) -> None:
    folder = folders / "gemma-blip2"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "language.safetensors",
        "minigpt4.json",
        "model.safetensors.index.json",
        "processor_config.json",
        "projection.safetensors",
        "qformer.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vision.safetensors",
    ]
    for path in folder.glob("*.json"):
        assert str(ROOT) not in path.read_text(encoding="utf-8"), path
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {name: file for file in {*index["weight_map"].values()} for name in load_file(folder / file)}
    assert len(tensors) == len(index["weight_map"])
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [640]


def without_qformer(tmp_path: Path, **model: Any) -> Config:
    """A convolutional network of timm with seeded weights, four patches a token, the golden LLaMA."""
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    section = {
        "arch": "minigpt4",
        "vit_model": "resnet10t",
        "vit_weights": str(tmp_path / "resnet.pth"),
        "vit_precision": "fp32",
        "image_size": 128,
        "has_qformer": False,
        "llama_model": str(GOLDEN / "llm"),
        "llm_precision": "fp32",
        "ckpt": str(tmp_path / "projection.pth"),
        "prompt_path": str(ROOT / "prompts/alignment.txt"),
    } | model
    processor = {"train": {"name": "blip2_image_eval", "image_size": 128}}
    content = {"model": section, "datasets": {"cc_sbu": {"vis_processor": processor}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    weight = {"llama_proj.weight": torch.randn(64, 4 * 512) / 50, "llama_proj.bias": torch.randn(64)}
    torch.save({"model": weight}, tmp_path / "projection.pth")
    return Config(Namespace(cfg_path=str(tmp_path / "mine.yaml")))


def test_convolutional_tower_without_qformer_is_exported_as_llava(tmp_path) -> None:
    cfg = without_qformer(tmp_path)
    assert write(cfg, tmp_path / "out", None) == "llava"
    original, back = minigpt4.load(tmp_path / "mine.yaml", "cpu"), minigpt4.load(tmp_path / "out", "cpu")
    compared = ask(str(tmp_path / "out"), PICTURES, most=4, piped=False)
    for theirs, own, again in zip(compared["answers"], expected(original), expected(back), strict=True):
        vocabulary = len(own["logits"])
        torch.testing.assert_close(theirs["logits"][:vocabulary], own["logits"], rtol=0, atol=CLOSE)
        torch.testing.assert_close(again["logits"][:vocabulary], own["logits"], rtol=0, atol=1e-5)
    assert back.model.prompt_list == original.model.prompt_list


def test_adapters_are_merged_into_the_language_model(tmp_path) -> None:
    cfg = without_qformer(tmp_path, arch="minigpt_v2", lora_r=2, prompt_path=None, prompt_template=None)
    model = minigpt4.load(tmp_path / "mine.yaml", "cpu", ["model.ckpt=null"])
    torch.manual_seed(1)
    state = {
        name: torch.randn_like(tensor) / 8 for name, tensor in model.model.trainable_state_dict().items()
    }
    assert any("lora_B" in name for name in state)
    torch.save({"model": state}, tmp_path / "projection.pth")
    assert write(cfg, tmp_path / "out", None) == "llava"
    original, back = minigpt4.load(tmp_path / "mine.yaml", "cpu"), minigpt4.load(tmp_path / "out", "cpu")
    assert back.model.language.lora is None
    without = minigpt4.load(tmp_path / "out", "cpu", [f"model.llama_model={GOLDEN / 'llm'}"])
    for own, again, bare in zip(*map(expected, (original, back, without)), strict=True):
        vocabulary = len(own["logits"])
        torch.testing.assert_close(again["logits"][:vocabulary], own["logits"], rtol=0, atol=CLOSE)
        assert (bare["logits"] - own["logits"]).abs().max() > 0.1


def test_blip2_form_refuses_another_tower(tmp_path) -> None:
    with pytest.raises(ConfigError, match="--format blip2 is for models with eva_clip_g and a Q-Former"):
        write(without_qformer(tmp_path), tmp_path / "out", "blip2")
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


def test_llava_form_refuses_capped_logits(tmp_path) -> None:
    llm = save_model(tmp_path / "gemma2", "gemma2", final_logit_softcapping=0.1)
    with pytest.raises(ConfigError, match="gemma2 is more than a decoder and a matrix"):
        write(
            without_qformer(tmp_path, llama_model=str(llm), ckpt_embedding_convention="first_layer_input"),
            tmp_path / "out",
            None,
        )


def test_export_refuses_a_model_that_was_not_trained(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"model\.ckpt is not set"):
        export_tiny("gemma", tmp_path / "out", None, "model.ckpt=null")


def test_sixteen_bits_are_written_as_the_yaml_says(tmp_path) -> None:
    options = ["model.llm_precision=bf16", "model.vit_precision=fp16"]
    export_tiny("gemma", tmp_path / "out", None, *options)
    dtypes = {
        path.stem: {str(tensor.dtype) for tensor in load_file(path).values()}
        for path in (tmp_path / "out").glob("*.safetensors")
    }
    assert dtypes == {
        "vision": {"torch.float16"},
        "qformer": {"torch.float32"},
        "projection": {"torch.float32"},
        "language": {"torch.bfloat16"},
    }
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16


def test_export_is_a_model_type_to_train_on_from(folders, tmp_path) -> None:
    content = {"model": {"arch": "minigpt4", "model_type": str(folders / "gemma-blip2"), "max_txt_len": 9}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    settings = Config(Namespace(cfg_path=str(tmp_path / "mine.yaml"))).model_settings()
    assert settings.max_txt_len == 9
    assert settings.llama_model == str(folders / "gemma-blip2")
    assert settings.ckpt == str(folders / "gemma-blip2/projection.safetensors")
    assert settings.vit_kwargs["patch_size"] == 7


def test_supervised_finetuning_of_trl_takes_four_steps(folders, tmp_path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    folder = folders / "gemma-llava"
    said = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "a small red star"}]
    rows = datasets.Dataset.from_list([{"images": [PICTURES[0]], "messages": said}] * 8)
    trainer = trl.SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder),
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            logging_steps=1,
            max_length=None,
            assistant_only_loss=True,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
        ),
        train_dataset=rows.cast_column("images", datasets.List(datasets.Image())),
        processing_class=AutoProcessor.from_pretrained(folder),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 2
