"""docs/configuration.md is what the schemas say."""

import re

from minigpt4.commands.describe_config import describe
from minigpt4.common.config import load_yaml, plain
from tests.support import ROOT

DOCUMENT = (ROOT / "docs" / "configuration.md").read_text()


def test_describe_config_is_the_document() -> None:
    assert describe() + "\n" == DOCUMENT, "please run: minigpt4 describe-config > docs/configuration.md"


def test_document_explains_every_key_of_the_originals_yamls() -> None:
    named = {key.split(".")[-1] for key in re.findall(r"^\| `([\w.]+)`", DOCUMENT, re.MULTILINE)}
    for path in sorted((ROOT / "tests/original_configs").rglob("*.yaml")):
        for section in load_yaml(path).values():
            missing = leaf_keys(plain(section)) - named
            assert not missing, f"{path.name}: {missing}"


def leaf_keys(section: dict) -> set[str]:
    """The keys whose values are not mappings, at any depth."""
    leaves = {key for key, value in section.items() if not isinstance(value, dict)}
    return leaves.union(*(leaf_keys(value) for value in section.values() if isinstance(value, dict)))
