"""The stream of samples: what comes out, in which order, and what the processors make of it."""

import io
import pickle
import random
import socket
import threading
from collections import Counter
from functools import partial
from itertools import islice, pairwise, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from minigpt4.common import web
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.datasets import remote
from minigpt4.datasets.datasets.shard_list import expand_shards
from minigpt4.datasets.datasets.webdataset_stream import caption_dialogue
from minigpt4.datasets.stream import Skipped
from tests.support.hub_server import FileServer
from tests.support.shards import (
    TRAINING,
    encoded,
    numbers,
    picture,
    read,
    sample,
    sorted_out,
    stream,
    write_good,
    write_shard,
)


def test_everything_is_read_once_and_in_order(tmp_path) -> None:
    shards = write_good(tmp_path, shards=3, each=5)
    samples, bad = sorted_out(stream(shards))
    assert list(numbers(samples)) == list(range(15)) and not bad
    assert [s.image_id for s in samples[:2]] == ["000000000", "000000001"]
    assert list(numbers(read(stream(shards)))) == list(range(15))


def test_pictures_of_all_suffixes_are_read(tmp_path) -> None:
    kinds = dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), "JPEG") | {"tif": "TIFF"}
    kinds |= {kind.lower(): kind for kind in ("PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")}
    members = [
        member
        for suffix, kind in kinds.items()
        for member in sample(suffix, encoded(picture(), kind), suffix=suffix.upper())
    ]
    samples, bad = sorted_out(stream([write_shard(tmp_path / "0.tar", members)]))
    assert [one.image_id for one in samples] == [*kinds] and not bad
    exact = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    assert all(torch.equal(one.image, exact) for one in samples if one.image_id in ("png", "bmp", "tiff"))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_shards(tmp_path, workers) -> None:
    shards = write_good(tmp_path, shards=3, each=4)
    loader = DataLoader(BatchStream(stream(shards), 3), batch_size=None, num_workers=workers)
    batches = list(loader)
    found = [int(caption.split()[1]) for batch in batches for caption in batch.answers]
    assert sorted(found) == list(range(12))
    assert len(found) == 12
    if workers == 1:
        assert found == list(range(12))
    assert all(batch.images.shape[1:] == (3, 8, 8) for batch in batches)


def test_ranks_share_the_shards(tmp_path) -> None:
    shards = write_good(tmp_path, shards=3, each=2)
    shares = [list(numbers(read(stream(shards), reader=rank, readers=2))) for rank in range(2)]
    assert shares == [[0, 1, 4, 5], [2, 3]]


def test_a_loader_survives_the_way_to_a_spawned_worker(tmp_path) -> None:
    batches = BatchStream(stream(write_good(tmp_path, shards=1, each=3)), 3)
    (here,), (there,) = batches, pickle.loads(pickle.dumps(batches))
    assert here.answers == there.answers == ["picture 0", "picture 1", "picture 2"]
    assert torch.equal(here.images, there.images)


def test_a_limit_ends_the_stream(tmp_path) -> None:
    batches = BatchStream(stream(write_good(tmp_path, shards=2, each=5)), 3, limit=7)
    assert [len(batch.answers) for batch in batches] == [3, 3, 1]


def drawn(shards: list[str], count: int, rank: int = 0, seed: int = 0) -> list[int]:
    endless = read(stream(shards), training=True, seed=seed, reader=rank, readers=2)
    return list(numbers(islice(endless, count)))


def test_the_order_belongs_to_seed_and_rank(tmp_path) -> None:
    shards = write_good(tmp_path, shards=4, each=25)
    first = drawn(shards, 200, seed=1)
    assert first == drawn(shards, 200, seed=1)
    assert first != drawn(shards, 200, seed=2)
    assert first != drawn(shards, 200, seed=1, rank=1)


def test_workers_draw_different_orders(tmp_path) -> None:
    shards = write_good(tmp_path, shards=2, each=20)
    batches = BatchStream(stream(shards), 10, reading=TRAINING)
    first, second = islice(DataLoader(batches, batch_size=None, num_workers=2), 2)
    assert first.answers != second.answers


@pytest.mark.parametrize("buffer", [8, 1000])
def test_shuffling_loses_nothing_and_leaves_nothing_in_place(tmp_path, monkeypatch, buffer) -> None:
    """One shard of 40 a hundred times: each epoch is all of it, in an order of its own."""
    monkeypatch.setattr("minigpt4.datasets.datasets.shard_order.SHUFFLE_BUFFER", buffer)
    (shard,) = write_good(tmp_path, shards=1, each=40)
    order = list(numbers(islice(read(stream([shard]), training=True), 4000)))
    passes = [order[start : start + 40] for start in range(0, 4000, 40)]
    assert all(sorted(one) == list(range(40)) for one in passes)
    assert len({tuple(one) for one in passes}) == 100
    follows = sum(b == a + 1 for one in passes for a, b in pairwise(one))
    if buffer == 1000:  # all of it fits: every picture is as likely at every place
        firsts = Counter(one[0] for one in passes)
        assert len(firsts) > 30 and max(firsts.values()) <= 10
        assert follows < 160  # 98 by chance, 3,900 without shuffling
    else:  # none comes before it can have been read
        assert all(n < place + buffer for one in passes for place, n in enumerate(one))
        assert follows < 1000


def test_random_is_not_touched_by_a_stream(tmp_path) -> None:
    """The stream has a generator of its own: a run's other random draws do not depend on it."""
    shards = write_good(tmp_path, shards=2, each=3)
    random.seed(0)
    before = random.getstate()
    drawn(shards, 20)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG"), ("JPG", "JPEG")]
)
def test_suffixes(tmp_path, suffix, kind) -> None:
    shard = write_shard(tmp_path / "0.tar", sample("a", encoded(picture(), kind), suffix=suffix))
    (item,) = read(stream([shard]))
    assert item.image.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "JPEG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("CMYK", "JPEG"),
    ],
)
def test_modes_become_three_channels(tmp_path, mode, kind) -> None:
    data = encoded(picture(mode=mode), kind)
    (item,) = read(stream([write_shard(tmp_path / "0.tar", sample("a", data))]))
    assert item.image.dtype == torch.uint8 and item.image.shape == (3, 8, 8)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(item.image.permute(1, 2, 0).numpy(), expected)


def test_pixels_at_native_size_are_pils_bit_for_bit(tmp_path) -> None:
    data = [encoded(picture(seed, size=32), quality=90) for seed in range(5)]
    shard = write_shard(tmp_path / "0.tar", [m for n, d in enumerate(data) for m in sample(f"{n}", d)])
    for item, jpeg in zip(read(stream([shard], size=32)), data, strict=True):
        assert np.array_equal(item.image.permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize(
    ("caption", "meta", "expected"),
    [
        ("From the text", {"caption": 'A "Red" car #1: go!'}, "a red car 1 go"),
        ("From the TEXT; file", None, "from the text file"),
        ("from the text", {"caption": None}, "from the text"),
        ("from the text", {"url": "http://x"}, "from the text"),
        (None, {"caption": "json alone"}, "json alone"),
    ],
)
def test_caption_from_json_before_text(tmp_path, caption, meta, expected) -> None:
    (item,) = read(stream([write_shard(tmp_path / "0.tar", sample("a", caption=caption, meta=meta))]))
    assert item.dialogue.answer == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (None, "from the json"),
        ("caption", "from the json"),
        ("top_caption", "the better one"),
        ("txt", "from the text"),
        ("Alt", "from a file of its own"),
        ("key", None),
        ("__key__", None),
    ],
)
def test_a_named_caption(tmp_path, key, expected) -> None:
    """It comes from where it was asked for, or the sample is bad: never from somewhere else."""
    meta = {"caption": "from the json", "top_caption": "the better one"}
    members = [*sample("a", caption="from the text", meta=meta), ("a.ALT", b"from a file of its own")]
    shard = write_shard(tmp_path / "0.tar", members)
    (item,) = read(stream([shard], dialogue=partial(caption_dialogue, key=key)))
    if expected is None:
        assert isinstance(item, Skipped) and item.reason == "no caption"
    else:
        assert item.dialogue.answer == expected


def test_the_yaml_names_the_caption(tmp_path) -> None:
    shard = write_shard(tmp_path / "0.tar", sample("a", meta={"alt": "named", "caption": "other"}))
    section = {
        "batch_size": 1,
        "build_info": {"storage": {"test": shard}, "caption_key": "alt"},
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 8}},
    }
    for name in ("cc_sbu", "laion"):
        ((_, splits),) = build_datasets({name: section}).values()
        spawned = pickle.loads(pickle.dumps(splits["test"]))  # with its builder, which says what is said
        for stream_of_split in (splits["test"], spawned):
            assert [item.dialogue.answer for item in read(stream_of_split)] == ["named"]


def test_the_group_of_the_json_travels_along(tmp_path) -> None:
    members = sample("a", meta={"group": "birds"}) + sample("b")
    shard = write_shard(tmp_path / "0.tar", members)
    assert [item.group for item in read(stream([shard]))] == ["birds", ""]


def test_candidates_of_the_json_are_read_as_the_caption_is(tmp_path) -> None:
    members = sample("a", caption="A Dog!", meta={"candidates": ["A Cat!", "A Dog!"]}) + sample("b")
    for number, wrong in enumerate((["A Cat!"], "A Dog!", ["A Dog!", 4], {"A Dog!": 1})):
        members += sample(f"c{number}", caption="A Dog!", meta={"candidates": wrong})
    shard = write_shard(tmp_path / "0.tar", members)
    samples, bad = sorted_out(stream([shard]))
    assert [(item.dialogue.answer, item.candidates) for item in samples] == [
        ("a dog", ("a cat", "a dog")),
        ("a dog", ()),
    ]
    assert bad == {"the answer is not among the candidates": 1, "candidates are not a list of texts": 3}


def test_patterns_lists_and_splits_of_braces(tmp_path) -> None:
    shards = write_good(tmp_path, shards=3, each=1)
    assert expand_shards(f"{tmp_path}/{{00000..00002}}.tar", "k") == shards
    assert expand_shards([shards[2], f"{tmp_path}/{{00000,00001}}.tar"], "k") == [shards[2], *shards[:2]]
    assert expand_shards("pipe:cat a.tar", "k") == ["pipe:cat a.tar"]


def test_backslashes_belong_to_the_path(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.is_file", lambda self: True)
    assert expand_shards(r"C:\data\{0..1}.tar", "k") == [r"C:\data\0.tar", r"C:\data\1.tar"]


def test_a_shard_through_a_pipe(tmp_path) -> None:
    (shard,) = write_good(tmp_path, shards=1, each=3)
    samples, bad = sorted_out(stream([f"pipe:cat {shard}"]))
    assert list(numbers(samples)) == [0, 1, 2] and not bad


@pytest.mark.integration
def test_shards_over_http(tmp_path) -> None:
    """A brace pattern of URLs; one is not there, one ends early, one is refused, and all are counted."""
    good = write_good(tmp_path, shards=3, each=4)
    with FileServer() as server:
        for number, shard in enumerate(good):
            data = Path(shard).read_bytes()
            url, _ = server.serve(f"/{number}.tar", data[: 3 * 2560 + 100] if number == 2 else data)
        server.files["/4.tar"] = 403
        pattern = url.replace("2.tar", "{0..4}.tar")
        samples, bad = sorted_out(stream(expand_shards(pattern, "k")))
        assert list(numbers(samples)) == list(range(11))
        assert bad == {"truncated shard": 1, "missing shard": 1, "unreadable shard": 1}
        endless = read(stream(expand_shards([pattern, good[0]], "k")), training=True)
        assert set(numbers(s for s in islice(endless, 60) if not isinstance(s, Skipped))) == set(range(11))


@pytest.mark.integration
def test_a_server_that_cuts_stalls_or_is_busy_does_not_end_the_stream(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.3)
    monkeypatch.setattr(remote, "WAITS", (0.2,))
    (shard,) = write_good(tmp_path, shards=1, each=4)
    data = Path(shard).read_bytes()
    with FileServer() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        cut, _ = server.serve("/cut.tar", data, cuts=repeat(2 * 2560 + 10))
        busy, _ = server.serve("/busy.tar", data)
        file, server.files["/busy.tar"] = server.files["/busy.tar"], 503
        back = threading.Timer(0.1, server.files.update, [{"/busy.tar": file}])
        back.start()
        samples, bad = sorted_out(stream([busy]))
        assert list(numbers(samples)) == [0, 1, 2, 3] and not bad
        assert [seen.path for seen in server.seen] == ["/busy.tar"] * 2
        samples, bad = sorted_out(stream([cut, f"http://127.0.0.1:{silent.getsockname()[1]}/0.tar", shard]))
        assert list(numbers(samples)) == [0, 1, 0, 1, 2, 3]
        assert bad == {"truncated shard": 1, "unreadable shard": 1}
        monkeypatch.setattr(remote, "LARGEST_SHARD", 3000)
        samples, bad = sorted_out(stream([busy]))
        assert not samples and bad == {"unreadable shard": 1}
