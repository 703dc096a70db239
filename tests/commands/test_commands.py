"""The command line `minigpt4 COMMAND`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.commands import COMMANDS, main, usage
from tests.support import ROOT
from tests.support.shards import write_good


def minigpt4(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "minigpt4", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_usage_names_every_command() -> None:
    shown = usage()
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", shown, re.MULTILINE)


@pytest.mark.integration
@pytest.mark.parametrize("words", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(words) -> None:
    done = minigpt4(*words)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: minigpt4 {words[0] if words[1:] else 'COMMAND'} ")
    assert not re.search(r"\| +(torch|transformers|gradio|timm)$", done.stderr, re.MULTILINE)


@pytest.mark.integration
def test_unknown_command_is_answered_with_the_nearest() -> None:
    done = minigpt4("trian")
    assert done.returncode == 1
    assert "'trian'" in done.stderr and "'train'" in done.stderr


@pytest.mark.integration
def test_chat_refuses_a_port_before_the_model_is_loaded() -> None:
    done = minigpt4("chat", "--cfg-path", "eval_configs/minigpt4_tiny_gemma_eval.yaml", "--port", "99999")
    assert done.returncode == 1
    assert "error: --port is 99999" in done.stderr and " torch\n" not in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("words", [["describe-config"], ["check-shards", "SHARD", "--workers", "1"]])
def test_a_command_whose_output_nobody_reads_ends_in_silence(words, tmp_path) -> None:
    (shard,) = write_good(tmp_path, 1, 2)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "minigpt4", *(shard if word == "SHARD" else word for word in words)]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert "rror" not in done.stderr


@pytest.mark.integration
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_command_whose_output_has_no_room_ends_with_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "minigpt4", "describe-config"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_is_not_taken_by_the_beginning_of_its_name(command: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["minigpt4", command, "--hel"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and not capsys.readouterr().out
