"""How commands end after an error."""

import argparse

import pytest

from minigpt4.common import cli
from minigpt4.common.errors import reading


def failing(args: argparse.Namespace) -> None:
    with reading("model.gguf"):
        raise KeyError("tensor_count")


@pytest.mark.parametrize("words", [[], ["--debug"]])
def test_debug_shows_the_traceback_with_its_cause(capsys, words) -> None:
    args = cli.config_parser("").parse_args(["--cfg-path", "x.yaml", *words])
    with pytest.raises(SystemExit) as end:
        cli.run(failing, args)
    assert str(end.value).startswith("error: model.gguf") and "\n" not in str(end.value)
    shown = capsys.readouterr().err
    assert ("Traceback" in shown, "KeyError: 'tensor_count'" in shown) == (bool(words), bool(words))
