"""Archives, lists and answers of servers."""

import json
import zipfile
from pathlib import Path

from minigpt4.commands.convert_captions import convert
from minigpt4.common import web
from minigpt4.datasets.datasets import remote
from minigpt4.datasets.download.items import Item
from minigpt4.datasets.download.store import Store, fetch_pictures
from minigpt4.weights import download
from tests.fuzz import data
from tests.support.raw_server import sending
from tests.support.shards import JPEG, sample, write_shard


def write_zip(folder: Path) -> None:
    store = Store(folder / "data")
    store.state.mkdir(parents=True)
    with zipfile.ZipFile(store.state / "images.zip", "w") as archive:
        for n in range(3):
            archive.writestr(f"train2014/{n}.jpg", JPEG)


def read_zip(folder: Path) -> None:
    Store(folder / "data").fetch(
        Item("images", 0.1, "coco/images", ("http://127.0.0.1:9/a.zip",), strip="train2014/")
    )


def write_list(folder: Path) -> None:
    entries = [{"url": f"http://x.org/{n}.jpg", "caption": f"Picture {n}."} for n in range(3)]
    (folder / "captions.json").write_text(json.dumps(entries))
    pictures = {f"B00{n}": {"imageURL": f"http://127.0.0.1:9/{n}.jpg", "title": "x"} for n in range(3)}
    (folder / "pictures.json").write_text(json.dumps(pictures))


def read_captions(folder: Path) -> None:
    convert(folder / "captions.json", folder / "captions.tsv")


def read_pictures(folder: Path) -> None:
    (folder / "out").mkdir()
    path = folder / "pictures.json"
    content = path.read_bytes() if path.is_file() else b""
    with sending(lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"]) as url:
        here = folder / "here.json"
        here.write_bytes(content.replace(b"http://127.0.0.1:9/", url.encode() + b"/"))
        fetch_pictures("covers", here, folder / "out")


def write_answer(folder: Path) -> None:
    body = (write_shard(folder / "a.tar", [*sample("a"), *sample("b")]), (folder / "a.tar").read_bytes())[1]
    head = f'HTTP/1.1 200 OK\r\nContent-Type: x/y\r\nETag: "1"\r\nContent-Length: {len(body)}\r\n\r\n'
    (folder / "answer").write_bytes(head.encode() + body)
    (folder / "a.tar").unlink()


def read_answer(folder: Path) -> None:
    web.TIMEOUT, web.SLOW_SECONDS = 2.0, 1.0
    remote.WAITS, download.WAITS = (0.0,), (0.0,)
    with (folder / "answer").open("rb") as file:
        content = file.read(10_000_000)
    with sending(lambda _: [content]) as url:
        data.train_on("cc_sbu", {"storage": url})
        download.Download(url, folder / "file.pth", None, "model.ckpt").run()
