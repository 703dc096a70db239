"""Descriptions of exported models; a folder may be anybody's."""

import json

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.common.exported import read_description, write_description

MODEL = {"arch": "minigpt4", "vit_model": "eva_clip_g", "llm_backbone": "auto", "has_qformer": False}


def test_description_becomes_sections_with_the_folders_files(tmp_path) -> None:
    write_description(
        tmp_path, {**MODEL, "ckpt": "/elsewhere", "image_size": 56}, {"image_size": 56, "name": "x"}
    )
    sections = read_description(tmp_path)
    assert sections.model.ckpt == str(tmp_path / "projection.safetensors")
    assert sections.model.llama_model == str(tmp_path)
    assert sections.model.q_former_model is None
    assert sections.datasets.cc_sbu.vis_processor.train == {"name": "blip2_image_eval", "image_size": 56}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"vit_model": "os:system"}, "image_processor": {}}, "a folder cannot name a class"),
        (
            {"model": {"vit_kwargs": {"checkpoint_path": "/etc/passwd"}}, "image_processor": {}},
            "vit_kwargs has checkpoint_path: a folder cannot name a file",
        ),
        ({"model": {"arch": "os:system"}, "image_processor": {}}, "a folder cannot name a class"),
        ({"model": {"ckpt": "/etc/passwd"}, "image_processor": {}}, "unknown key 'ckpt'"),
        ({"model": {"end_sym": "${oc.env:HOME}"}, "image_processor": {}}, r"\$\{\.\.\.\} is not read"),
        ({"model": {}}, "must hold `model` and `image_processor`"),
        ([], "must hold `model` and `image_processor`"),
    ],
)
def test_description_that_names_more_than_an_export_does_is_refused(content, message, tmp_path) -> None:
    (tmp_path / "minigpt4.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        read_description(tmp_path)


def test_damaged_description_is_one_line(tmp_path) -> None:
    (tmp_path / "minigpt4.json").write_text("{")
    with pytest.raises(ConfigError, match=r"minigpt4\.json could not be read \(JSONDecodeError"):
        read_description(tmp_path)
