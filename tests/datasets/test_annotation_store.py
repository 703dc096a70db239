"""Entries of annotation files kept out of memory: stored once, noticed when stale, shared by processes."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import DataError
from minigpt4.common.lock import Lock
from minigpt4.datasets.datasets import annotation_store
from minigpt4.datasets.datasets.annotation_store import AnnotationStore, store
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.processors import BaseProcessor

ENTRIES = [
    {"id": number, "text": "Zwölf\n" * number, "box": [0.5, None, {"a": True}]} for number in range(50)
]


class Reader(BaseDataset):
    """Counts how often it reads a file; gives every `step`-th entry."""

    REQUIRED_KEYS = ("id",)
    reads = 0

    @classmethod
    def entries(cls, path: str | Path, *, step: int = 1) -> Iterator[dict[str, Any]]:
        Reader.reads += 1
        yield from json.loads(Path(path).read_bytes())[::step]


@pytest.fixture(autouse=True)
def always_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small files, too; torch hub's cache is below `tmp_path`."""
    monkeypatch.setattr(annotation_store, "IN_MEMORY", 0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(Reader, "reads", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.json"
    path.write_text(json.dumps(ENTRIES))
    return path


def build(*paths: Path, **options: Any) -> Reader:
    return Reader(BaseProcessor(), BaseProcessor(), paths[0].parent, paths, **options)


def stored_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.entries"))


def test_entries_are_those_of_the_files_in_order(path: Path) -> None:
    (other := path.with_name("b.json")).write_text(json.dumps(ENTRIES[:3]))
    entries = build(path, other, path).annotation
    assert list(entries) == ENTRIES + ENTRIES[:3] + ENTRIES
    assert (len(entries), entries[52], entries[-1], entries[50:53]) == (
        103,
        ENTRIES[2],
        ENTRIES[-1],
        ENTRIES[:3],
    )
    for outside in (103, -104):
        with pytest.raises(IndexError):
            entries[outside]


def test_a_file_is_read_once(path: Path) -> None:
    build(path)
    assert list(build(path).annotation) == ENTRIES and Reader.reads == 1
    assert [file.parent for file in stored_files(path.parent)] == [path.parent]
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".entries")) == ["a.json"]


def test_entries_of_a_small_file_stay_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_store, "IN_MEMORY", path.stat().st_size)
    assert list(build(path).annotation) == ENTRIES
    assert stored_files(path.parent) == []
    path.write_text(path.read_text() + " ")
    build(path)
    assert len(stored_files(path.parent)) == 1


def test_a_changed_file_is_read_anew(path: Path) -> None:
    build(path)
    status = path.stat()
    path.write_text(json.dumps([{"id": 1}]))
    assert list(build(path).annotation) == [{"id": 1}]
    path.write_text(json.dumps([{"id": 2}]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(build(path).annotation) == [{"id": 2}]
    os.utime(path, ns=(0, 0))
    build(path)
    assert Reader.reads == 4 and len(stored_files(path.parent)) == 1


def test_options_have_files_of_their_own(path: Path) -> None:
    for _ in range(2):
        assert list(build(path, step=10).annotation) == ENTRIES[::10]
        assert list(build(path).annotation) == ENTRIES
    assert Reader.reads == 2 and len(stored_files(path.parent)) == 2


def test_a_changed_class_reads_anew(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class outside the package, whose author edits how an entry is made."""
    source = (
        "from minigpt4.datasets.datasets.base_dataset import BaseDataset\n"
        "class Mine(BaseDataset):\n"
        "    @classmethod\n"
        "    def entries(cls, path):\n"
        "        yield {'says': 'SAYS'}\n"
    )
    said = []
    monkeypatch.syspath_prepend(tmp_path)
    for says in ("one", "two", "two"):
        (tmp_path / "mine_of_a_test.py").write_text(source.replace("SAYS", says))
        namespace: dict[str, Any] = {"__name__": "mine_of_a_test"}
        exec(compile(source.replace("SAYS", says), "mine", "exec"), namespace)
        import mine_of_a_test  # noqa: F401  (its file is what counts)

        entries = namespace["Mine"](BaseProcessor(), BaseProcessor(), path.parent, [path]).annotation
        said.append((entries[0]["says"], stored_files(path.parent)[0].stat().st_mtime_ns))
    assert [says for says, _ in said] == ["one", "two", "two"]
    assert said[0][1] != said[1][1] and said[1][1] == said[2][1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:20] + content[21:],
        lambda content: content[:-40] + b"\xff" * 8 + content[-32:],
        lambda content: content[:-40] + (2**40).to_bytes(8, "little") + content[-32:],
        lambda content: content[:-48] + b"\xff" * 8 + content[-40:],
    ],
    ids=["empty", "cut", "a byte lost", "negative count", "large count", "an offset"],
)
def test_a_damaged_file_is_written_anew(path: Path, damage: Any) -> None:
    build(path)
    (file,) = stored_files(path.parent)
    file.write_bytes(damage(file.read_bytes()))
    assert list(build(path).annotation) == ENTRIES and Reader.reads == 2


def test_a_damaged_line_is_an_error_that_names_the_file(path: Path) -> None:
    build(path)
    (file,) = stored_files(path.parent)
    content = file.read_bytes()
    file.write_bytes(b"[" + content[1:])
    dataset = build(path)
    assert dataset.annotation[1] == ENTRIES[1]
    with pytest.raises(DataError, match=rf"^{file} is damaged .*: please remove it$"):
        dataset.annotation[0]


def test_a_bad_entry_stores_nothing(path: Path) -> None:
    path.write_text(json.dumps([*ENTRIES, {"text": "a"}]))
    with pytest.raises(DataError, match=rf"^{path}, entry 50: 'id' is missing \(it has 'text'\)$"):
        build(path)
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(DataError, match=r"^the annotation file .*none\.json does not exist"):
        build(path.with_name("none.json"))


def no_room(target: Path, *rest: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))


def test_where_a_folder_cannot_be_written_the_cache_is(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, write = Path(torch.hub.get_dir()) / "annotations", annotation_store._write_file

    def only_in_cache(target: Path, *rest: Any) -> None:
        (write if cache in target.parents else no_room)(target, *rest)

    monkeypatch.setattr(annotation_store, "_write_file", only_in_cache)
    for _ in range(2):
        assert list(build(path).annotation) == ENTRIES
    (file,) = stored_files(tmp_path)
    assert file.is_relative_to(cache) and Reader.reads == 1
    monkeypatch.setattr(annotation_store, "_write_file", no_room)
    file.unlink()
    with pytest.raises(DataError, match=r"can be stored neither beside it nor in .*TORCH_HOME may name"):
        build(path)


def test_a_process_waits_for_the_one_that_writes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another's lock is held until it has written the file; then nothing is read again."""
    build(path)
    (file,) = stored_files(path.parent)
    content = file.read_bytes()
    file.unlink()
    lock = Lock(file.with_name(f".{file.name}.lock"))
    lock.acquire()

    def finish() -> None:
        file.write_bytes(content)
        lock.release()

    timer = threading.Timer(0.2, finish)
    timer.start()
    with caplog.at_level(logging.INFO):
        assert list(build(path).annotation) == ENTRIES
    timer.join()
    assert Reader.reads == 1 and f"{file} is being written by" in caplog.text


def test_what_a_killed_process_left_is_removed(path: Path) -> None:
    build(path)
    (file,) = stored_files(path.parent)
    file.unlink()
    left, other = (path.with_name(f".{name}.123.part") for name in (file.name, "b.json"))
    left.touch()
    other.touch()
    build(path)
    assert not left.exists() and other.exists()


def _read_in_worker(entries: AnnotationStore, numbers: list[int], results: Any) -> None:
    results.put([entries[number] for number in numbers])


@pytest.mark.integration
def test_spawned_workers_map_the_same_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = build(path).annotation
    sent = pickle.dumps(entries)
    assert len(sent) < 1000 and list(pickle.loads(sent)) == ENTRIES
    monkeypatch.setattr(annotation_store, "IN_MEMORY", 10**6)
    in_memory = build(path).annotation
    assert list(pickle.loads(pickle.dumps(in_memory))) == ENTRIES
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    worker = context.Process(target=_read_in_worker, args=(entries, [3, 49], results))
    worker.start()
    assert results.get() == [ENTRIES[3], ENTRIES[49]]
    worker.join()


def test_memory_of_a_large_file_does_not_grow_with_it(path: Path) -> None:
    """20,000 entries, of 8 MB as Python objects: what this process allocates for them is an index."""
    import tracemalloc

    def many() -> Iterator[dict[str, Any]]:
        return (
            {"image": f"{number}.jpg", "caption": "a dog on a sofa", "id": number} for number in range(20_000)
        )

    tracemalloc.start()
    entries = store([path], many, Reader, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert entries.entry(19_999)["id"] == 19_999
    assert peak < 2 * 2**20
