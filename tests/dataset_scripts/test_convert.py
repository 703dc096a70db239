"""dataset/convert_*.py: the published lists to tables, odd entries counted, in little memory."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.commands.convert_captions import Counts, convert
from minigpt4.common.errors import ConfigError, DataError
from tests.support import ROOT

MB = 1 << 20


def written(tmp_path: Path, content: list | bytes | str) -> Path:
    path = tmp_path / "list.json"
    if isinstance(content, list):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def entry(n: int, caption: str = "a dog", **more) -> dict:
    return {"caption": caption, "url": f"http://x.org/{n}.jpg"} | more


def refused(source: Path, target: Path) -> str:
    with pytest.raises((ConfigError, DataError)) as error:
        convert(source, target)
    assert not target.exists() and not list(target.parent.glob("*.part"))
    return str(error.value)


def test_a_table_of_urls_and_captions(tmp_path) -> None:
    entries = [entry(0, "a dog", image_id=7), entry(1, 'the "best" café'), entry(2, '"quoted"')]
    counts = convert(written(tmp_path, entries), tmp_path / "out.tsv")
    assert counts == Counts(rows=3)
    assert (tmp_path / "out.tsv").read_bytes() == (
        "url\tcaption\n"
        "http://x.org/0.jpg\ta dog\n"
        'http://x.org/1.jpg\t"the ""best"" café"\n'
        'http://x.org/2.jpg\t"""quoted"""\n'
    ).encode()


def test_odd_entries_are_left_out_or_mended_and_counted(tmp_path) -> None:
    odd = [
        *(7, None, {"caption": "a dog"}, entry(0) | {"url": None}, entry(0) | {"url": "  "}),
        *(entry(0) | {"url": "ftp://x.org/a.jpg"}, entry(0) | {"url": "http://x.org/a b.jpg"}),
        *({"url": "http://x.org/0.jpg"}, entry(0, " \n"), entry(0) | {"caption": ["a dog"]}),
        *(entry(1, "a\tdog\r\nruns "), entry(2, "a\u2028b\x00c"), entry(3, "a \ud83d dog"), entry(4, "🐕")),
    ]
    counts = convert(written(tmp_path, odd), tmp_path / "out.tsv")
    assert counts.rows == 4
    assert counts.left_out == {"no keys": 2, "no url": 3, "an unusable url": 2, "no caption": 3}
    assert counts.mended["control characters"] >= 2  # half a character is mended by the parser in C itself
    captions = [row[1] for row in table(tmp_path / "out.tsv")[1:]]
    assert captions[:2] == ["a dog runs", "a b c"]
    assert captions[2].startswith("a ") and captions[2].endswith(" dog")
    assert captions[3] == "🐕"
    assert str(counts).startswith("4 rows; left out: 3 with no url; left out: 3 with no caption; ")


def test_bytes_that_are_not_utf8(tmp_path) -> None:
    text = json.dumps([entry(n, "café 🐕") for n in range(60_000)], ensure_ascii=False)
    data = "\ufeff".encode() + text.encode()  # longer than a chunk, so that characters are cut in two
    place = data.index("é".encode(), len(data) // 2)
    data = data[:place] + b"\xe9" + data[place + 2 :]  # as Latin-1 writes it
    counts = convert(written(tmp_path, data), tmp_path / "out.tsv")
    assert counts == Counts(rows=60_000, mended={"bytes that are not UTF-8": 1})
    captions = [row[1] for row in table(tmp_path / "out.tsv")[1:]]
    assert set(captions) == {"café 🐕", "caf\ufffd 🐕"} and captions.count("caf\ufffd 🐕") == 1
    bad_url = written(tmp_path, b'[{"url": "http://x.org/\xe9.jpg", "caption": "a"}]')
    assert "left out: 1 with an unusable url" in refused(bad_url, tmp_path / "bad.tsv")


def test_what_is_no_list_or_breaks_off(tmp_path) -> None:
    out = tmp_path / "out.tsv"
    text = json.dumps([entry(n) for n in range(100)])
    assert "breaks off or is damaged after 50 entries, before byte" in refused(
        written(tmp_path, text[: text.index('"http://x.org/50')]), out
    )
    assert "after 1 entries" in refused(
        written(tmp_path, '[{"url": "http://x.org/1", "caption": "a"}, oops'), out
    )
    assert "after 2 entries" in refused(written(tmp_path, json.dumps([entry(0), entry(1)]) + "]"), out)
    for value in ("9" * 5000, "[" * 10**5, "1e99999999999999999999", '"\\udc00"', "-"):
        assert "is damaged" in refused(written(tmp_path, f"[{json.dumps(entry(0))}, {value}]"), out)
    assert "not a JSON array: it begins with b'{}'" in refused(written(tmp_path, "{}"), out)
    assert "not a JSON array: it begins with b''" in refused(written(tmp_path, ""), out)
    assert "no entry with a url and a caption (0 rows)" in refused(written(tmp_path, "[]"), out)
    assert "file not found" in refused(tmp_path / "absent.json", out)
    assert "out.csv must end in .tsv or .parquet" in refused(written(tmp_path, "[]"), tmp_path / "out.csv")


def test_a_failure_leaves_an_earlier_table_and_a_rerun_replaces_it(tmp_path) -> None:
    out = tmp_path / "out.tsv"
    convert(written(tmp_path, [entry(0)]), out)
    (tmp_path / "out.tsv.part").write_text("of a run that was killed")
    before = out.read_bytes()
    with pytest.raises(DataError):
        convert(written(tmp_path, json.dumps([entry(1)])[:-1]), out)
    assert out.read_bytes() == before
    convert(written(tmp_path, [entry(1)]), out)
    assert table(out) == [["url", "caption"], ["http://x.org/1.jpg", "a dog"]]


def test_parquet(tmp_path, monkeypatch) -> None:
    source = written(tmp_path, [entry(n, f"picture\t{n}") for n in range(5)])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow.parquet", None)
        assert "parquet needs pyarrow: pip install pyarrow" in refused(source, tmp_path / "out.parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("minigpt4.commands.convert_captions.PARQUET_ROWS", 2)
    assert convert(source, tmp_path / "out.parquet").rows == 5
    columns = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert columns == {
        "url": [f"http://x.org/{n}.jpg" for n in range(5)],
        "caption": [f"picture {n}" for n in range(5)],
    }
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.slow
def test_a_file_larger_than_the_memory_it_may_take(tmp_path) -> None:
    """300 MB of list in 200 MB of address space, Python and its libraries included."""
    rows = 200
    block = ", ".join(json.dumps(entry(n, "a dog " * 800)) for n in range(rows))
    times = 300 * MB // len(block) + 1
    source = tmp_path / "large.json"
    with source.open("w") as file:
        file.write("[" + block)
        for _ in range(times - 1):
            file.write(", " + block)
        file.write("]")
    assert source.stat().st_size > 300 * MB
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({200 * MB}, {200 * MB}));"

    def limited(code: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", limit + code], cwd=ROOT, capture_output=True, text=True)

    done = limited(
        f"import sys; sys.argv = ['convert', {str(source)!r}, {str(tmp_path / 'out.tsv')!r}];"
        "from minigpt4.commands.convert_captions import main; main()"
    )
    assert done.returncode == 0, done.stderr
    assert f"{times * rows:,} rows; " in done.stdout
    with (tmp_path / "out.tsv").open() as file:
        assert sum(1 for _ in file) == times * rows + 1
    assert "MemoryError" in limited(f"import json; json.load(open({str(source)!r}))").stderr


@pytest.mark.parametrize("script", ["convert_cc_sbu", "convert_laion"])
def test_the_commands(script: str, tmp_path) -> None:
    source, out = written(tmp_path, [entry(0), {}]), tmp_path / "out.tsv"
    command = [sys.executable, ROOT / "dataset" / f"{script}.py"]
    done = subprocess.run([*command, source, out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 1 rows; left out: 1 with no url; ")
    source.write_text("[")
    done = subprocess.run([*command, source, out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {source} breaks off or is damaged after 0 entries")
