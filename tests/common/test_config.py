"""Config files and `--options`: what is merged over what, and what a typo is answered with."""

import re
import subprocess
import sys
from argparse import Namespace

import pytest

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError, UserError
from minigpt4.common.schema import parse
from minigpt4.datasets.builders import build_datasets
from minigpt4.processors.base_processor import processors_of
from minigpt4.runners.settings import RunSettings
from tests.support import ROOT
from tests.support.golden import build_golden_model
from tests.support.shards import write_good

RUN = {
    "task": "image_text_pretrain",
    "max_epoch": 1,
    "iters_per_epoch": 1,
    "init_lr": 1.0e-4,
    "output_dir": "o",
}
VIS = {"train": {"name": "blip2_image_train", "image_size": 8}}


def config(tmp_path, text: str, *options: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return Config(Namespace(cfg_path=str(path), options=list(options)))


def datasets(**entry) -> dict:
    return {"cc_sbu": {"build_info": {"storage": "x"}, "batch_size": 2, "vis_processor": VIS} | entry}


@pytest.mark.parametrize(
    ("wrong", "right", "build"),
    [
        ("model.lama_model", "llama_model", lambda: build_golden_model(lama_model="x")),
        ("model.freeze_vitt", "freeze_vit", lambda: build_golden_model(freeze_vitt=True)),
        (
            "model.q_former_kwargs.hidden_sise",
            "hidden_size",
            lambda: build_golden_model(q_former_kwargs={"hidden_sise": 48}),
        ),
        ("run.init_lrr", "init_lr", lambda: parse(RunSettings, RUN | {"init_lrr": 1}, "run")),
        ("run.warmup_step", "warmup_steps", lambda: parse(RunSettings, RUN | {"warmup_step": 1}, "run")),
        ("datasets.cc_sbu.batchsize", "batch_size", lambda: build_datasets(datasets(batchsize=1))),
        (
            "datasets.cc_sbu.build_info.storge",
            "storage",
            lambda: build_datasets(datasets(build_info={"storge": "x"})),
        ),
        (
            "datasets.cc_sbu.vis_processor.train.image_sise",
            "image_size",
            lambda: processors_of(
                datasets(vis_processor={"train": VIS["train"] | {"image_sise": 1}}), "train"
            ),
        ),
        (
            "datasets.cc_sbu.text_processor.train.max_word",
            "max_words",
            lambda: processors_of(
                datasets(text_processor={"train": {"name": "blip_caption", "max_word": 1}}), "train"
            ),
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(wrong, right, build) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"unknown key {wrong}; did you mean '{right}'? (known: ")
    ):
        build()


def test_an_unknown_key_of_vit_kwargs() -> None:
    with pytest.raises(ConfigError, match=r"unknown key model\.vit_kwargs\.embed_dims.*embed_dim\b"):
        build_golden_model(vit_kwargs={"embed_dims": 64})


def test_an_unknown_section(tmp_path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown section 'modell'; did you mean 'model'\? \(known: model,"
    ):
        config(tmp_path, "modell:\n  arch: minigpt4\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  arch: minigtp4\n", "no model is called 'minigtp4'; did you mean 'minigpt4'?"),
        (
            "model:\n  arch: minigpt4\n  model_type: pretrain_vicuna\n",
            "model.model_type: unknown 'pretrain_vicuna'; did you mean 'pretrain_vicuna0'?",
        ),
        ("model:\n  model_type: pretrain_vicuna0\n", "model.arch is missing"),
        ("datasets:\n  cc_sbuu: {}\n", "no builder is called 'cc_sbuu'; did you mean 'cc_sbu'?"),
        ("run:\n  taks: x\n", "unknown key run.taks; did you mean 'task'?"),
        ("run:\n  task: image_text_pretrian\n", "run.task: no task is called 'image_text_pretrian'; did you"),
        ("run:\n  runner: runner\n", "run.runner: no runner is called 'runner'; did you mean 'runner_base'?"),
        ("run:\n  seed: 1.5\n", "run.seed is 1.5, it must be a whole number"),
        (
            "model:\n  arch: minigpt4\n  has_qformer: maybe\n",
            "model.has_qformer is 'maybe', it must be",
        ),
        (
            "model:\n  arch: minigpt4\n  image_sise: 8\n",
            "model.image_sise; did you mean 'image_size'?",
        ),
        (
            "evaluation_datasets:\n  okvqaa: {}\n",
            "evaluation_datasets.okvqaa; did you mean 'okvqa'?",
        ),
        (
            "evaluation_datasets:\n  gqa:\n    batchsize: 1\n",
            "unknown key evaluation_datasets.gqa.batchsize; did you mean 'batch_size'?",
        ),
        ("run: fast\n", "run is 'fast', it must be a mapping of keys to values"),
        ("datasets:\n  cc_sbu: data/0.tar\n", "datasets.cc_sbu is 'data/0.tar', it must be a mapping"),
    ],
)
def test_names_and_sections_are_checked_when_the_yaml_is_read(tmp_path, text, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(tmp_path, text)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"batch_size": 0}, "datasets.cc_sbu.batch_size is 0"),
        ({"data_type": "video"}, "datasets.cc_sbu.data_type is 'video'"),
        ({"name": "laion"}, "unknown key datasets.cc_sbu.name"),
        ({"vis_processor": None}, "datasets.cc_sbu.vis_processor.train is missing"),
        (
            {"vis_processor": {"trian": VIS["train"]}},
            "vis_processor.train is missing; did you mean 'trian'? (there: trian)",
        ),
        ({"vis_processor": {"train": {"image_size": 8}}}, "vis_processor.train.name is missing (known: blip"),
        ({"vis_processor": {"train": "blip2"}}, "vis_processor.train is 'blip2', it must be a mapping"),
        (
            {"vis_processor": {"train": {"name": "blip_caption"}}},
            "BlipCaptionProcessor is not an image processor",
        ),
        (
            {"vis_processor": {"train": VIS["train"] | {"mean": 0.5}}},
            "vis_processor.train.mean is 0.5, it must be a list of numbers or null",
        ),
        (
            {"vis_processor": {"train": VIS["train"] | {"std": [1, 1]}}},
            "std is [1.0, 1.0], it must be three numbers",
        ),
        (
            {"vis_processor": {"train": VIS["train"] | {"image_size": "8"}}},
            "vis_processor.train.image_size is '8', it must be a whole number",
        ),
        (
            {"vis_processor": {"train": {"name": "blip2_image_trian"}}},
            "no processor is called 'blip2_image_trian'; did you mean 'blip2_image_train'?",
        ),
    ],
)
def test_an_entry_of_datasets_that_cannot_be_used(tmp_path, entry, message) -> None:
    (shard,) = write_good(tmp_path, 1, 1)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_datasets(datasets(**{"build_info": {"storage": shard}} | entry))


MODEL = "model:\n  arch: minigpt4\n  model_type: pretrain_llama2\n"


def test_merge_order(tmp_path) -> None:
    """A model type's default < a dataset's default < the user's YAML < --options."""
    default = config(tmp_path, MODEL)
    assert default.model_cfg.end_sym == "</s>"
    assert default.model_cfg.image_size == 224

    text = MODEL + "  end_sym: '##'\ndatasets:\n  cc_sbu:\n    batch_size: 2\nrun:\n  seed: 1\n"
    user = config(tmp_path, text)
    assert (user.model_cfg.end_sym, user.model_cfg.image_size) == ("##", 224)
    assert user.datasets_cfg.cc_sbu.batch_size == 2
    assert user.datasets_cfg.cc_sbu.build_info.storage == "/path/to/cc_sbu_dataset/{00000..01255}.tar"

    told = config(
        tmp_path,
        text,
        "model.end_sym=x",
        "run.seed=2",
        "datasets.cc_sbu.build_info.storage=a.tar",
        "run.init_lr=1e-5",
    )
    assert told.model_cfg.end_sym == "x"
    assert (told.run_cfg.seed, told.run_cfg.init_lr) == (2, 1e-5)
    assert told.datasets_cfg.cc_sbu.build_info.storage == "a.tar"
    assert told.datasets_cfg.cc_sbu.data_type == "images"


def test_options_choose_the_model_type_before_its_defaults_are_read(tmp_path) -> None:
    chosen = config(tmp_path, MODEL, "model.model_type=pretrain_vicuna0")
    assert chosen.model_cfg.end_sym == "###"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["run.seed=1", "run.device=cpu"], {"seed": 1, "device": "cpu"}),
        (["run.seed", "1", "run.device", "cpu"], {"seed": 1, "device": "cpu"}),
        (["run.job_name=a=b"], {"job_name": "a=b"}),
        (["run.test_splits=[val,test]"], {"test_splits": ["val", "test"]}),
        (["run.device=null"], {"device": None}),
        (["run.job_name=###"], {"job_name": "###"}),
        (["run.job_name=[INST] {} [/INST] "], {"job_name": "[INST] {} [/INST] "}),
        (["run.job_name=set #1/{0..9}.tar"], {"job_name": "set #1/{0..9}.tar"}),
        (["run.job_name=Q: {} A: "], {"job_name": "Q: {} A: "}),
        (["run.job_name='a b '"], {"job_name": "a b "}),
        ([], {}),
    ],
)
def test_forms_of_options(tmp_path, options, expected) -> None:
    assert config(tmp_path, "", *options).run_cfg == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run.seed=1", "run.device", "cpu"], "--options wants key=value, found 'run.device'"),
        (["run.seed", "1", "run.device"], "--options wants key=value pairs, found 'run.seed 1 run.device'"),
        (["run.seed"], "--options wants key=value pairs, found 'run.seed'"),
        (["run.test_splits=[val"], "run.test_splits is '[val', it must be a list of names"),
        (["rnu.seed=1"], "unknown section 'rnu'; did you mean 'run'?"),
        (["run=1"], "run is 1, it must be a mapping"),
        (["run.job_name.x=1", "run.job_name=[1]"], "--options run.job_name=[1]: cannot be merged"),
    ],
)
def test_bad_forms_of_options(tmp_path, options, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(tmp_path, "", *options)


@pytest.mark.parametrize(
    ("section", "facts"),
    [
        (
            "model:\n  arch: minigpt4\n  model_type: tiny_gemma\n  vit_kwargs: [1]\n",
            "model: cannot be merged",
        ),
        ("datasets:\n  cc_sbu:\n    build_info: [1]\n", "datasets.cc_sbu: cannot be merged"),
    ],
)
def test_a_list_where_the_defaults_have_a_mapping(tmp_path, section, facts) -> None:
    with pytest.raises(ConfigError, match=re.escape(facts)):
        config(tmp_path, section)


def test_a_missing_yaml_names_the_nearest_file(tmp_path) -> None:
    (tmp_path / "minigpt4_stage1.yaml").write_text("")
    with pytest.raises(
        ConfigError, match=r"no config file .*stage_1.yaml; did you mean 'minigpt4_stage1.yaml'\?"
    ):
        Config(Namespace(cfg_path=str(tmp_path / "minigpt4_stage_1.yaml")))
    with pytest.raises(ConfigError, match=r"no config file .*x.yaml$"):
        Config(Namespace(cfg_path=str(tmp_path / "nowhere" / "x.yaml")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1", "is not valid YAML: while parsing a flow sequence"),
        ("model:\n\tarch: minigpt4", "is not valid YAML: while scanning"),
        ("run: {}\nrun: {}", "is not valid YAML: while constructing a mapping"),
        ("3", "is not valid YAML"),
        ("- 1\n- 2", "must hold a mapping with the sections model, datasets, run"),
        ("1: 2", "unknown section 1 (known: model,"),
    ],
)
def test_what_is_no_config(tmp_path, text, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(tmp_path, text)


def test_an_interpolation_that_leads_nowhere(tmp_path) -> None:
    with pytest.raises(UserError, match="Interpolation key 'nowhere' not found"):
        config(tmp_path, "run:\n  output_dir: ${nowhere}/x\n")
    whole = config(tmp_path, "run:\n  job_name: x\n  output_dir: out/${run.job_name}\n")
    assert whole.to_dict() == {"run": {"job_name": "x", "output_dir": "out/x"}}


def test_empty_sections_are_as_good_as_none(tmp_path) -> None:
    empty = config(tmp_path, "model:\ndatasets:\nrun:\n")
    assert empty.to_dict() == {}
    assert (empty.run_cfg, empty.model_cfg, empty.datasets_cfg, empty.evaluation_datasets_cfg) == (
        {},
        {},
        {},
        {},
    )
    with pytest.raises(ConfigError, match="the section `datasets` is missing or empty"):
        build_datasets(empty.datasets_cfg)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("option", "facts"),
    [
        ("run.max_epochs=1", ("run.max_epochs", "'max_epoch'")),
        ("run.task=image_text_pretrian", ("run.task", "'image_text_pretrain'")),
        ("run.lr_sched=linear_warmup_cosine", ("run.lr_sched", "'linear_warmup_cosine_lr'")),
        ("model.max_text_len=8", ("model.max_text_len", "'max_txt_len'")),
        ("model.model_type=tiny_gema", ("model.model_type", "'tiny_gemma'")),
        ("datasets.cc_sbu.batchsize=8", ("datasets.cc_sbu.batchsize", "'batch_size'")),
        ("datasets.cc_sbu.batch_size=1.5", ("datasets.cc_sbu.batch_size", "1.5", "whole number")),
        ("datasets.cc_sbuu.batch_size=8", ("'cc_sbuu'", "'cc_sbu'")),
        ("datasets.cc_sbu.vis_processor.train.image_sise=8", ("train.image_sise", "'image_size'")),
        ("datasets.cc_sbu.vis_processor.train.name=blip2", ("'blip2'", "blip2_image_train")),
    ],
)
def test_train_ends_for_a_bad_config_before_anything_heavy_is_imported(option, facts) -> None:
    yaml = "train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml"
    command = [sys.executable, "-X", "importtime", "train.py", "--cfg-path", yaml, "--options", option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 1
    assert all(fact in message for fact in facts), message
    assert not re.search(r"\| +(torch|transformers|timm|matplotlib|accelerate)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("option", "facts"),
    [
        ("run.task=???", "run.task"),
        ("run.job_name=${nowhere}", "nowhere"),
        ("run.seed=4294967296", "run.seed 4294967295"),
        ("run.init_lr=.inf", "run.init_lr finite"),
        ("run.keep=100000000000000000000", "run.keep 9223372036854775807"),
        ("model.model_type=[tiny_gemma]", "model.model_type 'tiny_gemma'"),
        ("datasets.cc_sbu.builder=ccsbu", "datasets.cc_sbu.builder 'cc_sbu'"),
    ],
)
def test_what_cannot_be_used_names_its_key(option: str, facts: str) -> None:
    path = ROOT / "train_configs" / "minigpt4_tiny_gemma_stage1_pretrain.yaml"
    with pytest.raises(ConfigError) as error:
        Config(Namespace(cfg_path=str(path), options=[option]))
    assert all(fact in str(error.value) for fact in facts.split(" "))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        ("raise RuntimeError('not today')", "not today"),
        ("import sys; sys.exit('bye')", "bye"),
        ("def (", "SyntaxError"),
        ("import a_library_that_is_not_there", "a_library_that_is_not_there"),
        ("class Thing:\n    pass", "train_step"),
        ("def Thing():\n    pass", "Thing"),
    ],
)
def test_an_import_path_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, source, fact) -> None:
    name = f"outside_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    path = ROOT / "train_configs" / "minigpt4_tiny_gemma_stage1_pretrain.yaml"
    with pytest.raises(ConfigError, match=r"run\.task") as error:
        Config(Namespace(cfg_path=str(path), options=[f"run.task={name}:Thing"]))
    assert fact in str(error.value)
