"""minigpt4 download-minigptv2 against a local server."""

import argparse
import io
import json
import stat
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from minigpt4.commands import download_minigptv2
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.download.items import ITEMS, Item
from minigpt4.datasets.download.store import Store
from minigpt4.weights import download
from tests.support import ROOT
from tests.support.hub_server import FileServer
from tests.support.shards import JPEG


@pytest.fixture
def server(monkeypatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    with FileServer() as server:
        yield server


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


PICTURES = zipped(**{"train2014/": b"", **{f"train2014/{n}.jpg": JPEG + bytes([n]) for n in range(20)}})


def images(*urls: str) -> Item:
    return Item("images", 0.1, "coco/images", urls, strip="train2014/")


def refused(item: Item, store: Store, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as error:
        store.fetch(item)
    assert str(error.value).startswith(f"{item.name}: ")
    assert store.status(item) != "done"
    return str(error.value)


def new_store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "data")
    store.state.mkdir(parents=True)
    return store


def test_an_archive_is_resumed_unpacked_and_deleted(server, tmp_path) -> None:
    url, _ = server.serve("/train2014.zip", PICTURES, cuts=iter([1000, 0, 500]))
    store, item = new_store(tmp_path), images(url)
    assert store.status(item) == "missing"
    store.fetch(item)
    folder = tmp_path / "data" / "coco" / "images"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        f"{n}.jpg": JPEG + bytes([n]) for n in range(20)
    }
    assert [seen.headers.get("range") for seen in server.seen] == [
        *(None, "bytes=1000-", "bytes=1000-", "bytes=1500-")
    ]
    assert [p.name for p in store.state.iterdir()] == ["images.json"]
    assert json.loads((store.state / "images.json").read_text()) == {"files": 20}
    requests = len(server.seen)
    store.fetch(item)
    assert len(server.seen) == requests and store.status(item) == "done"


def test_what_broke_off_is_taken_up_by_the_next_run(server, tmp_path) -> None:
    url, file = server.serve("/train2014.zip", PICTURES, cuts=iter([1000, 0, 0, 0]))
    store = new_store(tmp_path)
    message = refused(images(url), store)
    assert "stopped after 1,000 of" in message and "images.zip yourself" in message
    assert store.status(images(url)) == "begun"
    store.fetch(images(url))
    assert server.seen[-1].headers["range"] == "bytes=1000-"
    assert server.seen[-1].sent == len(file.data) - 1000


def test_unpacking_goes_on_where_it_was_stopped(server, tmp_path) -> None:
    store = new_store(tmp_path)
    (store.state / "images.zip").write_bytes(PICTURES)  # as if put there by hand
    folder = tmp_path / "data" / "coco" / "images"
    folder.mkdir(parents=True)
    (folder / "3.jpg").write_bytes(JPEG + bytes([3]))
    (folder / "4.jpg").write_bytes(b"cut off")
    untouched = (folder / "3.jpg").stat().st_mtime_ns
    store.fetch(images(server.url + "/absent.zip"))
    assert (folder / "3.jpg").stat().st_mtime_ns == untouched
    assert (folder / "4.jpg").read_bytes() == JPEG + bytes([4])
    assert len(list(folder.iterdir())) == 20 and not server.seen


def test_a_second_source_where_the_first_is_down(server, tmp_path) -> None:
    url, _ = server.serve("/archived/train2014.zip", PICTURES)
    server.files["/train2014.zip"] = 503
    new_store(tmp_path).fetch(images(server.url + "/train2014.zip", url))
    assert len(list((tmp_path / "data" / "coco" / "images").iterdir())) == 20


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.jpg", "/evil.jpg", "{here}/evil.jpg", "train2014/{here}/evil.jpg", "train2014//evil.jpg"),
        *("train2014/../../../evil.jpg", "train2014/a/../../evil.jpg", "train2014/..", "train2014/."),
        *(
            "C:\\evil.jpg",
            "train2014/C:evil.jpg",
            "train2014/a\\..\\..\\evil.jpg",
            "train2014/\\\\x\\evil.jpg",
        ),
        *("train2014/evil.jpg:stream", "train2014/./../evil.jpg", "train2014/train2014/../../evil.jpg"),
    ],
)
def test_no_name_leaves_the_folder(name: str, server, tmp_path) -> None:
    name = name.replace("{here}", str(tmp_path))
    url, _ = server.serve("/x.zip", zipped(**{"train2014/1.jpg": JPEG, name: JPEG}))
    assert "nothing was unpacked" in refused(images(url), new_store(tmp_path))
    assert not list(tmp_path.rglob("*.jpg*"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_an_archive_holds_files_and_nothing_else(kind: int, server, tmp_path) -> None:
    info = zipfile.ZipInfo("train2014/evil.jpg")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    buffer = io.BytesIO(zipped(**{"train2014/1.jpg": JPEG}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, str(tmp_path / "victim"))
    url, _ = server.serve("/x.zip", buffer.getvalue())
    assert "is a link or a device" in refused(images(url), new_store(tmp_path))
    assert not list(tmp_path.rglob("*.jpg*"))


def test_what_is_not_wanted_of_an_archive_stays_in_it(server, tmp_path) -> None:
    url, _ = server.serve("/x.zip", zipped(**{"val/1.jpg": JPEG, "train/2.jpg": JPEG, "val.json": b"[]"}))
    store = new_store(tmp_path)
    store.fetch(Item("val", 0.1, "val", (url,), strip="val/", only="val/"))
    assert [path.name for path in (tmp_path / "data" / "val").iterdir()] == ["1.jpg"]
    assert json.loads((store.state / "val.json").read_text()) == {"files": 1}


def test_pictures_of_json_lines(server, tmp_path) -> None:
    store = new_store(tmp_path)
    url, _ = server.serve("/train2017/9.jpg", JPEG)
    lines = [{"image": "9.jpg", "image_link": url}, {"image": "9.jpg", "image_link": url}]
    (tmp_path / "data/test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    store.fetch(Item("vsr_images", 0.1, "vsr", ("pictures-of:test.jsonl",)))
    assert (tmp_path / "data/vsr/9.jpg").read_bytes() == JPEG and len(server.seen) == 1
    for bad in (
        {"image": "../9.jpg", "image_link": url},
        {"image": "9.jpg", "image_link": "file:///9.jpg"},
        {},
    ):
        (tmp_path / "data/test.jsonl").write_text(json.dumps(bad))
        item = Item("bad", 0.1, "vsr", ("pictures-of:test.jsonl",))
        assert "is not a list of pictures" in refused(item, store, DataError)


def test_no_archive_unpacks_to_a_hundred_times_its_size(server, tmp_path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train2014/1.jpg", bytes(10**7))
    url, _ = server.serve("/x.zip", buffer.getvalue())
    assert "unpack to 10,000,000" in refused(images(url), new_store(tmp_path))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:  # whose memory the archive decides
        archive.writestr("train2014/1.jpg", JPEG)
    url, _ = server.serve("/y.zip", buffer.getvalue())
    item = Item("more", 0.1, "coco/images", (url,), strip="train2014/")
    assert "compressed by method 14" in refused(item, new_store(tmp_path / "y"))
    assert not list(tmp_path.rglob("*.jpg*"))


def test_damaged_archives_are_fetched_again(server, tmp_path) -> None:
    damaged = bytearray(PICTURES)
    damaged[PICTURES.index(JPEG) + 100] ^= 1
    store = new_store(tmp_path)
    _, file = server.serve("/x.zip", bytes(damaged))
    assert "is damaged (Bad CRC-32" in refused(images(server.url + "/x.zip"), store)
    file.data, file.etag = b"no zip", '"2"'
    assert "is damaged (File is not a zip file) and deleted" in refused(images(server.url + "/x.zip"), store)
    file.data, file.etag = PICTURES, '"3"'
    store.fetch(images(server.url + "/x.zip"))
    assert (tmp_path / "data/coco/images/0.jpg").read_bytes() == JPEG + b"\0"


def test_single_files_and_what_is_not_json(server, tmp_path) -> None:
    store = new_store(tmp_path)
    url, _ = server.serve("/a.json", b' [{"a": 1}]\n')
    item = Item("captions", 0.1, "captions", (url,), "a.json")
    store.fetch(item)
    assert (tmp_path / "data/captions/a.json").read_bytes() == b' [{"a": 1}]\n'
    other = Item("other", 0.1, "captions", (server.serve("/b.json", b"[1, 2")[0],), "b.json")
    assert "b.json was downloaded, but is not JSON: it begins with b'[1, 2'" in refused(other, store)
    page = Item("page", 0.1, "captions", (f"{server.url}/c.json",), "c.json")
    server.serve("/c.json", b"<html>", headers={"Content-Type": "text/html"})
    assert "is a web page, not a file" in refused(page, store)
    assert [p.name for p in (tmp_path / "data/captions").iterdir()] == ["a.json"]


def test_google_drive(tmp_path, monkeypatch) -> None:
    file = Item("multitask", 0.1, "multi", ("drive:1abc",), "multi.json")
    folder = Item("flickr", 0.1, "flickr", ("drive-folder:2def",))
    store = new_store(tmp_path)
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert "need gdown: pip install gdown" in refused(file, store)

    calls, content = [], ["[1]"]

    def fetch(id: str, output: str, resume: bool, quiet: bool) -> None:
        calls.append((id, output, resume))
        Path(output, "a.json" if id == "2def" else "").write_text(content[0])

    fake = types.SimpleNamespace(download=fetch, download_folder=fetch)
    monkeypatch.setitem(sys.modules, "gdown", fake)
    store.fetch(file)
    store.fetch(folder)
    place = tmp_path / "data"
    assert calls == [("1abc", str(place / "multi/multi.json"), True), ("2def", str(place / "flickr"), True)]
    assert store.status(file) == store.status(folder) == "done"

    content[0] = "<html>quota</html>"
    again = Item("again", 0.1, "again", ("drive:3",), "a.json")
    assert "is not JSON" in refused(again, store)
    fake.download = lambda **_: 1 / 0
    assert "Google Drive gives nothing (division by zero); https://drive.google.com/file/d/3 in" in refused(
        again, store
    )


def test_the_real_gdown_takes_these_arguments() -> None:
    gdown = pytest.importorskip("gdown")
    import inspect

    for function in (gdown.download, gdown.download_folder):
        assert {"id", "output", "resume", "quiet"} <= set(inspect.signature(function).parameters)


def test_pictures_of_a_list(server, tmp_path) -> None:
    store = new_store(tmp_path)
    item = Item("covers", 0.1, "ocr/images", ("pictures-of:ocr/dataset.json",))
    assert "dataset.json is not there yet" in refused(item, store)
    for n in range(3):
        server.serve(f"/{n}.gif", JPEG + bytes([n]))
    server.files["/busy.jpg"] = 503
    listed = {f"B00{n}": {"imageURL": f"{server.url}/{n}.gif"} for n in range(3)}
    listed |= {"gone": {"imageURL": f"{server.url}/gone.jpg"}, "busy": {"imageURL": f"{server.url}/busy.jpg"}}
    listed["same"] = listed["B001"]
    path = tmp_path / "data/ocr/dataset.json"
    path.write_text(json.dumps(listed))
    assert "1 of 6 pictures could not be downloaded: run this again" in refused(item, store)
    server.serve("/busy.jpg", JPEG, cuts=repeat(5))
    assert "1 of 6 pictures could not be downloaded" in refused(item, store)
    server.serve("/busy.jpg", JPEG)
    server.seen.clear()
    store.fetch(item)
    assert sorted(seen.path for seen in server.seen) == ["/busy.jpg", "/gone.jpg"]
    assert {p.name for p in (tmp_path / "data/ocr/images").iterdir()} == {
        *("B000.gif", "B001.gif", "B002.gif", "busy.jpg", "same.gif")
    }
    assert json.loads((store.state / "covers.json").read_text()) == {"files": 5, "gone": ["gone.jpg"]}
    for bad in (
        {"../x": listed["same"]},
        {"x": {"imageURL": "file:///etc/passwd"}},
        {"x": {"imageURL": "http://x/a.\\b"}},
        {"x": 1},
        [1],
    ):
        path.write_text(json.dumps(bad))
        other = Item("bad", 0.1, "ocr/images", item.sources)
        assert "is not a list of pictures" in refused(other, store, DataError)


@pytest.mark.parametrize("sized", [True, False])
def test_a_picture_too_large_to_train_on_counts_as_gone(server, tmp_path, monkeypatch, sized) -> None:
    monkeypatch.setattr("minigpt4.datasets.download.store.MAX_FILE_BYTES", len(JPEG))
    store = new_store(tmp_path)
    server.serve("/small.jpg", JPEG, sized=sized)
    server.serve("/large.jpg", JPEG + b"x", sized=sized)
    listed = {name: {"imageURL": f"{server.url}/{name}.jpg"} for name in ("small", "large")}
    path = tmp_path / "data/ocr/dataset.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(listed))
    store.fetch(Item("covers", 0.1, "ocr/images", ("pictures-of:ocr/dataset.json",)))
    assert json.loads((store.state / "covers.json").read_text()) == {"files": 1, "gone": ["large.jpg"]}


def test_the_command_fetches_the_rest_and_shows_one_table(server, tmp_path, monkeypatch, capsys) -> None:
    url, _ = server.serve("/a.json", b"[]")
    items = (
        Item("lost", 1.0, "lost", (server.url + "/lost.zip",)),
        Item("captions", 0.5, "captions", (url,), "a.json"),
        Item("form", 2.0, "form", ("by-hand:fill in a form",)),
        Item("other", None, "other", ("by-hand:ask them",)),
    )
    monkeypatch.setattr(download_minigptv2, "ITEMS", items)
    args = argparse.Namespace(out=tmp_path / "data", only=[], list=False)
    with pytest.raises(SystemExit) as ended:
        download_minigptv2.download(args)
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()[1:5]] == [
        *(["lost", "missing"], ["captions", "done"], ["form", "by"], ["other", "by"])
    ]
    assert [line.split("  ")[-1].strip() for line in out.splitlines()[3:5]] == ["fill in a form", "ask them"]
    assert out.splitlines()[4].split()[3] == "?"
    assert out.endswith("still to download: about 1.0 GB; by hand: about 2.0 GB + ?\n")
    assert "error: lost: could not download" in err and "404 Not Found); or put it at" in err
    assert "error: form: fill in a form; put the pictures into" in err
    (tmp_path / "data/form/1.jpg").write_bytes(JPEG)
    with pytest.raises(SystemExit) as ended:
        download_minigptv2.download(argparse.Namespace(out=args.out, only=["form", "captions"], list=False))
    assert ended.value.code == 0
    with pytest.raises(ConfigError, match=r"no item 'caption'; did you mean 'captions'\?"):
        download_minigptv2.choose(["caption"])


def test_the_real_table(tmp_path) -> None:
    command = [sys.executable, "-m", "minigpt4", "download-minigptv2", "--out", str(tmp_path / "d"), "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(ITEMS) + 2
    assert lines[-1] == "still to download: about 65.1 GB; by hand: about 4.4 GB"
    assert [line.split()[0] for line in lines[1:-1]] == [item.name for item in ITEMS]
    assert len({item.name for item in ITEMS}) == len(ITEMS)
    assert not (tmp_path / "d").exists()
