"""The documents' commands exist with their options, their configs load, and their links lead somewhere."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from minigpt4.common.config import Config
from tests.support import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "dataset").rglob("README*.md")),
]
OTHER_PROGRAMS = {"cd", "conda", "curl", "gdown", "git", "hf", "mkdir", "source"}
FOLDERS = ["minigpt4", "train_configs", "eval_configs", "prompts", "dataset", "tests", "benchmarks", "docs"]
READERS_OWN = "train_configs/mine.yaml"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> dict[str, list[str]]:
    """Every command of every document, and where it stands."""
    found: dict[str, list[str]] = {}
    for document in DOCUMENTS:
        for block in blocks(document.read_text(), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split(" && "):
                    found.setdefault(command.strip(), []).append(name_of(document))
    return found


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


COMMANDS = commands()


def words_of(command: str) -> list[str]:
    """The words of a command; variables set before it and the launcher before our script are left out."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"\w+=", words[0]):
        del words[0]
    if words and words[0] in ("torchrun", "accelerate"):
        script = next(place for place, word in enumerate(words) if word.endswith(".py"))
        words = ["python", *words[script:]]
    if words and words[0] == ".venv/bin/python":
        words[0] = "python"
    return ["python", "-m", *words] if words and words[0] == "minigpt4" else words


# Prints what each script shows when it is asked for help. A script finds what is beside it, and nothing that
# another one imported from there.
HELP_OF_ALL = """
import contextlib, io, json, os, runpy, sys

path = [place for place in sys.path if place]
for words in json.loads(sys.argv[1]):
    module, file = words[0] == "-m", os.path.abspath(words[0])
    sys.path[:] = [os.getcwd() if module else os.path.dirname(file), *path]
    sys.argv = [*words[module:], "--help"]
    for name in [name for name in sys.modules if name.split(".")[0] in ("benchmarks", "dataset", "tests")]:
        del sys.modules[name]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            if module:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(file, run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code
    print(json.dumps(shown.getvalue()))
"""


@pytest.fixture(scope="module")
def known_options() -> dict[tuple[str, ...], set[str]]:
    """The options that the `--help` of each script names. One process for all: most of it is imports."""
    scripts = sorted({script for command in COMMANDS if (script := script_of(words_of(command)))})
    call = [sys.executable, "-c", HELP_OF_ALL, json.dumps(scripts)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = map(json.loads, done.stdout.splitlines())
    return {script: set(re.findall(r"--[\w-]+", text)) for script, text in zip(scripts, shown, strict=True)}


def script_of(words: list[str]) -> tuple[str, ...]:
    """What of a command asks for the help of a script of ours; empty for other commands."""
    if words[:1] != ["python"] or words[1] == "-c":
        return ()
    if words[1] != "-m":
        return (words[1],)
    if words[2].split(".")[0] not in FOLDERS:
        return ()
    return ("-m", *words[2:4]) if words[2] == "minigpt4" else ("-m", words[2])


def test_documents_have_the_two_commands() -> None:
    assert {"make quickstart", "make test"} <= {c for c, where in COMMANDS.items() if "README.md" in where}
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command, known_options) -> None:
    words = words_of(command)
    if not words or words[0] in OTHER_PROGRAMS:
        return
    if words[0] == "pip":
        check_pip(words)
    elif words[0] == "make":
        done = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[0].endswith(".sh"):
        assert (ROOT / words[0]).is_file()
    elif words[:2] == ["python", "-c"]:
        compile(words[2], "document", "exec")
    else:
        assert words[0] == "python", f"what is {words[0]}?"
        script = script_of(words)
        assert {word.split("=")[0] for word in words if script and word.startswith("--")} <= (
            known_options.get(script, set())
        )


def check_pip(words: list[str]) -> None:
    assert all((ROOT / file).is_file() for option, file in pairwise(words) if option in ("-c", "-r"))
    for extra in re.findall(r"\.\[(\w+)\]", " ".join(words)):
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), extra


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--cfg-path" in command])
def test_config_of_command_loads(command) -> None:
    """With its --options: a key that is unknown is an error."""
    words = words_of(command)
    path = words[words.index("--cfg-path") + 1]
    options = []
    if "--options" in words:
        following = words[words.index("--options") + 1 :]
        end = next((place for place, word in enumerate(following) if word.startswith("--")), None)
        options = following[:end]
    if path != READERS_OWN:
        cfg = Config(Namespace(cfg_path=str(ROOT / path), options=options))
        assert cfg.model_cfg.arch in ("minigpt4", "minigpt_v2")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_paths_lead_somewhere(document) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:", target):
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            assert file.exists(), target
            assert not anchor or anchor in anchors(file.read_text()), target
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def anchors(text: str) -> set[str]:
    """The ids that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_yaml_is_made_of_known_sections(document) -> None:
    for block in blocks(document.read_text(), "yaml"):
        assert set(yaml.safe_load(block)) <= {"model", "datasets", "evaluation_datasets", "run"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_code_imports_what_there_is(document) -> None:
    """Every ```python block compiles, and what it imports of ours can be imported."""
    for block in blocks(document.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("minigpt4"):
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing[0]}"


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "demo.py"])
def test_help_imports_nothing_heavy(script) -> None:
    call = [sys.executable, "-X", "importtime", script, "--help"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"python {script} --cfg-path" in done.stdout
    assert not re.search(r"\| +(torch|transformers|gradio|timm)$", done.stderr, re.MULTILINE)
