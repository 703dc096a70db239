"""`minigpt4 reproduce`: what is missing is named, what is there is evaluated, on small copies of the data."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from minigpt4.commands import reproduce
from minigpt4.commands.reproduce import PLACES
from minigpt4.datasets import workers
from minigpt4.datasets.download import items
from minigpt4.tasks.base_task import BaseTask
from minigpt4.weights import download
from tests.support.benchmarks import as_published, write_benchmarks
from tests.support.golden import golden_model_config
from tests.support.hub_server import FileServer

pytestmark = pytest.mark.integration


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of data, laid out as docs/evaluation.md says, and a config beside it."""
    folder = tmp_path / "data"
    sections = write_benchmarks(folder)
    (folder / "hm").rename(folder / "hateful_meme")
    for _, pictures in PLACES.values():
        shutil.copytree(folder / "pictures", folder / pictures, dirs_exist_ok=True)
    for number in range(3):
        name = f"{number:012d}.jpg"
        shutil.copy(folder / "pictures" / name, folder / "coco/val2014" / f"COCO_val2014_{name}")
        (folder / "coco/val2014" / name).unlink()
    vis = {"train": {"name": "blip2_image_eval", "image_size": 56}}
    content = {
        "model": golden_model_config(llm_sanity_check=False),
        "datasets": {"cc_sbu_align": {"vis_processor": vis}},
        "evaluation_datasets": {name: sections[name] for name in PLACES},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def run(monkeypatch, data: Path, *words) -> int:
    start = ["minigpt4 reproduce", "minigptv2", "--data", str(data)]
    monkeypatch.setattr("sys.argv", [*start, "--cfg-path", str(data.parent / "eval.yaml"), *map(str, words)])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    return end.value.code


@pytest.fixture
def server(monkeypatch) -> Iterator[FileServer]:
    """In place of those that publish the benchmarks; it has nothing yet."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    with FileServer() as server:
        there = {
            name: tuple(
                replace(one, sources=(f"{server.url}/{one.name}",))
                if one.sources[0].startswith("http")
                else one
                for one in own
            )
            for name, own in items.BENCHMARK_ITEMS.items()
        }
        monkeypatch.setattr(items, "BENCHMARK_ITEMS", there)
        yield server


def publish(data: Path, server: FileServer) -> None:
    """Serve each item of the table as an archive or a file of what `data` has of it, then remove `data`."""
    as_published(data)
    lines = [json.loads(line) for line in (data / "vsr/test.jsonl").read_text().splitlines()]
    for line in lines:
        picture = (data / "vsr/vsr_images" / line["image"]).read_bytes()
        line["image_link"], _ = server.serve(f"/train2017/{line['image']}", picture)
    (data / "vsr/test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    names = {"okvqa_annotations": "mscoco*", "okvqa_questions": "Open*", "refcocop": "refcoco+/*"}
    names |= {"refcoco": "refcoco/*", "refcocog": "refcocog/*"}
    for item in {one for own in items.BENCHMARK_ITEMS.values() for one in own}:
        if not item.sources[0].startswith("http"):
            continue
        folder = data / item.folder
        if item.file:
            server.serve(f"/{item.name}", (folder / item.file).read_bytes())
            continue
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in folder.rglob(names.get(item.name, "*")):
                if path.is_file():
                    archive.writestr(item.strip + path.relative_to(folder).as_posix(), path.read_bytes())
        server.serve(f"/{item.name}", packed.getvalue())
    shutil.rmtree(data)


def test_reproduce_fetches_what_is_published_and_evaluates_it(data, server, monkeypatch, capsys) -> None:
    publish(data, server)
    # Without processes that read ahead, of which each of 39 evaluations would start one.
    monkeypatch.setattr(workers, "read_by_workers", lambda loader, _: nullcontext(iter(loader.dataset)))
    out = data.parent / "out"
    assert run(monkeypatch, data, "--out", out, "--limit", 2, "--device", "cpu") == 1
    said = capsys.readouterr()
    assert "missing: hm: https://hatefulmemeschallenge.com gives them out for a form" in said.err
    assert "dev.jsonl does not exist" in said.err
    assert {line.split()[1] for line in said.err.splitlines() if line.startswith("missing: ")} == {"hm:"}
    report = json.loads((out / "report.json").read_text())
    assert report["datasets"] == [name for name in PLACES if name != "hm"]
    assert report["published"]["okvqa_test_accuracy"] == 0.578
    assert set(report["controls"]) == {"others", "grey"}
    assert "| okvqa test accuracy |" in (out / "report.md").read_text()
    assert (data / "gqa").is_dir() and not (data / "gqa/train_balanced_questions.json").exists()
    requests = len(server.seen)
    assert run(monkeypatch, data, "--check") == 1 and len(server.seen) == requests


def test_reproduce_evaluates_what_is_there_and_names_what_is_missing(
    data, server, monkeypatch, capsys
) -> None:
    (data / "vizwiz/vizwiz_images/VizWiz_val_1.jpg").unlink()
    shutil.rmtree(data / "vsr")
    evaluated = []
    monkeypatch.setattr("minigpt4.commands.evaluate.evaluate", evaluated.append)
    assert run(monkeypatch, data) == 1
    said = capsys.readouterr()
    assert "missing: vizwiz: val: 1 of 3 pictures are missing in" in said.err
    assert "the first is VizWiz_val_1.jpg (from https://vizwiz.org" in said.err
    assert "missing: vizwiz_images: could not download" in said.err and "or put it at" in said.err
    assert "missing: vsr: " in said.err and "test.jsonl does not exist" in said.err
    # Nothing is fetched for what is there.
    assert {seen.path for seen in server.seen} == {"/vizwiz", "/vizwiz_images", "/vsr"}
    assert "val 3, testA 3, testB 3" in said.out and "present: " in said.out
    (args,) = evaluated
    assert args.dataset == [name for name in PLACES if name not in ("vizwiz", "vsr")] and args.controls


def test_reproduce_names_an_entry_without_a_picture(data, monkeypatch, capsys) -> None:
    path = data / "okvqa" / "mscoco_val2014_annotations_clean.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["image_id"] = []
    path.write_text(json.dumps(content))
    assert run(monkeypatch, data, "--check") == 1
    assert "missing: okvqa: entry 1 names no picture (TypeError: " in capsys.readouterr().err


def test_reproduce_check_builds_nothing(data, monkeypatch, capsys) -> None:
    monkeypatch.setattr(BaseTask, "build_model", lambda *_, **__: pytest.fail("a model is built"))
    assert run(monkeypatch, data, "--check") == 0
    assert run(monkeypatch, data.parent / "data" / "nothing", "--cfg-path", data.parent / "eval.yaml") == 1
    said = capsys.readouterr().err
    assert all(f"missing: {name}: " in said for name in PLACES)


def test_reproduce_takes_the_tables_own_config(tmp_path, monkeypatch, capsys) -> None:
    """Without a YAML; its language model and its checkpoint must be set."""
    monkeypatch.setattr("sys.argv", ["minigpt4 reproduce", "minigptv2", "--data", str(tmp_path), "--check"])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "missing: model.llama_model" in said and "missing: model.ckpt" in said and "missing: gqa" in said
    assert "model.ckpt: model.ckpt" not in said
