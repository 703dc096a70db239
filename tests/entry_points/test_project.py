"""What pyproject.toml, the Makefile and the workflows say, against the code."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml

import minigpt4
from tests.support import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
# Imported by transformers when it reads a file of that kind, and by nothing of ours.
FOR_OTHERS = {"gguf", "protobuf", "sentencepiece"}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def distribution(name: str) -> str:
    """A distribution's name as the index normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {distribution(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported(*folders: str) -> set[str]:
    """The distributions that the modules of these folders import, at any depth."""
    roots = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    roots |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    roots.add((node.module or "").split(".")[0])
    installed = packages_distributions()
    return {distribution(name) for root in roots for name in installed.get(root, [])}


def test_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "minigpt4.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", minigpt4.__version__)


def test_dependencies_are_what_the_package_imports() -> None:
    required = declared(PROJECT["dependencies"])
    optional = {name for extra in PROJECT["optional-dependencies"].values() for name in declared(extra)}
    used = imported("minigpt4", "dataset") - {"minigpt4"}
    assert used <= required | optional
    assert required - used <= FOR_OTHERS


def test_tested_versions_are_pinned() -> None:
    """Everything that is required has a line in constraints.txt or in the file that it includes."""
    lines = [(ROOT / name).read_text() for name in ("constraints.txt", "constraints-shared.txt")]
    pinned = set(re.findall(r"^([\w.-]+)==", "\n".join(lines), re.MULTILINE))
    required = declared(PROJECT["dependencies"])
    assert required - {distribution(name) for name in pinned} == set()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_make_targets_that_exist(workflow) -> None:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    lines = [line for job in jobs for step in job["steps"] for line in step.get("run", "").splitlines()]
    commands = [line.split() for line in lines if line.startswith("make ")]
    assert commands
    for command in commands:
        done = subprocess.run([*command, "-n"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
