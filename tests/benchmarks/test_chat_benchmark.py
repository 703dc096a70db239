"""The benchmark of chat at its smallest size."""

import json
from pathlib import Path

import pytest

from benchmarks import chat


@pytest.mark.integration
def test_what_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "new" / "figures.json"
    words = f"chat.py --size tiny --device cpu --no-compile --tokens 8 --batches 1 2 --json {path}"
    monkeypatch.setattr("sys.argv", words.split())
    chat.main()
    figures = json.loads(path.read_text())
    for name in ("first_token_seconds", "first_token_seconds_without_cache"):
        assert len(figures[name]) == 10 and min(figures[name]) > 0
    assert figures["tokens_per_second_at_2"] > 0 and "tokens_per_second_at_2" in capsys.readouterr().out
