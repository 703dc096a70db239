"""What a YAML key or an argument may name as shards."""

import os
from pathlib import Path

import pytest

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.datasets.shard_list import MAX_SHARDS, expand_shards
from tests.support.shards import write_good

pytestmark = pytest.mark.unit


def test_wildcards_and_folders_are_their_shards_in_order(tmp_path: Path) -> None:
    shards = write_good(tmp_path, shards=3, each=1)
    (tmp_path / "good.json").write_text("{}")
    (tmp_path / ".hidden.tar").touch()
    (tmp_path / "more.tgz").touch()
    everything = [*shards, str(tmp_path / "more.tgz")]
    assert expand_shards(str(tmp_path), "k") == everything
    assert expand_shards(f"{tmp_path}/", "k") == everything
    assert expand_shards(f"{tmp_path}/*", "k") == everything
    assert expand_shards(f"{tmp_path}/*.tar", "k") == shards
    assert expand_shards(f"{tmp_path}/**/0000[01].tar", "k") == shards[:2]
    assert expand_shards([shards[2], f"{tmp_path}/*0.tar"], "k") == [shards[2], shards[0]]
    assert expand_shards(f"file://{shards[0]}", "k") == shards[:1]


def test_a_name_that_looks_like_a_wildcard_is_a_name_where_there_is_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].tar").touch()
    assert expand_shards(f"{tmp_path}/a[1].tar", "k") == [f"{tmp_path}/a[1].tar"]


@pytest.mark.parametrize("pattern", ["http://[::1/0.tar", "http://h:99999/0.tar", "https:///0.tar"])
def test_a_url_that_is_no_address_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^k is "):
        expand_shards(pattern, "k")


@pytest.mark.parametrize(
    "pattern", ["gs://b/{0..9}.tar", "s3://b/0.tar", "ftp://h/0.tar", "hf://x/0.tar", "unknown://x/0.tar"]
)
def test_a_url_that_is_not_read_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"^k: {pattern[:5]}.*cannot be read.*pipe:"):
        expand_shards(pattern, "k")


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999}.tar",
        "{0..9999}/{0..9999}.tar",
        "{9..0}" * 9,
        "{a,b}" * 30,
        "{a,{b,{c,{0..999999999}}}}",
        "{a,b,c,{d}}" * 20,
        "http://h/{0..999999999}.tar",
        "{" + "9" * 200 + "..0}",
        "{a," * 20_000 + "}" * 20_000,
    ],
)
def test_braces_that_stand_for_too_much_are_refused_before_they_are_expanded(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^k is .*(more than 1,000,000 shards|nested too deeply)"):
        expand_shards(pattern, "k")


def test_braces_that_stand_for_much_are_not(tmp_path: Path) -> None:
    assert len(expand_shards(f"http://h/{{0..{MAX_SHARDS - 1}}}.tar", "k")) == MAX_SHARDS
    assert len(expand_shards("http://h/{0..999999999..1000000}.tar", "k")) == 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["shard.tar", "shard"])
def test_pipes_and_devices_are_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for odd in (str(tmp_path / name), "/dev/zero"):
        with pytest.raises(DataError, match=f"^k: {odd} is a pipe or a device"):
            expand_shards(odd, "k")


@pytest.mark.parametrize("name", ["absent", "*.tar", "a" * 5000, "a\0b", ".", "{a,b}/[0-9].tar"])
def test_what_is_not_there_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"^k: no shard matches"):
        expand_shards(str(tmp_path / name), "k")
