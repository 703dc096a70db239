"""The commands of dataset/*.md name scripts, options, modules and items that there are."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest

from dataset.minigptv2_items import ITEMS
from tests.support import ROOT

READMES = sorted((ROOT / "dataset").glob("README*.md"))
COMMANDS = sorted(
    {
        line
        for readme in READMES
        for block in re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)
        for line in block.splitlines()
        if re.match(r"(python )?dataset/", line)
    }
)


def test_there_are_commands() -> None:
    assert len(READMES) >= 3 and len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_scripts_and_options_exist(command: str) -> None:
    words = shlex.split(command, comments=True)
    script = words[1] if words[0] == "python" else words[0]
    assert (ROOT / script).is_file()
    if script.endswith(".py"):
        call = [sys.executable, script, "--help"]
        shown = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert {w for w in words if w.startswith("--")} <= set(re.findall(r"--[a-z-]+", shown))


def test_modules_and_paths_exist() -> None:
    for readme in READMES:
        text = readme.read_text()
        for module in re.findall(r"python -m ([\w.]+)", text):
            assert importlib.util.find_spec(module), module
        for path in re.findall(r"`((?:minigpt4|dataset)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), path


def test_every_item_is_in_the_table() -> None:
    text = (ROOT / "dataset" / "README_MINIGPTv2_FINETUNE.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(item.name for item in ITEMS)
    assert f"in {len(ITEMS)} items" in text
    total = sum(float(re.search(r"([\d.]+) GB", row)[1]) for row in rows)
    assert abs(total - sum(item.gigabytes for item in ITEMS)) < 0.05
