"""YAML as people and strangers write it: texts stay texts, and what cannot be used is told in one line."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import parse
from minigpt4.runners.settings import RunSettings

# What YAML takes for True, a number, a date, nothing, a comment, or something of its own.
TEXTS = [
    *("yes", "no", "on", "off", "true", "False", "1e3", "-1", "1.", ".5", "0x10", "007", "0b11", "1_000"),
    *("1:30", ".nan", ".inf", "None", "2024-01-01", "2024-13-45", "n", "NULL "),
    *("a: b", "a #b", "a=b", "it's", 'say "x"', "[INST] x [/INST]", "{0..3}.tar", "{} a"),
]
OPTIONS_ONLY = [
    "###",
    "#x",
    "=",
    "-",
    "!x",
    "&a",
    "*a",
    "%",
    "@",
    "`",
    "|",
    ">",
    "?",
    ":",
    "a:",
    "'abc",
    '"',
    "<<",
]
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def loaded(folder: Path, content: str | bytes, *options: str) -> Any:
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Config(Namespace(cfg_path=str(path), options=list(options))).to_dict()


@pytest.mark.parametrize("text", [*TEXTS, *OPTIONS_ONLY])
def test_option_of_a_text_key_is_the_text(tmp_path: Path, text: str) -> None:
    expected = None if text == "NULL " else text
    found = loaded(tmp_path, "run:\n  device: 7\n  name: 1e3\n", f"run.device={text}")
    assert found == {"run": {"device": expected, "name": "1e3"}}
    assert loaded(tmp_path, "", "run.name", text)["run"] == {"name": text} if expected else True


@pytest.mark.parametrize("text", TEXTS[:-9])
def test_yaml_of_a_text_key_is_the_text(tmp_path: Path, text: str) -> None:
    """Numbers, True and null elsewhere are what they are."""
    run = f"run:\n  name: {text}\n  test_splits: [{text}, b]\n  amp: yes\n  init_lr: 1e-4\n  seed: 0x10\n"
    expected = {"name": text, "test_splits": [text, "b"], "amp": True, "init_lr": 1e-4, "seed": 16}
    assert loaded(tmp_path, run)["run"] == expected
    expected["name"] = "over"
    assert loaded(tmp_path, run, "run.name=over")["run"] == expected


def test_yaml_of_other_keys_is_not_text(tmp_path: Path) -> None:
    for key, text in (("seed", "yes"), ("amp", "1e3"), ("beta2", "on"), ("amp", "'yes'"), ("name", "[1]")):
        with pytest.raises(ConfigError, match=rf"^run\.{key} is "):
            loaded(tmp_path, f"run:\n  {key}: {text}\n")
        with pytest.raises(ConfigError, match=rf"^run\.{key} is "):
            loaded(tmp_path, "", f"run.{key}={text}")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfrun:\n  seed: 5\n",
        b"run:\r\n  seed: 5\r\n",
        b"---\nrun: {seed: &a 5}\n...\n",
        b"run: {<<: {seed: 5}}",
    ],
)
def test_yaml_of_other_editors(tmp_path: Path, content: bytes) -> None:
    assert loaded(tmp_path, content) == {"run": {"seed": 5}}


@pytest.mark.parametrize(
    "content",
    [
        *(
            LAUGHS,
            "run: &a\n  x: *a\n",
            "run: &a [*a]\n",
            "run: " + "[" * 100_000,
            "run: " + "[" * 900 + "]" * 900,
        ),
        *("run: {}\n---\nrun: {}\n", "run:\n\tseed: 1\n", "run:\n  seed: 1\n  seed: 2\n", "run: *nobody\n"),
        *(
            "run: !!python/object/apply:os.system ['touch x']\n",
            "run: !!set {a}\n",
            "? [a]\n: 1\n",
            "run: {? : 1}",
        ),
        *("run:\n  seed: " + "9" * 5000, "run:\n  name: =\n", "run:\n  name: !!binary aGVsbG8=\n"),
        *(
            b"\0",
            "run: {}\n".encode("utf-16"),
            b"# caf\xe9\n",
            b"# " + b"x" * 11_000_000,
            b"\x89PNG\r\n\x1a\n",
        ),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_yaml_that_cannot_be_used_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, content)
    assert "\n" not in str(error.value) and str(error.value).startswith(
        (f"{tmp_path}/config.yaml", "run.name")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_missing_yaml_is_named_with_its_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("nope.yaml", ".", "/dev/zero"):
        with pytest.raises(ConfigError, match=rf"^no config file {Path(path).absolute()}"):
            Config(Namespace(cfg_path=path))


@pytest.mark.parametrize(
    "option", ["run.name=${", "run.name=${nope:1}", "run.seed[0]=1", "run.seed.x=1", "run.=1", "=5"]
)
def test_odd_option_is_one_line(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, "", option)
    assert "\n" not in str(error.value)


def test_paths_have_home_and_variables_resolved(monkeypatch) -> None:
    needed = {"task": "image_text_pretrain", "max_epoch": 1, "iters_per_epoch": 1, "init_lr": 0.1}
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/scratch")
    for path, resolved in (("~/a", "/home/me/a"), ("$RUNS/a", "/scratch/a"), ("a~b", "a~b"), ("a b", "a b")):
        assert parse(RunSettings, needed | {"output_dir": path}, "run").output_dir == resolved
    for path in ("$NOBODY_SET_THIS/a", "~nobody_of_this_name/a"):
        with pytest.raises(ConfigError, match=r"^run\.output_dir is .* is not defined"):
            parse(RunSettings, needed | {"output_dir": path}, "run")
