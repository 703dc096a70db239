"""What the value of a weight key can be, and what it is taken for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.weights.resolver import WeightSource, locate, resolve_file, resolve_model
from tests.support import GOLDEN
from tests.support.hub_server import HubServer

KEY = "model.ckpt"
SAID = {resolve_file: "file", resolve_model: "model"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder; who asks for anything beyond this machine is found out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", nobody_asks)
    return tmp_path


def nobody_asks(*_) -> None:
    raise AssertionError("the network was asked")


def refused(resolve, value: str | None) -> str:
    """The message; `locate` says the same."""
    with pytest.raises(ConfigError) as error:
        resolve(value, KEY)
    with pytest.raises(ConfigError) as same:
        locate(WeightSource(KEY, value, SAID[resolve]))
    assert str(error.value) == str(same.value)
    return str(error.value)


def make(path: str, content: str = "") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    return Path(path)


def model_folder(path: str, *names: str, index: dict | None = None) -> Path:
    for name in ("config.json", *names):
        make(f"{path}/{name}")
    if index:
        make(f"{path}/model.safetensors.index.json", json.dumps({"weight_map": index}))
    return Path(path)


@pytest.mark.parametrize(
    "value", ["weight/x.pth", "weight/sub/dir/x.pth", "x.bin", "org/name", "./a b/ü.ckpt"]
)
def test_a_local_file(here, value) -> None:
    make(value, "1234")
    assert resolve_file(value, KEY) == Path(value)
    assert resolve_file(str(here / value), KEY) == here / value
    location = locate(WeightSource(KEY, value, "file"))
    assert (location.path, location.present, location.size) == (Path(value), True, 4)


def test_the_home_folder(here, monkeypatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(here))
    make("weight/x.pth")
    assert resolve_file("~/weight/x.pth", KEY) == here / "weight" / "x.pth"
    assert refused(resolve_file, "~/weight/y.pth") == (
        f"{KEY}: no file or folder '~/weight/y.pth' (looked for {here}/weight/y.pth); did you mean 'x.pth'?"
    )
    assert "no file or folder '~nobody_of_this_name/x.pth'" in refused(
        resolve_file, "~nobody_of_this_name/x.pth"
    )


def test_a_file_that_was_moved_with_its_run_is_offered(here) -> None:
    """A run that starts again in `output/mine` moves the earlier one to `output/mine.1`."""
    make("output/mine/checkpoint_lates.pth")  # a similar name is further off than the file itself
    for number, seconds in ((1, 10), (2, 30), (3, 20)):
        os.utime(make(f"output/mine.{number}/checkpoint_latest.pth"), (seconds, seconds))
    make("output/mine.old/checkpoint_latest.pth")
    message = refused(resolve_file, "output/mine/checkpoint_latest.pth")
    assert message.endswith("; did you mean 'output/mine.2/checkpoint_latest.pth'?")
    shutil.rmtree(here / "output/mine")
    assert refused(resolve_file, "output/mine/checkpoint_latest.pth") == message
    assert not refused(resolve_file, "output/mine/checkpoint_0.pth").endswith("checkpoint_0.pth'?")


def test_a_folder_with_one_file_of_tensors() -> None:
    make("clone/pytorch_model.bin")
    assert resolve_file("clone", KEY) == Path("clone/pytorch_model.bin")
    make("clone/model.safetensors")
    assert resolve_file("clone", KEY) == Path("clone/model.safetensors")
    make("other/x.pth")
    assert refused(resolve_file, "other") == f"{KEY}: other is a folder; please name the file in it"


def test_a_local_language_model() -> None:
    assert resolve_model(str(GOLDEN / "llm"), KEY) == GOLDEN / "llm"
    size = sum(path.stat().st_size for path in (GOLDEN / "llm").iterdir())
    assert locate(WeightSource(KEY, str(GOLDEN / "llm"), "model")).size == size
    for name in ("x.gguf", "X.GGUF"):
        make(name)
        assert resolve_model(name, KEY) == Path(name)


@pytest.mark.parametrize(
    ("names", "index", "lacks"),
    [
        (["model.safetensors"], None, None),
        (["pytorch_model.bin"], None, None),
        (["a.safetensors", "b.safetensors"], {"x": "a.safetensors", "y": "b.safetensors"}, None),
        (
            ["a.safetensors"],
            {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"},
            "b.safetensors",
        ),
        (["pytorch_model.bin"], {"x": "a.safetensors"}, "a.safetensors"),
        ([], None, "model.safetensors"),
        (["x.gguf"], None, "model.safetensors"),
    ],
)
def test_what_a_local_language_model_lacks(names, index, lacks) -> None:
    model_folder("m", *names, index=index)
    if lacks is None:
        assert resolve_model("m", KEY) == Path("m")
    else:
        message = f"{KEY}: the folder m is not a complete language model (it lacks {lacks})"
        assert refused(resolve_model, "m") == message


def test_a_folder_without_config() -> None:
    make("m/model.safetensors")
    assert refused(resolve_model, "m").endswith("(it lacks config.json)")
    Path("empty").mkdir()
    assert refused(resolve_model, "empty").endswith("(it lacks config.json, model.safetensors)")


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"weight_map": []}'])
def test_a_damaged_index(content) -> None:
    model_folder("m")
    make("m/model.safetensors.index.json", content)
    assert refused(resolve_model, "m") == (
        f"{KEY}: the folder m is not a complete language model "
        "(it lacks a readable model.safetensors.index.json)"
    )


@pytest.mark.parametrize(
    "value",
    [
        *("nowhere/x.pth", "nowhere/x.gguf", "nowhere/X.PTH"),  # a file name is not the name of a repository
        *("/nowhere/model", "./org/name", "../org/name", "~/org/name", ".org/name"),
        *("weight/model", "weight/sub/model.pth", "here/model", "here/sub/model.pth"),  # `here` is a folder
        *("output/run", "output/run/x.pth", "ckpt/a/b.pth", "mine/run/checkpoint_latest.pth"),
        *(
            "word",
            "org/name/folder",
            "org/name/",
            "org//name",
            "a/b/c/d",
            "C:\\weight\\x.pth",
            "C:/weight/x.pth",
        ),
        *("file:///weight/x.pth", "ftp://host/x.pth", "org/name x", "örg/name"),
    ],
)
@pytest.mark.parametrize("resolve", [resolve_file, resolve_model])
def test_what_looks_like_a_path_is_never_asked_for(resolve, value) -> None:
    Path("here").mkdir()
    message = refused(resolve, value)
    assert message.startswith(f"{KEY}: no file or folder {value!r}")


def test_a_checkpoint_to_resume_is_never_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^run\.resume_ckpt_path: no file or folder 'org/name/x\.pth'"):
        resolve_file("org/name/x.pth", "run.resume_ckpt_path")


@pytest.mark.parametrize(
    "value", ["x" * 5000, "a/b/" + "x" * 5000 + ".pth", "~nobody-here/x.pth", "gs://b/x.pth", "a\0b"]
)
def test_paths_that_cannot_be(value) -> None:
    assert refused(resolve_file, value).startswith(f"{KEY}: no file or folder {value[:90]!r}"[:-1])


@pytest.mark.parametrize("file", ["../x.gguf", "a/../../x.gguf", "./x.gguf", "a//x.gguf", "..\\x.gguf"])
def test_a_path_that_leaves_its_repository(file) -> None:
    value = f"org/name/{file}"
    assert refused(resolve_file, value) == f"{KEY}: {value!r} leaves the repository org/name"


@pytest.mark.parametrize(
    "value", ["x.pth", "https://host/x.pth?signature=secret", "org/name/x.safetensors", "pkg://weighty/x.pth"]
)
def test_a_language_model_is_no_single_file(here, monkeypatch, value) -> None:
    make("x.pth")
    make("weighty/__init__.py")
    make("weighty/x.pth")
    monkeypatch.syspath_prepend(here)
    message = refused(resolve_model, value)
    assert message.endswith(
        "is one file, but a language model is a folder, a repository on the hub, or a .gguf file"
    )
    assert "secret" not in message


def test_weights_in_packages(here, monkeypatch) -> None:
    make("weighty/__init__.py", "raise RuntimeError('nobody imports me')")
    make("weighty/x.gguf", "12")
    make("alone.py")
    model_folder("weighty/llm", "model.safetensors")
    monkeypatch.syspath_prepend(here)
    assert resolve_model("pkg://weighty/x.gguf", KEY) == here / "weighty" / "x.gguf"
    assert resolve_model("pkg://weighty/llm", KEY) == here / "weighty" / "llm"
    assert resolve_file("pkg://weighty/llm", KEY) == here / "weighty" / "llm" / "model.safetensors"
    assert locate(WeightSource(KEY, "pkg://weighty/x.gguf", "model")).size == 2
    for value, message in {
        "pkg://weighty/../x.pth": "leaves the package 'weighty'",
        "pkg://weighty//etc/passwd": "leaves the package 'weighty'",
        "pkg://weighty/y.gguf": "the installed package 'weighty' has no 'y.gguf'",
        "pkg://weightless/x.gguf": "needs the Python package 'weightless', which is not installed",
        "pkg://alone/x.gguf": "needs the Python package 'alone', which is not installed",
        "pkg:///etc/passwd": "needs the Python package '', which is not installed",
    }.items():
        assert message in refused(resolve_file, value)


@pytest.mark.parametrize("value", [None, "", " ", "/path/to/model", "please set this value to the path of x"])
@pytest.mark.parametrize("resolve", [resolve_file, resolve_model])
def test_a_placeholder(resolve, value) -> None:
    assert refused(resolve, value).startswith(f"{KEY} is {value!r}: please set it to a real path")


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(GOLDEN.parent.parent)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ASK = """
import sys
from minigpt4.weights.resolver import resolve_model
heavy = {"huggingface_hub.hf_api", "httpx", "httpx2", "transformers", "timm"} & set(sys.modules)
assert not heavy, f"importing the resolver imports {heavy}"
print(resolve_model("org/llm", "model.llama_model"))
"""


@pytest.mark.integration
def test_another_hub_and_no_network_by_environment(here, monkeypatch) -> None:
    """As users say it: HF_ENDPOINT for the first run, HF_HUB_OFFLINE for the second."""
    monkeypatch.undo()
    environment = {"HF_HOME": str(here / "hf"), "NO_PROXY": "127.0.0.1"}
    with HubServer() as server:
        server.repos["org/llm"] = {path.name: path.read_bytes() for path in (GOLDEN / "llm").iterdir()}
        folder = python(ASK, **environment, HF_ENDPOINT=server.url)
        asked = len(server.seen)
        assert asked and folder.startswith(str(here / "hf"))
        assert (Path(folder) / "config.json").read_bytes() == (GOLDEN / "llm" / "config.json").read_bytes()
        assert python(ASK, **environment, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1") == folder
        assert len(server.seen) == asked


@pytest.mark.parametrize("resolve", [resolve_file, resolve_model])
def test_a_pipe_is_not_waited_for(tmp_path, resolve) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(ConfigError, match=r"^key: .*a\.gguf is a device or a pipe, not a file$"):
        resolve(str(tmp_path / "a.gguf"), "key")
