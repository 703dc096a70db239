"""`minigpt4 fetch`: everything a config needs is fetched ahead of time, and listed."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from minigpt4.common.formatting import format_bytes
from minigpt4.common.registry import registry
from minigpt4.weights import download, fetch
from minigpt4.weights.locations import BLIP2_URL, EVA_CLIP_G_URL
from minigpt4.weights.resolver import WeightSource
from tests.support import GOLDEN, ROOT
from tests.support.hub_server import HubServer

TINY = sorted([*ROOT.glob("*_configs/*tiny*.yaml")])
DATA = random.Random(0).randbytes(123_456)
LLM = {path.name: path.read_bytes() for path in (GOLDEN / "llm").iterdir()}
LLM_SIZE = format_bytes(sum(map(len, LLM.values())))


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A hub and file server, empty caches, an empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(download, "WAITS", ())
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
            address = getattr(constants, name).replace(constants._HF_DEFAULT_ENDPOINT, server.url)
            monkeypatch.setattr(constants, name, address)
        yield server


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command; return its exit code, the table's rows as lists of words, and its error lines."""

    def run(path: Path, *arguments: str) -> tuple[int, list[list[str]], list[str]]:
        monkeypatch.setattr(sys, "argv", ["fetch", "--cfg-path", str(path), *arguments])
        with pytest.raises(SystemExit) as end:
            fetch.main()
        out, err = capfd.readouterr()
        code = end.value.code
        if isinstance(code, str):
            return 1, [], [code]
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        return code, [line.split() for line in out.splitlines()], errors

    return run


def config(tmp_path: Path, server: HubServer) -> Path:
    """A config with one source of each sort."""
    server.repos["org/llm"] = dict(LLM)
    server.repos["org/ckpt"] = {"stage1/x.pth": DATA}
    url, _ = server.serve("/eva-vit.pth", DATA)
    (tmp_path / "blip2.pth").write_bytes(DATA[:1234])
    path = tmp_path / "c.yaml"
    path.write_text(
        f"model:\n  arch: minigpt4\n  vit_weights: {url}?key=secret\n  q_former_model: blip2.pth\n"
        "  llama_model: org/llm\n  ckpt: org/ckpt/stage1/x.pth\n"
    )
    return path


def test_before_and_after(server, run, tmp_path) -> None:
    path = config(tmp_path, server)
    server.seen.clear()
    url, rest = f"{server.url}/eva-vit.pth?…", ["is", "not", "on", "this", "disk"]
    code, rows, errors = run(path, "--check")
    place = rows[1][-1]
    assert code == 1 and server.seen == []
    assert rows == [
        ["key", "size", "source", "path"],
        ["model.vit_weights", "missing", url, place],
        ["model.q_former_model", "present", "1.2", "kB", "blip2.pth", "blip2.pth"],
        ["model.llama_model", "missing", "org/llm"],
        ["model.ckpt", "missing", "org/ckpt/stage1/x.pth"],
    ]
    assert [error.split() for error in errors] == [
        ["error:", f"{key}:", value, *rest]
        for key, value in [
            ("model.vit_weights", url),
            ("model.llama_model", "org/llm"),
            ("model.ckpt", "org/ckpt/stage1/x.pth"),
        ]
    ]

    code, rows, errors = run(path)
    assert (code, errors) == (0, [])
    assert [row[:4] for row in rows[1:]] == [
        ["model.vit_weights", "present", "123.5", "kB"],
        ["model.q_former_model", "present", "1.2", "kB"],
        ["model.llama_model", "present", *LLM_SIZE.split()],
        ["model.ckpt", "present", "123.5", "kB"],
    ]
    assert Path(place).read_bytes() == Path(rows[4][-1]).read_bytes() == DATA
    assert (Path(rows[3][-1]) / "config.json").read_bytes() == LLM["config.json"]

    server.__exit__()
    assert run(path) == run(path, "--check") == (0, rows, [])


def test_one_failure_does_not_keep_the_others(server, run, tmp_path) -> None:
    path = config(tmp_path, server)
    server.gated = {"org/llm"}
    server.files["/eva-vit.pth"] = 404
    code, rows, errors = run(path)
    assert code == 1
    assert [row[1] for row in rows[1:]] == ["missing", "present", "missing", "present"]
    assert len(errors) == 2
    assert "(the server answers 404 " in errors[0] and "secret" not in errors[0]
    assert "error: model.llama_model: org/llm is gated: ask for access at" in errors[1]


def test_a_cached_file_with_another_hash(server, run, tmp_path) -> None:
    path = config(tmp_path, server)
    run(path)
    url = f"{server.url}/eva-vit.pth?key=secret#sha256={'0' * 64}"
    code, rows, errors = run(path, "--options", f"model.vit_weights='{url}'")
    assert code == 1 and [row[1] for row in rows[1:]] == ["present"] * 4
    assert len(errors) == 1 and f", not {'0' * 64}: " in errors[0]


def test_options_and_what_cannot_be_fetched(server, run, tmp_path) -> None:
    path = config(tmp_path, server)
    options = ["model.llama_model=weight/none", "model.ckpt=null", "run.resume_ckpt_path=/path/to/x.pth"]
    (tmp_path / "weight").mkdir()
    code, rows, errors = run(path, "--options", *options)
    assert code == 1
    assert [row[:2] for row in rows[1:]] == [
        ["model.vit_weights", "present"],
        ["model.q_former_model", "present"],
        ["model.llama_model", "missing"],
        ["run.resume_ckpt_path", "missing"],
    ]
    assert errors == [
        f"error: model.llama_model: no file or folder 'weight/none' (looked for {Path.cwd()}/weight/none)",
        "error: run.resume_ckpt_path is '/path/to/x.pth': please set it to a real path in the YAML or with "
        "--options",
    ]


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.name)
def test_the_embedded_default_needs_no_network(server, run, path) -> None:
    code, rows, errors = run(path, "--check", "--options", "model.ckpt=null")
    assert (code, errors, server.seen) == (0, [], [])
    parts = ["vit_weights", "q_former_model", "llama_model"]
    if "minigptv2" in path.name:
        parts.remove("q_former_model")
    assert [row[:2] for row in rows[1:]] == [[f"model.{key}", "present"] for key in parts]


def test_the_published_files_are_looked_for_where_the_original_keeps_them(server, run, tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model:\n  arch: minigpt4\n  model_type: pretrain_vicuna0\n")
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    code, rows, errors = run(path, "--check")
    assert rows[1:3] == [
        ["model.vit_weights", "missing", EVA_CLIP_G_URL, str(checkpoints / "eva_vit_g.pth")],
        ["model.q_former_model", "missing", BLIP2_URL, str(checkpoints / "blip2_pretrained_flant5xxl.pth")],
    ]
    assert (code, rows[3][:2], len(errors)) == (1, ["model.llama_model", "missing"], 3)
    assert "please set it to a real path" in errors[2]


def test_a_model_class_that_is_not_ours(server, run, tmp_path, monkeypatch) -> None:
    """All the command knows of a model is `weight_sources`."""
    path = config(tmp_path, server)
    sources = [WeightSource("model.other", str(tmp_path / "blip2.pth"), "file")]
    monkeypatch.setattr(registry.get_model_class("minigpt4"), "weight_sources", lambda cfg: sources)
    assert run(path)[1][1:] == [["model.other", "present", "1.2", "kB", *[str(tmp_path / "blip2.pth")] * 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run:\n  seed: 1\n", "no section `model:`"),
        ("model:\n  arch: minigpt5\n", "did you mean 'minigpt4'?"),
    ],
)
def test_a_config_without_a_model(run, tmp_path, content, message) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    code, _, (error,) = run(path)
    assert code == 1 and error.startswith("error: ") and message in error


@pytest.mark.integration
def test_help_answers_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "minigpt4.weights.fetch", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--check" in done.stdout
    assert not any(
        line.endswith(("| torch", "| transformers", "huggingface_hub")) for line in done.stderr.splitlines()
    )
