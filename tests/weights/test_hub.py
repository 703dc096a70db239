"""Weights on the Hugging Face hub, from a small hub on this machine."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpt4.common.errors import ConfigError
from minigpt4.weights import hub
from minigpt4.weights.resolver import WeightSource, locate, resolve_file, resolve_model
from tests.support import GOLDEN, ROOT
from tests.support.golden import build_golden_model
from tests.support.hub_server import HubServer

TINY = {path.name: path.read_bytes() for path in (GOLDEN / "llm").iterdir()}
REPO = "org/tiny-llama"
KEY = "model.llama_model"
TOKENS = {name: f"hf_{name}{'A' * 20}" for name in ("file", "environment", "login")}


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """An empty hub, an empty cache for it, an empty current folder, and nobody logged in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
            address = getattr(constants, name).replace(constants._HF_DEFAULT_ENDPOINT, server.url)
            monkeypatch.setattr(constants, name, address)
        server.known = set(TOKENS.values())
        yield server


def put_up(server: HubServer, **files: bytes) -> None:
    """Put the tiny model up, with other files among it that nobody wants."""
    more = {
        "README.md": b"#",
        "model.onnx": b"0" * 99,
        "original/config.json": b"{}",
        "pytorch_model.bin": b"1",
    }
    server.repos[REPO] = TINY | more | files


def asked(server: HubServer) -> list[str]:
    """The files whose content was sent, and the questions to the API."""
    paths = [seen.path for seen in server.seen if seen.method == "GET" and "agent" not in seen.path]
    return [re.sub(rf"/{REPO}/resolve/\w+/", "", path) for path in paths]


def refused(value: str = REPO, resolve=resolve_model) -> str:
    with pytest.raises(ConfigError) as error:
        resolve(value, KEY)
    assert str(error.value).startswith(f"{KEY}: ") and "\n" not in str(error.value)
    return str(error.value)


def sharded() -> dict[str, bytes]:
    """The tiny model's files with its weights in two shards."""
    from safetensors.torch import load, save

    tensors = load(TINY["model.safetensors"])
    names = sorted(tensors)
    parts = {
        f"model-{i + 1:05}-of-00002.safetensors": {name: tensors[name] for name in names[i::2]}
        for i in range(2)
    }
    index = {"metadata": {}, "weight_map": {name: part for part, own in parts.items() for name in own}}
    files = {part: save(own, metadata={"format": "pt"}) for part, own in parts.items()}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


def works(folder: Path) -> None:
    """transformers loads what lies there, and it is the tiny model."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    expected = AutoModelForCausalLM.from_pretrained(GOLDEN / "llm")
    assert all(value.equal(expected.state_dict()[key]) for key, value in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer("a dog").input_ids == AutoTokenizer.from_pretrained(GOLDEN / "llm")("a dog").input_ids


def test_a_model_is_fetched_once(server) -> None:
    put_up(server)
    folder = resolve_model(REPO, KEY)
    works(folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted(TINY)
    assert asked(server)[-1] == "model.safetensors"
    location = locate(WeightSource(KEY, REPO, "model"))
    assert (location.path, location.size) == (folder, sum(map(len, TINY.values())))
    server.__exit__()
    assert resolve_model(REPO, KEY) == folder


def test_a_model_in_shards(server) -> None:
    files = {name: data for name, data in TINY.items() if name != "model.safetensors"} | sharded()
    put_up(server)
    server.repos[REPO] = files | {"pytorch_model.bin": b"1", "pytorch_model.bin.index.json": b"{}"}
    folder = resolve_model(REPO, KEY)
    works(folder)
    assert {p.name for p in folder.iterdir()} == set(files) | {"pytorch_model.bin.index.json"}


def test_old_weights_where_there_are_no_others(server) -> None:
    put_up(server)
    del server.repos[REPO]["model.safetensors"]
    folder = resolve_model(REPO, KEY)
    assert (folder / "pytorch_model.bin").read_bytes() == b"1"


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "config.json", "tokenizer.model"])
def test_what_an_incomplete_cache_lacks_is_fetched(server, lost) -> None:
    put_up(server, **sharded())
    del server.repos[REPO]["model.safetensors"]
    folder = resolve_model(REPO, KEY)
    blob = (folder / lost).resolve()
    (folder / lost).unlink()
    blob.unlink()
    location = locate(WeightSource(KEY, REPO, "model"))
    lacks = "tokenizer.json" if lost == "tokenizer.model" else lost
    assert (location.path, location.present, location.lacks) == (folder, False, (lacks,))
    server.seen.clear()
    assert resolve_model(REPO, KEY) == folder
    assert [path for path in asked(server) if not path.startswith("/api/")] == [lost]
    works(folder)


def test_a_download_that_broke_off_goes_on_with_the_next_run(server, monkeypatch) -> None:
    """Where the weights are, everything else is as well."""
    put_up(server)
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_require_space", interrupt)
        with pytest.raises(KeyboardInterrupt):
            resolve_model(REPO, KEY)
    assert set(asked(server)) >= set(TINY) - {"model.safetensors"}
    assert locate(WeightSource(KEY, REPO, "model")).lacks == ("model.safetensors",)
    server.seen.clear()
    works(resolve_model(REPO, KEY))
    assert [path for path in asked(server) if not path.startswith("/api/")] == ["model.safetensors"]


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_without_network_and_cache(server, monkeypatch) -> None:
    put_up(server)
    server.__exit__()
    assert re.search(
        f"could not download {REPO} from {server.url} .*refused.*; a local path works", refused()
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refused()
    assert message.startswith(
        f"{KEY}: {REPO} is not on this disk, and HF_HUB_OFFLINE=1 forbids downloading it"
    )
    message = refused("https://127.0.0.1:1/a.gguf")
    assert "a.gguf is not on this disk, and HF_HUB_OFFLINE=1 forbids downloading it" in message


def test_offline_with_an_incomplete_cache(server, monkeypatch) -> None:
    put_up(server)
    (resolve_model(REPO, KEY) / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.seen.clear()
    assert f"{REPO} is not on this disk (it lacks model.safetensors), and HF_HUB_OFFLINE=1" in refused()
    assert server.seen == []


def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *places: str) -> None:
    if "file" in places:
        (tmp_path / "hf_token.txt").write_text(f"\n# mine\n  {TOKENS['file']} \nhf_another\n")
    if "environment" in places:
        monkeypatch.setenv("HF_TOKEN", TOKENS["environment"])
    if "login" in places:
        (tmp_path / "login").write_text(TOKENS["login"])


@pytest.mark.parametrize(
    ("places", "used"),
    [
        (("file", "environment", "login"), "file"),
        (("environment", "login"), "environment"),
        (("login",), "login"),
        ((), None),
    ],
)
def test_the_order_of_tokens(server, tmp_path, monkeypatch, places, used) -> None:
    put_up(server)
    log_in(tmp_path, monkeypatch, *places)
    resolve_model(REPO, KEY)
    sent = {seen.headers.get("authorization") for seen in server.seen if "agent" not in seen.path}
    assert sent == {f"Bearer {TOKENS[used]}" if used else None}


@pytest.mark.parametrize(
    "content",
    [
        *("", "\n\n", "# only a comment\n", "hf_put_your_own_read_token_here\n", "<your token>"),
        *("paste your token here", "hf_xxxxxxxxxxxxxxxxxxxx", "hf_ключ"),
    ],
)
def test_a_placeholder_is_no_token(server, tmp_path, monkeypatch, content) -> None:
    log_in(tmp_path, monkeypatch, "environment")
    (tmp_path / "hf_token.txt").write_text(content)
    put_up(server)
    resolve_model(REPO, KEY)
    assert {seen.headers.get("authorization") for seen in server.seen} <= {
        None,
        f"Bearer {TOKENS['environment']}",
    }


def test_the_example_is_a_placeholder() -> None:
    example = (ROOT / "hf_token.txt.example").read_text()
    assert all(hub._NO_TOKEN.search(line) for line in example.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_token_written_on_windows(server, tmp_path, encoding) -> None:
    (tmp_path / "hf_token.txt").write_bytes(f"{TOKENS['file']}\r\n".encode(encoding))
    assert hub._token() == TOKENS["file"]


def test_a_connection_that_is_always_cut(server, monkeypatch) -> None:
    put_up(server)
    server.broken = {"model.safetensors"}
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert re.search(
        rf"could not download {REPO} from {server.url} \(.+\); a local path works too$", refused()
    )
    server.broken = set()
    works(resolve_model(REPO, KEY))


@pytest.mark.parametrize("places", [(), ("file",), ("environment",)])
def test_a_gated_model(server, tmp_path, monkeypatch, caplog, places) -> None:
    put_up(server)
    server.gated = {REPO}
    log_in(tmp_path, monkeypatch, *places)
    with caplog.at_level(logging.DEBUG):
        message = refused()
    assert message.startswith(
        f"{KEY}: {REPO} is gated: ask for access at https://huggingface.co/{REPO} and put your token in "
        "hf_token.txt (tried with the token of "
        f"{ {'file': 'hf_token.txt', 'environment': 'HF_TOKEN'}.get(''.join(places), 'the hub') }"
    )
    assert not any(token in message + caplog.text for token in TOKENS.values())
    assert refused(resolve=resolve_file) == message
    server.allowed = {TOKENS["file"]}
    log_in(tmp_path, monkeypatch, "file")
    works(resolve_model(REPO, KEY))


def test_a_token_that_is_refused(server, tmp_path, monkeypatch) -> None:
    put_up(server)
    server.known = set()
    log_in(tmp_path, monkeypatch, "file")
    assert refused() == (
        f"{KEY}: the hub refuses the token of hf_token.txt: make another one at "
        "https://huggingface.co/settings/tokens"
    )


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("resolve", [resolve_model, resolve_file])
def test_a_repository_that_is_missing_or_private(server, tmp_path, monkeypatch, resolve, token) -> None:
    put_up(server)
    server.private = {REPO}
    if token:
        log_in(tmp_path, monkeypatch, "file")
    for name in ("org/tiny-lama", REPO, "org/a--b"):
        assert refused(name, resolve) == (
            f"{KEY}: no local file or folder '{name}', and no such repository on the hub: it is "
            "misspelt, or private and not visible to your token"
        )


def test_a_repository_without_weights_for_transformers(server) -> None:
    server.repos[REPO] = {"config.json": b"{}", "x-Q8_0.gguf": b"", "x-Q4_0.gguf": b""}
    assert refused().endswith(
        f"{REPO} has no weights that transformers can load; it has x-Q4_0.gguf, x-Q8_0.gguf: "
        f"write {REPO}/x-Q4_0.gguf"
    )
    put_up(server)
    del server.repos[REPO]["tokenizer.model"]
    assert re.search(f"{REPO} is not a complete language model: .* lacks tokenizer.json$", refused())
    put_up(server, **{"model.safetensors.index.json": b"["})
    del server.repos[REPO]["model.safetensors"]
    assert refused().endswith("lacks a readable model.safetensors.index.json")


@pytest.mark.parametrize("shard", ["*", "../../x.safetensors", "https://x.org/a.safetensors"])
def test_an_index_names_files_and_nothing_else(server, shard: str) -> None:
    put_up(server, **{"model.safetensors.index.json": json.dumps({"weight_map": {"a": shard}}).encode()})
    del server.repos[REPO]["model.safetensors"]
    assert "is not a complete language model" in refused()
    assert not {"model.onnx", "pytorch_model.bin", "README.md"} & set(asked(server))


def test_files_in_a_repository(server) -> None:
    server.repos[REPO] = {"model.safetensors": b"st", "pytorch_model.bin": b"bin", "sub/dir/x.pth": b"x"}
    assert resolve_file(REPO, KEY).read_bytes() == b"st"
    path = resolve_file(f"{REPO}/sub/dir/x.pth", KEY)
    assert path.read_bytes() == b"x" and path.parts[-3:] == ("sub", "dir", "x.pth")
    assert resolve_file(f"{REPO}/pytorch_model.bin", KEY).read_bytes() == b"bin"
    assert "has no sub/dir/y.pth; did you mean 'sub/dir/x.pth'?" in refused(
        f"{REPO}/sub/dir/y.pth", resolve_file
    )
    server.__exit__()
    assert resolve_file(f"{REPO}/sub/dir/x.pth", KEY) == path
    assert resolve_file(REPO, KEY).read_bytes() == b"st"


def test_a_repository_with_one_old_file(server) -> None:
    server.repos[REPO] = {"pytorch_model.bin": b"bin"}
    assert resolve_file(REPO, KEY).read_bytes() == b"bin"


def test_a_repository_whose_file_must_be_named(server) -> None:
    server.repos[REPO] = {"b.pth": b"", "a.pth": b"", "README.md": b""}
    message = refused(REPO, resolve_file)
    assert message == f"{KEY}: {REPO} has no model.safetensors; it has a.pth, b.pth: write {REPO}/a.pth"


def test_a_gguf_file_in_a_repository(server) -> None:
    server.repos[REPO] = {"x.gguf": b"GGUF"}
    assert resolve_model(f"{REPO}/x.gguf", KEY).read_bytes() == b"GGUF"


def test_no_space_is_said_before(server, monkeypatch, tmp_path) -> None:
    put_up(server)
    weights = len(TINY["model.safetensors"])
    usage = shutil.disk_usage("/")._replace(free=weights - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    needed = (
        f"no space for {REPO}: {weights:,} bytes needed in {tmp_path / 'cache'}, {weights - 1:,} are free"
    )
    assert refused() == refused(resolve=resolve_file) == f"{KEY}: {needed}"
    assert "model.safetensors" not in asked(server)


def test_no_space_while_it_is_written(server, monkeypatch, tmp_path) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put_up(server)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert f"no space for {REPO}: more bytes needed in {tmp_path / 'cache'}, " in refused()


def test_what_is_fetched_is_what_was_sent(server) -> None:
    put_up(server)
    folder = resolve_model(REPO, KEY)
    for name, data in TINY.items():
        assert hashlib.sha256((folder / name).read_bytes()).digest() == hashlib.sha256(data).digest()


def test_the_recorded_loss_with_everything_fetched(server, monkeypatch, tmp_path) -> None:
    """Encoder from a URL; Q-Former and checkpoint are files of repositories, the language model is one."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    put_up(server)
    server.repos["org/blip2"] = {"files/blip2.pth": (GOLDEN / "blip2_qformer.pth").read_bytes()}
    server.repos["org/minigpt4"] = {"stage1.pth": (GOLDEN / "minigpt4_checkpoint.pth").read_bytes()}
    address, _ = server.serve("/eva_vit_g.pth", (GOLDEN / "eva_vit.pth").read_bytes())
    fetched = {
        "vit_weights": address,
        "q_former_model": "org/blip2/files/blip2.pth",
        "llama_model": REPO,
        "ckpt": "org/minigpt4/stage1.pth",
    }
    recorded = torch.load(GOLDEN / "minigpt4_io.pt", weights_only=True)
    for _ in range(2):
        model = build_golden_model(**fetched).eval()
        with torch.no_grad():
            loss = model({"image": recorded["image"], "answer": recorded["captions"]})["loss"]
        torch.testing.assert_close(loss, recorded["loss_stage1"], rtol=0, atol=1e-4)
        requests = len(server.seen)
        server.repos.clear()
        server.files.clear()  # the second time all of it is on this disk
    assert len(server.seen) == requests
