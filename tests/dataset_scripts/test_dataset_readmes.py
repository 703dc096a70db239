"""What dataset/README_MINIGPTv2_FINETUNE.md says of its items; test_documents.py looks at the commands."""

import re
from pathlib import Path

import pytest

from minigpt4.common.config import load_yaml, plain
from minigpt4.common.registry import registry
from minigpt4.datasets.download.items import ITEMS
from tests.support import ROOT, published

README = (ROOT / "dataset" / "README_MINIGPTv2_FINETUNE.md").read_text(encoding="utf-8")


def test_every_item_is_in_the_table() -> None:
    text = README.split("## Training on them")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(item.name for item in ITEMS)
    assert f"in {len(ITEMS)} items" in text
    total = sum(float(re.search(r"([\d.]+) GB", row)[1]) for row in rows)
    assert abs(total - sum(item.gigabytes or 0 for item in ITEMS)) < 0.05


def places(value: object) -> list[str]:
    """All paths below the folder of the data that a `build_info` names."""
    if isinstance(value, dict):
        return [place for inner in value.values() for place in places(inner)]
    if isinstance(value, list):
        return [place for inner in value for place in places(inner)]
    return [str(value).removeprefix("DATA/")] if str(value).startswith("DATA/") else []


@pytest.mark.parametrize("name", published.WRITERS)
def test_every_data_set_is_in_the_table_and_reads_what_is_downloaded(name: str, monkeypatch) -> None:
    monkeypatch.setenv("MINIGPT4_DATA", "DATA")
    (section,) = load_yaml(registry.get_builder_class(name).default_config_path()).datasets.values()
    named = {*places(plain(section.build_info))}
    (row,) = [
        line for line in README.splitlines() if re.match(rf"\| [^|]*`{name}`[^|]* \|.*\|.*\|.*\|.*\|", line)
    ]
    assert {*re.findall(r"`([\w./]+)`", "|".join(row.split("|")[2:4]))} == named
    there = {item.folder for item in ITEMS} | {f"{item.folder}/{item.file}" for item in ITEMS if item.file}
    # What archives and folders of Google Drive hold, by their names.
    there |= {"textcaps/train_images", "gqa/images", "ocrvqa/dataset.json", "ocrvqa/images"}
    there |= {f"filtered_flickr/{file}.json" for file in ("groundedcaption", "captiontobbox", "phrasetobbox")}
    assert named <= there


def test_tiny_copies_are_laid_out_as_the_download(tmp_path: Path) -> None:
    """So what the tests of the data sets read is where the real files will be."""
    for name in published.WRITERS:
        published.write(name, tmp_path)
    tops = {path.name for path in tmp_path.iterdir()}
    assert tops == {item.folder.split("/")[0] for item in ITEMS}
