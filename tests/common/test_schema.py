"""A section of YAML as a dataclass: what is converted, what is refused, and by which name."""

from dataclasses import dataclass
from typing import Any

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import key, parse, read, without_effect


@dataclass(kw_only=True)
class Inner:
    hidden_size: int = key(768, low=1)


@dataclass(kw_only=True)
class Section:
    batch_size: int = key(low=1)
    ratio: float = key(0.5, low=0, high=1)
    flag: bool = False
    name: str | None = key(None, choices=("left", "right"))
    splits: list[str] = key(["train"])
    size: int | None = 3
    inner: Inner = key(Inner)
    anything: Any = None
    place: str | list[str] = "x"
    mean: float | list[float] | None = None


def test_parse_converts_and_fills_in_defaults() -> None:
    given = {"batch_size": 2, "ratio": 1, "size": None, "inner": {"hidden_size": 5}, "mean": [1, 2.5]}
    section = parse(Section, given | {"anything": {"a": [1]}, "place": ["a", "b"]}, "datasets.x")
    assert section == Section(
        batch_size=2,
        ratio=1.0,
        size=None,
        inner=Inner(hidden_size=5),
        anything={"a": [1]},
        place=["a", "b"],
        mean=[1.0, 2.5],
    )
    assert isinstance(section.ratio, float)
    assert parse(Section, {"batch_size": 1}, "x").splits is not parse(Section, {"batch_size": 1}, "x").splits


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size 1.5 whole number"),
        ({"batch_size": True}, "batch_size True whole number"),
        ({"batch_size": "3"}, "batch_size '3' whole number"),
        ({"batch_size": None}, "batch_size None whole number"),
        ({"batch_size": 0}, "batch_size 0 at least 1"),
        ({"batch_size": 1, "flag": "maybe"}, "flag 'maybe' True or False"),
        ({"batch_size": 1, "ratio": 2}, "ratio 2.0 from 0 to 1"),
        ({"batch_size": 1, "ratio": float("nan")}, "ratio nan finite"),
        ({"batch_size": 1, "name": "lift"}, "name 'lift' 'left' left, right"),
        ({"batch_size": 1, "splits": "train"}, "splits 'train' list of names"),
        ({"batch_size": 1, "inner": [1]}, "inner [1] mapping"),
        ({"batch_size": 1, "inner": {"hidden": 1}}, "inner.hidden 'hidden_size'"),
        ({"batch_size": 1, "mean": ["x"]}, "mean ['x'] list of numbers"),
        ({"batch_sise": 1}, "batch_sise 'batch_size'"),
    ],
)
def test_parse_names_the_key_the_value_and_what_would_be_right(given: dict, facts: str) -> None:
    with pytest.raises(ConfigError, match=r"datasets\.x\.") as error:
        parse(Section, given, "datasets.x")
    message = str(error.value)
    for fact in facts.split(" "):
        assert fact in message


def test_parse_leaves_out_what_somebody_else_reads() -> None:
    assert parse(Section, {"batch_size": 1, "arch": "minigpt4"}, "x", ignore=("arch",)).batch_size == 1
    with pytest.raises(ConfigError, match="mapping"):
        parse(Section, [1], "x")  # type: ignore[arg-type]


def test_read_needs_no_key_and_fills_in_defaults() -> None:
    assert read(Section, {"ratio": 1}, "x") == {
        **{"ratio": 1.0, "flag": False, "name": None, "splits": ["train"], "size": 3, "inner": Inner()},
        **{"anything": None, "place": "x", "mean": None},
    }
    with pytest.raises(ConfigError, match=r"x\.ratio is 2"):
        read(Section, {"ratio": 2.0}, "x")


@dataclass(kw_only=True)
class Named:
    task: str = key("image_text_pretrain", names="task")
    splits: list[str] = key(["a"], choices=("a", "b"), effect=False)
    folder: str = key("~/x", path=True)


def test_parse_looks_names_up_and_expands_paths(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert parse(Named, {"folder": "~/y"}, "run").folder == "/home/me/y"
    assert parse(Named, {"task": "short_answer"}, "run").task == "short_answer"
    with pytest.raises(ConfigError, match=r"^run\.task: no task.*did you mean 'short_answer'"):
        parse(Named, {"task": "short_anwser"}, "run")
    with pytest.raises(ConfigError, match=r"^run\.task: nowhere:Mine: no module 'nowhere'"):
        parse(Named, {"task": "nowhere:Mine"}, "run")


def test_parse_takes_each_item_of_a_list_from_its_choices() -> None:
    assert parse(Named, {"splits": ["b", "a"]}, "run").splits == ["b", "a"]
    with pytest.raises(ConfigError, match=r"run\.splits is \['c'\].*known: a, b"):
        parse(Named, {"splits": ["c"]}, "run")


def test_without_effect_names_the_keys() -> None:
    assert without_effect(Named) == ["splits"]
