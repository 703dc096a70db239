"""The Gemma fork's names for the language model and its family."""

import logging

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.models import assembly
from minigpt4.models.model_types import MINIGPT4_TYPES, merge_defaults

MODEL = registry.get_model_class("minigpt4")


def settings(**section):
    return MODEL.settings({"model_type": "pretrain_gemma"} | section)


@pytest.mark.parametrize(
    "name", ["/path/of/gemma-2b-it", "./weight/gemma", "google/gemma-7b-it", "..\\gemma"]
)
def test_a_backbone_that_is_a_path_is_the_language_model(name, caplog) -> None:
    caplog.set_level(logging.INFO)
    read = settings(llm_backbone=name, llm_type="gemma")
    assert (read.llama_model, read.llm_backbone, read.llm_type) == (name, "gemma", None)
    (line,) = caplog.messages
    assert repr(name) in line and "model.llama_model" in line and "'gemma'" in line


def test_a_folder_without_a_slash_is_one_too_but_a_family_is_a_family(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gemma-2b-it", "gemma"):
        (tmp_path / name).mkdir()
    assert settings(llm_backbone="gemma-2b-it").llama_model == "gemma-2b-it"
    assert settings(llm_backbone="gemma").llama_model == "google/gemma-2b-it"


def test_the_family_alone() -> None:
    assert settings(llm_type="llama").llm_backbone == "llama"
    assert settings(llm_type="llama", llm_backbone="llama").llm_backbone == "llama"
    assert settings(llm_type=None).llm_backbone == "gemma"
    # Without one, the model type's holds.
    assert settings(llm_backbone="a/b").llm_backbone == "gemma"
    assert MODEL.settings({"llm_backbone": "a/b"}).llm_backbone == "auto"


def test_translating_twice_changes_nothing(caplog) -> None:
    caplog.set_level(logging.INFO)
    section = {"model_type": "pretrain_gemma", "llm_backbone": "a/b", "llm_type": "llama"}
    once = merge_defaults(section, MINIGPT4_TYPES)
    assert merge_defaults(once, MINIGPT4_TYPES) == once
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("section", "facts"),
    [
        ({"llm_backbone": "gema"}, "model.llm_backbone: 'gema' 'gemma' llama"),
        ({"llm_type": "gema", "llm_backbone": "a/b"}, "model.llm_type: 'gema' 'gemma' llama"),
        ({"llm_type": 3}, "model.llm_type: '3' gemma"),
        ({"llm_backbone": "no_such_module:Family"}, "model.llm_backbone: 'no_such_module'"),
        ({"llm_type": "gemma", "llm_backbone": "llama"}, "model.llm_type 'gemma' model.llm_backbone 'llama'"),
        ({"llm_backbone": "a/b", "llama_model": "c/d"}, "model.llm_backbone model.llama_model 'a/b' 'c/d'"),
    ],
)
def test_what_is_mistyped_is_told_before_anything_is_fetched_or_built(section, facts, monkeypatch) -> None:
    for name in ("weight_sources", "build_vision", "build_language"):
        monkeypatch.setattr(assembly, name, lambda *_: pytest.fail("too late"))
    for use in (MODEL.from_config, MODEL.weight_sources):
        with pytest.raises(ConfigError) as error:
            use({"model_type": "pretrain_gemma"} | section)
        assert all(fact in str(error.value) for fact in facts.split())


def test_a_section_of_minigpt4_video_is_minigpt_v2_at_224_with_lora() -> None:
    section = {
        **{"arch": "mini_gpt4_llama_v2", "model_type": "minigpt4_video", "architectures": ["MiniGPT4_Video"]},
        **{"img_size": 224, "image_size": 224, "length": 50, "token_pooling": True, "remove_template": False},
        **{"torch_dtype": "float32", "device": "cuda", "lora_r": 16, "llama_model": "a/b", "end_sym": "</s>"},
        **{"chat_template": True, "max_context_len": 7200, "num_query_token": 32, "prompt_path": ""},
    }
    model = registry.get_model_class("mini_gpt4_llama_v2")
    assert model is registry.get_model_class("minigpt_v2")
    read = model.settings(section)
    assert (read.arch, read.model_type, read.llama_model) == ("minigpt_v2", "video", "a/b")
    assert (read.image_size, read.has_qformer, read.patches_per_token) == (224, False, 4)
    assert (read.lora_r, read.lora_target_modules) == (16, ["q_proj", "v_proj"])
    assert read.prompt_template == "[INST] {}[/INST]"
    for model_type in ({}, {"model_type": "pretrain_vicuna"}):
        read = model.settings({"arch": "mini_gpt4_llama_v2", "token_pooling": False, **model_type})
        assert (read.model_type, read.lora_r, read.patches_per_token) == ("video", 64, 1)
    with pytest.raises(ConfigError, match=r"model\.token_pooling is 'no', it must be true or false"):
        model.settings({"arch": "mini_gpt4_llama_v2", "token_pooling": "no"})
