"""The way of stage 1's data, end to end: a list, the real img2dataset, a check, a manifest, training.

img2dataset lives in its own environment (`make img2dataset`), since it wants older packages than ours.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.datasets.datasets.shard_list import expand_shards
from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
from tests.support import ROOT
from tests.support.hub_server import FileServer
from tests.support.runs import run_config, train
from tests.support.shards import encoded, sorted_out

COMMAND = os.environ.get("IMG2DATASET") or shutil.which(
    "img2dataset", path=f"{ROOT}/.venv-img2dataset/bin{os.pathsep}{os.environ.get('PATH', '')}"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMMAND is None, reason="there is no img2dataset: make img2dataset"),
]

GOOD, EACH = 240, 80  # pictures that are there, URLs a shard
KINDS = (("JPEG", "RGB"), ("PNG", "RGB"), ("WEBP", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "L"))


class SlowServer(FileServer):
    """Waits longer than anybody would for what is below /slow/."""

    def __init__(self) -> None:
        super().__init__()
        self._server.socket.listen(128)  # with the usual 5, a crowd of threads waits at the door

    def answer(self, path: str, headers: dict[str, str]) -> tuple:
        if path.startswith("/slow/"):
            time.sleep(5)
        return super().answer(path, headers)


def shade(n: int) -> int:
    """The grey that picture n is of."""
    return n % 256


def good_picture(n: int) -> tuple[str, bytes]:
    kind, mode = KINDS[n % len(KINDS)]
    size = (300, 260) if n % 2 else (150, 400)
    image = Image.new("L", size, shade(n)).convert(mode)
    return kind.lower(), encoded(image, kind)


def put_up(server: FileServer) -> list[dict[str, Any]]:
    """All pictures, good and bad, and the list as it is published."""
    urls = []
    for n in range(GOOD):
        suffix, data = good_picture(n)
        cuts = iter([20]) if n % 40 == 7 else iter(())  # the connection breaks once, then no more
        urls.append(server.serve(f"/good/{n}.{suffix}", data, cuts=cuts)[0])
    server.files["/moved.png"] = server.url + "/good/1.png"
    for n in range(5):
        urls.append(server.serve(f"/slow/{n}.png", good_picture(1)[1])[0])
        urls.append(server.serve(f"/broken/{n}.jpg", good_picture(1)[1][:50])[0])
        urls.append(server.serve(f"/page/{n}.jpg", b"<html>gone</html>")[0])
        urls.append(server.serve(f"/cut/{n}.jpg", good_picture(0)[1], cuts=repeat(100))[0])
        server.files[f"/busy/{n}.jpg"] = 503
        urls += [f"{server.url}/busy/{n}.jpg", f"{server.url}/missing/{n}.jpg"]
    urls.append(f"{server.url}/moved.png")
    entries = [{"image_id": n, "url": url, "caption": f'picture "{n}"'} for n, url in enumerate(urls)]
    order = np.random.default_rng(0).permutation(len(entries))
    return [{"caption": "nothing to see"}, *(entries[place] for place in order)]


def command(*words: object) -> str:
    done = subprocess.run(
        list(map(str, words)),
        cwd=ROOT,
        env=os.environ | {"IMG2DATASET": COMMAND, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def download(folder: Path) -> None:
    tiny = ("--number_sample_per_shard", EACH, "--processes_count", 1, "--thread_count", 16, "--timeout", 2)
    command("dataset/download_cc_sbu.sh", folder / "list.tsv", folder / "shards", *tiny, "--retries", 1)


def statistics(folder: Path) -> dict[str, int]:
    files = [json.loads(path.read_text()) for path in sorted((folder / "shards").glob("*_stats.json"))]
    names = ("count", "successes", "failed_to_download", "failed_to_resize")
    return {name: sum(file[name] for file in files) for name in names}


def test_from_the_published_list_to_training(tmp_path: Path) -> None:
    with SlowServer() as server:
        (tmp_path / "list.json").write_text(json.dumps(put_up(server)))
        out = command(
            sys.executable, "dataset/convert_cc_sbu.py", tmp_path / "list.json", tmp_path / "list.tsv"
        )
        assert out.startswith(f"{tmp_path}/list.tsv: 271 rows; left out: 1 with no url; ")
        download(tmp_path)
        expected = {"count": 271, "successes": 241, "failed_to_download": 20, "failed_to_resize": 10}
        assert statistics(tmp_path) == expected
        tries = Counter(seen.path for seen in server.seen)
        assert tries["/busy/0.jpg"] == tries["/cut/0.jpg"] == tries["/slow/0.png"] == 2
        assert tries["/good/7.png"] == 2 and tries["/good/8.webp"] == 1

        shards = sorted((tmp_path / "shards").glob("*.tar"))
        assert [shard.name for shard in shards] == [f"0000{n}.tar" for n in range(4)]
        check_pictures(list(map(str, shards)))
        resume(tmp_path, server)

    manifest = tmp_path / "good.json"
    pattern = f"{tmp_path}/shards/{{00000..00003}}.tar"
    out = command(sys.executable, "-m", "minigpt4", "check-shards", pattern, "--write-manifest", manifest)
    assert out.startswith("4 shards, 241 good samples, 0 times something bad")
    assert expand_shards(str(manifest), "k") == list(map(str, shards))

    cfg = run_config(tmp_path, tmp_path / "job", max_epoch=1, iters_per_epoch=3)
    cfg.config.datasets.cc_sbu.build_info.storage = str(manifest)
    report, _ = train(cfg)
    log = [json.loads(line) for line in (tmp_path / "job" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3 and np.isfinite(log[-1]["loss"])
    assert not report.get("bad_samples")


def as_planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def check_pictures(shards: list[str]) -> None:
    """Each caption lies beside its own picture, whose shorter side is 224 unless it was less."""
    samples, bad = sorted_out(WebdatasetStream(shards, as_planes, str))
    assert not bad
    seen = {}
    for item in samples:
        number = int(item.dialogue.answer.removeprefix('picture "').removesuffix('"'))
        seen[number] = item.image
    assert sorted(seen) == [*range(GOOD), GOOD + 30]
    for number, pixels in seen.items():
        of = number if number < GOOD else 1
        assert pixels.shape == ((3, 224, 258) if of % 2 else (3, 400, 150))
        assert abs(int(np.median(pixels)) - shade(of)) <= 1


def resume(folder: Path, server: FileServer) -> None:
    """As after a power cut in the middle of a shard: that one is made anew, the others are left alone."""
    shards = sorted((folder / "shards").glob("*.tar"))
    before = [shard.read_bytes() for shard in shards]
    (folder / "shards" / "00001_stats.json").unlink()
    os.truncate(shards[1], len(before[1]) // 2)
    server.seen.clear()
    download(folder)
    assert len({seen.path for seen in server.seen}) <= EACH + 1
    after = [shard.read_bytes() for shard in shards]
    assert [a == b for a, b in zip(before, after, strict=True)][::2] == [True, True]
    assert before[3] == after[3]
    assert statistics(folder)["successes"] == 241
    check_pictures(list(map(str, shards)))
