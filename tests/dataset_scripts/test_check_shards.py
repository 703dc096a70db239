"""minigpt4 check-shards: what it counts, how it ends, and the manifest that builders read."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from minigpt4.commands import check_shards
from minigpt4.commands.check_shards import Findings, histogram, read_shard, repeated_keys, report
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.datasets.manifest import write_manifest
from minigpt4.datasets.datasets.shard_list import expand_shards
from tests.support import ROOT
from tests.support.shards import encoded, picture, sample, write_good, write_shard


def ended(monkeypatch: pytest.MonkeyPatch, *words: object) -> str | int | None:
    """What a command line exits with."""
    monkeypatch.setattr("sys.argv", ["check-shards", *map(str, words), "--workers", "1"])
    with pytest.raises(SystemExit) as end:
        check_shards.main()
    return end.value.code


def test_good_shards_end_with_0_and_give_manifest_and_picture(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    write_good(tmp_path / "data", shards=3, each=4)
    manifest, png = tmp_path / "good.json", tmp_path / "h.png"
    pattern = f"{tmp_path}/data/{{00000..00002}}.tar"
    words = [pattern, "--write-manifest", str(manifest), "--png", str(png), "--workers", "2"]
    line = [sys.executable, "-m", "minigpt4", "check-shards", *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 shards, 12 good samples, 0 times something bad; ")
    assert "words a caption: 2 to 2, mean 2.0\n       2 -      2           12  ####" in done.stdout
    assert "width in pixels: 8 to 8" in done.stdout
    assert json.loads(manifest.read_text()) == {
        "samples": 12,
        "shards": {f"data/0000{n}.tar": 4 for n in range(3)},
    }
    with Image.open(png) as image:
        assert image.size == (1320, 330)


def test_everything_bad_is_counted_and_ends_with_1(tmp_path, monkeypatch, capsys) -> None:
    shards = write_good(tmp_path, shards=3, each=4)
    with tarfile.open(shards[1]) as tar:
        third_picture = tar.getmembers()[4]
    os.truncate(shards[1], third_picture.offset_data + 10)
    write_shard(
        Path(shards[2]),
        [
            *sample("a", b"no picture"),
            *sample("b", None),
            *sample("c", caption="a dog runs"),
            *sample("d", caption=" "),
            *sample("e", meta=b"{"),
            *sample("000000001"),  # as in the first shard
            *sample("c"),
        ],
    )
    (tmp_path / "empty.tar").write_bytes(b"")
    manifest = tmp_path / "good.json"
    more = [tmp_path / "empty.tar", tmp_path / "absent.tar"]
    assert ended(monkeypatch, *shards, *more, "--write-manifest", manifest) == 1
    shown, logged = capsys.readouterr()
    assert not logged
    cut = read_shard(shards[1])
    assert (cut.good, cut.bad) == (2, {"truncated shard": 1})
    assert read_shard(shards[2]).bad == {
        "broken image": 1,
        "no image": 1,
        "empty caption": 1,
        "broken json": 1,
    }
    assert shown.startswith("5 shards, 9 good samples, 7 times something bad; ")
    for line in (
        "          1  truncated shard",
        "          1  empty shard",
        "          1  missing shard",
        f"  {shards[1]}: 2 good, bad: {{'truncated shard': 1}}",
        "keys that occur more than once: 4 samples have them",
        f"  {shards[0]}: 1",
        f"  {shards[2]}: 3",
    ):
        assert line in shown.splitlines()
    # What is good of a truncated shard is used; what has nothing good is not even opened.
    assert json.loads(manifest.read_text())["shards"] == {"00000.tar": 4, "00001.tar": 2, "00002.tar": 3}
    assert expand_shards(str(manifest), "k") == shards


def test_sizes_words_and_caption_key(tmp_path) -> None:
    members = sample("a", encoded(picture(size=8).resize((12, 7))), "one two three")
    members += sample("b", encoded(picture(size=9), "PNG"), "one", suffix="png", meta={"alt": "a b c d"})
    found = read_shard(write_shard(tmp_path / "0.tar", members))
    assert (found.words, found.widths, found.heights) == ({3: 1, 1: 1}, {12: 1, 9: 1}, {7: 1, 9: 1})
    other = read_shard(str(tmp_path / "0.tar"), caption_key="alt")
    assert (other.good, other.words, other.bad) == (1, {4: 1}, {"no caption": 1})


def test_keys_that_occur_once_are_no_matter(tmp_path) -> None:
    found = {shard: read_shard(shard) for shard in write_good(tmp_path, shards=2, each=3)}
    assert repeated_keys(found) == {}
    assert not any("keys" in line for line in report(found, Findings(good=6), {}, 1.0))


def test_a_histogram_in_lines() -> None:
    lines = list(histogram("words", Counter({1: 10, 2: 20, 100: 5})))
    assert lines[0] == "words: 1 to 100, mean 15.7"
    assert lines[1] == "       1 -     10           30  " + "#" * 40
    assert lines[-1] == "      91 -    100            5  " + "#" * 7
    assert len(lines) == 11 and list(histogram("words", Counter())) == []


def test_mistakes_are_told_before_a_shard_is_read(tmp_path, monkeypatch) -> None:
    (shard,) = write_good(tmp_path, shards=1, each=1)
    (tmp_path / "sub").mkdir()
    said = ended(monkeypatch, shard, "--write-manifest", tmp_path / "sub" / "good.json")
    assert f"{shard} is not below {tmp_path}/sub: a manifest lies beside its shards or above" in str(said)
    with pytest.raises(ConfigError, match=r"is not below"):
        write_manifest(tmp_path / "m.json", {"https://x.org/0.tar": 1})
    with pytest.raises(ConfigError, match=r"m\.txt must end in \.json"):
        write_manifest(tmp_path / "m.txt", {shard: 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "is not a manifest as minigpt4 check-shards writes it: JSONDecodeError"),
        ("[]", "is not a manifest"),
        ('{"shards": ["a.tar"]}', "is not a manifest"),
        ('{"shards": {"a.tar": "many"}}', "is not a manifest"),
        ('{"shards": {"a.tar": 0}}', "lists no shard with good samples"),
        ('{"shards": {"../a.tar": 1}}', r"'../a.tar' leaves the folder"),
        ('{"shards": {"/a.tar": 1}}', r"'/a.tar' leaves the folder"),
        ('{"shards": {"pipe:touch x": 1}}', "no shard matches"),
    ],
)
def test_a_manifest_that_is_none(content, message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("m.json").write_text(content)
    with pytest.raises(DataError, match=message):
        expand_shards("m.json", "datasets.cc_sbu.build_info.storage")


def test_a_manifest_runs_no_commands(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_good(tmp_path, shards=1, each=1)
    Path("m.json").write_text('{"shards": {"00000.tar": 1, "pipe:touch x": 1}}')
    here = os.path.abspath(tmp_path)
    shards = expand_shards("m.json", "k")
    assert shards == [f"{here}/00000.tar", f"{here}/pipe:touch x"]
    assert [read_shard(shard).bad for shard in shards] == [{}, {"missing shard": 1}]
