"""What dataset/README_MINIGPTv2_FINETUNE.md says of its items; test_documents.py looks at the commands."""

import re

from minigpt4.datasets.download.items import ITEMS
from tests.support import ROOT


def test_every_item_is_in_the_table() -> None:
    text = (ROOT / "dataset" / "README_MINIGPTv2_FINETUNE.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(item.name for item in ITEMS)
    assert f"in {len(ITEMS)} items" in text
    total = sum(float(re.search(r"([\d.]+) GB", row)[1]) for row in rows)
    assert abs(total - sum(item.gigabytes for item in ITEMS)) < 0.05
