"""The README's commands run, and what it names is there."""

import importlib
import re
import shlex
import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from minigpt4.common.config import Config, load_yaml, plain
from minigpt4.common.registry import registry
from tests.support import ROOT
from tests.support.golden import golden_model_config

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]


def test_the_readme_has_the_commands() -> None:
    assert {"make quickstart", "make test"} <= set(COMMANDS)
    assert sum("train.py" in c for c in COMMANDS) >= 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python ")])
def test_python_commands_parse_and_name_files_that_are_there(command: str) -> None:
    """What the commands do is tested elsewhere; here, that script, config and arguments exist."""
    words = shlex.split(command)
    config = words[words.index("--cfg-path") + 1] if "--cfg-path" in words else None
    if words[1] == "-c":
        compile(words[2], "README.md", "exec")
        return
    assert (ROOT / words[1]).is_file() or words[1] == "-m"
    assert config is None or (ROOT / config).is_file()
    help_text = subprocess.run(
        [sys.executable, *words[1 : 3 if words[1] == "-m" else 2], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {w for w in words if w.startswith("--")} <= set(re.findall(r"--[a-z-]+", help_text))


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "demo.py"])
def test_help_answers_at_once(script: str) -> None:
    """Nothing heavy is imported before the arguments are read; an example is shown."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert f"python {script} --cfg-path" in done.stdout
    assert not re.search(r"\| +(torch|transformers|gradio|timm)$", done.stderr, re.MULTILINE)


def test_paths_in_the_readme_exist() -> None:
    for path in re.findall(
        r"`((?:minigpt4|train_configs|eval_configs|dataset|tests|benchmarks)/[\w./-]*)`", README
    ):
        assert (ROOT / path).exists(), path


def code(language: str, part: str) -> str:
    """The one block of that language that holds `part`."""
    (found,) = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if part in b]
    return found


def test_the_worked_example_of_a_new_family(tmp_path, monkeypatch) -> None:
    """The README's adapter and YAML, as they stand there, on a tiny LLaMA."""
    adapter = code("python", "# minigpt4/models/backbones/alpaca.py")
    assert len(adapter.splitlines()) <= 40
    (tmp_path / "alpaca.py").write_text(adapter)
    monkeypatch.syspath_prepend(tmp_path)
    assert "alpaca" not in registry.list_backbones()
    monkeypatch.setattr(registry.tables["backbone"], "classes", dict(registry.tables["backbone"].classes))
    importlib.import_module("alpaca")
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(code("yaml", "llm_backbone: alpaca"))
    here = golden_model_config(prompt_path="prompts/caption.txt")
    tiny = [f"model.{key}={here[key]}" for key in ("image_size", "vit_weights", "num_query_token")]
    tiny += [f"model.vit_kwargs.{key}={value}" for key, value in here["vit_kwargs"].items()]
    tiny += [f"model.q_former_kwargs.{key}={value}" for key, value in here["q_former_kwargs"].items()]
    tiny += [f"model.{key}={here[key]}" for key in ("q_former_model", "llama_model", "prompt_path")]
    config = Config(Namespace(cfg_path=str(yaml), options=tiny))
    model = registry.get_model_class("minigpt4").from_config(config.model_cfg, device="cpu")
    assert model.template.turn("what is this?") == "### Instruction:\nwhat is this?\n\n### Response:\n"
    assert model.prompt_list[0].startswith("### Instruction:\n<Img><ImageHere></Img> ")
    assert model.stop_ids == [2]
    assert model.max_txt_len == 160
    image = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    loss = model({"image": image, "answer": ["a dog"]})["loss"]
    loss.backward()
    assert model.llama_proj.weight.grad.abs().sum() > 0


def test_the_other_yaml_of_a_new_language_model_is_complete(tmp_path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(code("yaml", "Qwen/Qwen2.5"))
    cfg = Config(Namespace(cfg_path=str(yaml), options=[])).model_cfg
    sources = {s.key: s.value for s in registry.get_model_class("minigpt4").weight_sources(cfg)}
    assert sources["model.llama_model"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert sources["model.vit_weights"].endswith("eva_vit_g.pth")
    assert cfg.llm_backbone == "auto"


def test_every_key_of_the_originals_yamls_is_explained() -> None:
    table = README[README.index("## Every key") : README.index("## The house")]
    named = set(re.findall(r"`\.?([\w]+)`", table)) | set(re.findall(r"[.\w<>]*\.(\w+)`", table))
    for path in sorted((ROOT / "tests/original_configs").rglob("*.yaml")):
        for section in load_yaml(path).values():
            missing = set(leaf_keys(plain(section))) - named
            assert not missing, f"{path.name}: {missing}"


def leaf_keys(section: dict) -> list[str]:
    """The keys whose values are no mappings, at any depth."""
    keys = []
    for key, value in section.items():
        keys += leaf_keys(value) if isinstance(value, dict) else [key]
    return keys
