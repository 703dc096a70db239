"""The model card, and the upload."""

import json
import shutil
from argparse import Namespace
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import LlavaConfig

from minigpt4.common.errors import ConfigError
from minigpt4.export.__main__ import export
from minigpt4.export.card import Notes, write_card
from minigpt4.models.settings import ModelSettings
from minigpt4.weights import hub
from tests.support import ROOT
from tests.support.exports import config, export_tiny


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> str:
    """Of a checkpoint beside which a run left a report."""
    root = tmp_path_factory.mktemp("card")
    shutil.copy(ROOT / "minigpt4/assets/tiny/gemma_projection.pth", root / "checkpoint_best.pth")
    report = {
        "samples": 200,
        "loss": 0.12345,
        "exact_match": 0.905,
        "percentages": ["exact_match"],
        "steps": 9,
        "peak_memory": 2_497_000_000,
        "trainable_parameters": 737_856,
    }
    (root / "report.json").write_text(json.dumps(report))
    export_tiny("gemma", root / "out", None, f"model.ckpt={root / 'checkpoint_best.pth'}")
    return (root / "out/README.md").read_text(encoding="utf-8")


def test_card_begins_with_what_the_hub_reads(card) -> None:
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "other",
        "tags": ["minigpt4", "blip-2"],
    }


def test_card_names_source_and_licence_of_each_part(card) -> None:
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| `")]
    assert [row[0].split("*")[0] for row in rows] == [
        "| `vision",
        "| `qformer",
        "| `projection",
        "| `language",
    ]
    assert "pkg://minigpt4/assets/tiny/eva_vit_g.pth" in rows[0][2]
    assert "BSD-3-Clause" in rows[3][3]
    assert "not known here" in rows[2][3]
    assert "/work" not in card.replace(str(ROOT), "")


def test_card_shows_the_figures_of_the_run(card) -> None:
    assert "| loss | 0.123 |" in card
    assert "| exact_match | 90.5% |" in card
    assert "| peak_memory | 2.5 GB |" in card
    assert "| trainable_parameters | 737,856 |" in card
    assert "| steps |" not in card


def test_card_of_a_weights_file_has_its_name_without_ending(tmp_path) -> None:
    path, language = tmp_path / "README.md", SimpleNamespace(name="Small-1.5B.Q4_1.gguf")
    model = SimpleNamespace(language=language, end_text="")
    settings = ModelSettings(arch="minigpt4", llama_model="Small-1.5B.Q4_1.gguf")
    write_card(path, model, settings, LlavaConfig(), [], Notes())
    (title,) = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    assert title.startswith("# Small-1.5B.Q4_1 that sees")


class FakeHub:
    """Stands in for `HfApi`: it knows one repository, and notes what it is asked."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def whoami(self) -> dict[str, str]:
        if self.token is None:
            raise LocalTokenNotFoundError("nobody")
        return {"name": "me"}

    def repo_exists(self, repo: str) -> bool:
        return repo == "org/taken"

    def create_repo(self, repo: str, private: bool) -> str:
        self.made.append((repo, private))
        return f"https://hub/{repo}"

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.made.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    made: list = []  # noqa: RUF012


@pytest.fixture
def fake_hub(monkeypatch) -> type[FakeHub]:
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(hub, "_token", lambda: "hf_mine")
    monkeypatch.setattr(FakeHub, "made", [])
    return FakeHub


def arguments(out, push: str) -> Namespace:
    return Namespace(cfg_path=config("gemma"), options=[], out=out, format=None, push=push)


def test_push_uploads_the_folder_as_a_new_private_repository(fake_hub, tmp_path) -> None:
    export(arguments(tmp_path / "out", "org/new"))
    assert fake_hub.made == [
        ("org/new", True),
        ("org/new", sorted(path.name for path in (tmp_path / "out").iterdir())),
    ]


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [("hf_mine", "org/taken", "is on the hub already"), (None, "org/new", "put a token that may write")],
)
def test_push_is_refused_before_anything_is_written(
    fake_hub, token, repo, message, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(hub, "_token", lambda: token)
    with pytest.raises(ConfigError, match=message):
        export(arguments(tmp_path / "out", repo))
    assert not (tmp_path / "out").exists()
    assert not fake_hub.made


def test_export_refuses_a_folder_that_exists(tmp_path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        export(arguments(tmp_path, None))
