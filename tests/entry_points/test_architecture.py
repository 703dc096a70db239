"""docs/architecture.md against the imports of the code."""

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.unit

PACKAGE = ROOT / "minigpt4"
# Modules that stand where the original has such names, and re-export them.
RE_EXPORTS = {"common/dist_utils.py", "common/optims.py", "common/utils.py", "conversation/conversation.py"}
RE_EXPORTS |= {"common/eval_utils.py"}


def packages() -> list[str]:
    """The packages that the page lists, the highest first."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^(\w+)/ {2,}", page.split("## Packages")[1].split("## ")[0], re.MULTILINE)


def imported(path: Path) -> set[str]:
    """The packages of ours that a file imports, in functions too."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {module.split(".")[1] for module in modules if module.startswith("minigpt4.")}


def test_page_lists_every_package() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {*packages()} == folders - {"compat"}


@pytest.mark.parametrize("package", packages())
def test_imports_point_downwards(package) -> None:
    above = set(packages()[: packages().index(package)])
    for path in sorted((PACKAGE / package).rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix() not in RE_EXPORTS:
            assert not imported(path) & above, path
