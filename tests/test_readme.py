"""The README's commands run, and what it names is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
