"""Pools of instructions: those that come with the package, and a user's own."""

import random
import re
from collections import Counter

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.prompts.instruction_templates import POOLS, Instructions

pytestmark = pytest.mark.unit

TASKS = ("caption", "detection", "grounding", "identify", "refer", "vqa")


def test_every_task_has_a_pool() -> None:
    assert {path.stem for path in POOLS.iterdir()} == {*TASKS, "video_caption"}


@pytest.mark.parametrize("task", TASKS)
def test_wordings_begin_with_the_published_identifier_and_are_alike(task: str) -> None:
    pool = Instructions.pool(task)
    assert all(line.startswith(f"[{task}] ") for line in pool.lines)
    assert len({*pool.lines}) == len(pool.lines)
    assert not (pool.around and pool.alone)
    assert bool(pool.alone) == (task in ("caption", "grounding"))


def test_wordings_are_drawn_evenly_from_the_generator_given() -> None:
    pool = Instructions(["a {}", "b", "{} c", "d", "", "  "])
    rng = random.Random(0)
    assert Counter(pool.about("x", rng) for _ in range(1000)).keys() == {"a x", "x c"}
    drawn = Counter(pool.ask(rng) for _ in range(1000))
    assert drawn.keys() == {"b", "d"} and min(drawn.values()) > 440
    assert [pool.ask(random.Random(5)) for _ in range(5)] == [pool.ask(random.Random(5))] * 5


def test_the_text_of_a_sample_is_not_read_as_a_template() -> None:
    assert (
        Instructions(["[vqa] {} Why?"]).about("Is {} \\1 {0}?", random.Random(0))
        == "[vqa] Is {} \\1 {0}? Why?"
    )


def test_without_wordings_the_text_stands_alone() -> None:
    rng = random.Random(0)
    state = rng.getstate()
    assert Instructions(()).about("What?", rng) == "What?"
    assert Instructions(()).ask(rng) is None
    assert rng.getstate() == state


def test_a_users_file_replaces_a_pool(tmp_path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Where is {}?\n\nFind {}.\r\n", encoding="utf-8")
    pool = Instructions.read(str(path), "key", Instructions.pool("refer"))
    assert pool.lines == ["Where is {}?", "Find {}."]


@pytest.mark.parametrize(
    ("content", "like", "message"),
    [
        (b"\n", None, "mine.txt has no instruction: please write one per line"),
        (b"a {} and {}", None, "must hold {} at most once and no <ImageHere>"),
        (b"<Img><ImageHere></Img> {}", None, "must hold {} at most once and no <ImageHere>"),
        (b"\xff", None, "mine.txt could not be read (UnicodeDecodeError"),
        (b"x" * 200_000, None, "text of more than 100,000 characters"),
        (b"Where?", "refer", "'Where?' must hold {}, where the sample's text goes, e.g. '[refer] Which box"),
        (b"What? {}", "caption", "'What? {}' must not hold {}, e.g. '[caption] "),
    ],
)
def test_a_file_that_cannot_be_used_names_its_key(tmp_path, content, like, message) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^key: .*{re.escape(message)}"):
        Instructions.read(str(path), "key", Instructions.pool(like) if like else None)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("a")
    with pytest.raises(ConfigError, match=r"^key: no file '.*mime\.txt'; did you mean 'mine\.txt'\?"):
        Instructions.read(str(tmp_path / "mime.txt"), "key")
    with pytest.raises(ConfigError, match=r"^key is '/path/to/x\.txt'"):
        Instructions.read("/path/to/x.txt", "key")
