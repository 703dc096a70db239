"""The section `model:`: its types and bounds, and what a model type's defaults mean beside what is set."""

import subprocess
import sys
from argparse import Namespace

import pytest
import yaml

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import parse
from minigpt4.models.model_types import MINIGPT4_TYPES, merge_defaults
from minigpt4.models.settings import ModelSettings, QFormerSettings

VIT = {"model_type": "tiny_gemma", "vit_model": "vit_tiny_patch16_224"}


def settings(**section) -> ModelSettings:
    return parse(ModelSettings, section, "model")


def merged(**section) -> ModelSettings:
    return settings(**merge_defaults(section, MINIGPT4_TYPES))


def test_settings_import_neither_torch_nor_transformers() -> None:
    code = "import sys, minigpt4.models.settings; print({'torch', 'transformers', 'timm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_settings_null_means_what_no_key_means() -> None:
    weights = ("vit_weights", "q_former_model", "llama_model", "ckpt")
    others = ("vit_kwargs", "q_former_kwargs", "prompt_path", "prompt_template", "end_sym", "device_map")
    assert settings(**dict.fromkeys(weights + others)) == settings() == ModelSettings()


def test_settings_sections_and_numbers_are_converted() -> None:
    read = settings(drop_path_rate=0, q_former_kwargs={"hidden_size": 48}, vit_kwargs={"depth": 2})
    assert read.drop_path_rate == 0.0 and isinstance(read.drop_path_rate, float)
    assert read.q_former_kwargs == QFormerSettings(hidden_size=48)
    assert read.vit_kwargs == {"depth": 2}


@pytest.mark.parametrize(
    ("key", "value", "facts"),
    [
        ("has_qformer", "maybe", "'maybe' True or False"),
        ("max_txt_len", "abc", "'abc' whole number"),
        ("num_query_token", 0, "0 at least 1"),
        ("drop_path_rate", 1.5, "1.5 from 0 to 1"),
        ("vit_precision", "fp61", "'fp61' 'fp16' bf16"),
        ("llm_trainable", "half", "'half' frozen, lora, full"),
        ("llm_trainable", "lora", "lora model.lora_r 64"),
        ("lora_target_modules", "q_proj", "'q_proj' list all-linear"),
        ("lora_target_modules", [], "empty"),
        ("ckpt_embedding_convention", "tablerow", "'tablerow' 'table_row' first_layer_input"),
        ("vit_kwargs", 3, "3 mapping"),
        ("q_former_kwargs", {"hiden_size": 3}, "q_former_kwargs.hiden_size 'hidden_size'"),
        ("image_sise", 224, "image_sise 'image_size'"),
        ("features", None, "unknown key model.features"),
    ],
)
def test_settings_refuse_a_wrong_value_by_name(key, value, facts) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**{key: value})
    assert all(fact in str(error.value) for fact in [f"model.{key}", *facts.split()])


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"vit_weights": "random"}, "model.vit_weights random model.freeze_vit True"),
        ({"q_former_model": "random"}, "model.q_former_model random model.freeze_qformer True"),
        ({"llm_trainable": "full", "low_resource": True}, "model.llm_trainable full model.low_resource"),
        ({"llm_trainable": "full", "llm_precision": "4bit"}, "model.llm_trainable full llm_precision: 4bit"),
        ({"llm_trainable": "full", "lora_r": 8}, "model.llm_trainable full model.lora_r 8 adapter"),
        (
            {"llm_trainable": "full", "device_map": "shard"},
            "model.device_map: shard model.llm_trainable full",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_config(keys, facts, tmp_path) -> None:
    """Before anything is imported that takes long."""
    section = {"arch": "minigpt4", "model_type": "tiny_gemma", **keys}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"model": section}))
    with pytest.raises(ConfigError) as error:
        Config(Namespace(cfg_path=path))
    assert all(fact in str(error.value) for fact in facts.split())


def test_merge_defaults_the_user_wins() -> None:
    read = merged(model_type="tiny_gemma", num_query_token=4, q_former_kwargs={"num_hidden_layers": 3})
    assert (read.num_query_token, read.image_size, read.vit_kwargs["embed_dim"]) == (4, 56, 128)
    assert read.q_former_kwargs == QFormerSettings(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        cross_attention_frequency=1,
    )


def test_merge_defaults_of_another_encoder_do_not_leak() -> None:
    """The tiny encoder's sizes and file are nothing to a ViT of timm's; the rest of the type still holds."""
    read = merged(**VIT, vit_kwargs={"depth": 2})
    assert (read.vit_kwargs, read.vit_weights, read.image_size) == ({"depth": 2}, None, 56)
    assert merged(**VIT).vit_kwargs is None
    own = merged(model_type="tiny_gemma", vit_model="eva_clip_g", vit_weights="mine.pth")
    assert (own.vit_kwargs["embed_dim"], own.vit_weights) == (128, "mine.pth")


def test_merge_defaults_twice_changes_nothing() -> None:
    once = merge_defaults({**VIT, "vit_kwargs": None, "ckpt": "a.pth"}, MINIGPT4_TYPES)
    assert merge_defaults(once, MINIGPT4_TYPES) == once


def test_merge_defaults_of_an_unknown_type() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.model_type: unknown 'tiny_gema'.*tiny_gemma.*known: pretrain"
    ):
        merge_defaults({"model_type": "tiny_gema"}, MINIGPT4_TYPES)
    assert merge_defaults({"image_size": 3}, MINIGPT4_TYPES) == {"image_size": 3}
    assert merge_defaults({}, MINIGPT4_TYPES, fallback="tiny_llama")["image_size"] == 56


def test_settings_hold_for_every_model_type() -> None:
    for name in MINIGPT4_TYPES:
        assert merged(model_type=name).model_type == name


def test_the_published_qformer_is_for_eva_alone() -> None:
    """timm's eva_giant is as wide: without this it would be loaded."""
    other = {"vit_model": "eva_giant_patch14_224.clip_ft_in1k", "llama_model": "x"}
    with pytest.raises(
        ConfigError, match=r"model\.q_former_model: .*eva_clip_g.*eva_giant.*has_qformer: False"
    ):
        parse(ModelSettings, other, "model")
    for way_out in ({"has_qformer": False}, {"q_former_model": "mine.pth"}, {"vit_model": "mine:Eva"}):
        assert parse(ModelSettings, other | way_out, "model")
    parse(ModelSettings, other | {"q_former_model": "random", "freeze_qformer": False}, "model")
