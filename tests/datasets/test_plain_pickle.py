"""RefCOCO's pickles: plain containers are read, and nothing is run, whatever a pickle holds."""

import os
import pickle
import pickletools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets import plain_pickle
from minigpt4.datasets.datasets.plain_pickle import read_plain_pickle

REFS = [
    {
        "ref_id": 7,
        "split": "train",
        "box": (1.5, -2, True, None),
        "ids": {1, 2},
        "sentences": [{"raw": "Der Hügel"}],
    }
]


class Command:
    """What a hostile pickle calls."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def written(folder: Path, content: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, pickle.HIGHEST_PROTOCOL])
def test_read_plain_pickle_reads_plain_containers(tmp_path, protocol) -> None:
    # Before protocol 4 a set is an object that is called.
    refs = [REFS[0] | ({} if protocol >= 4 else {"ids": [1, 2]})]
    assert read_plain_pickle(written(tmp_path, pickle.dumps(refs, protocol))) == refs


def test_read_plain_pickle_reads_texts_of_python_2(tmp_path) -> None:
    """Its `str` is bytes: UTF-8, or whatever else, which must not end the reading."""
    path = written(tmp_path, b"(dS'raw'\nS'H\\xc3\\xbcgel \\xff'\ns.")
    assert read_plain_pickle(path) == {"raw": "Hügel \ufffd"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("named", [os.system, eval, Path, print])
def test_read_plain_pickle_runs_nothing(tmp_path, protocol, named) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps([Command(named, f"touch {trace}")], protocol)
    with pytest.raises(
        DataError, match=r"is not a pickle of plain lists and dicts \(UnpicklingError: it names "
    ):
        read_plain_pickle(written(tmp_path, content))
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # a call
        b"(S'true'\nios\nsystem\n.",  # an old instance
        b"\x80\x02\x82\x01.",  # a name from the table of extensions
        b"Pabc\n.",  # an object from elsewhere
        b"\x80\x02]}q\x00(U\x08__dict__}ub.",  # a state for a list
        b"\x80\x02}(U\x01a]U\x01bX\x05\x00\x00\x00ab.",  # cut off
        b"(" * 1000,
        b"]" + b"2" * 1000,
        b"",
        b"not a pickle",
        b"\x80\xff.",
        b"I" + b"9" * 5000 + b"\n.",
    ],
)
def test_read_plain_pickle_refuses_everything_else(tmp_path, content) -> None:
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is not a pickle of plain lists and dicts \("):
        read_plain_pickle(written(tmp_path, content))


def test_read_plain_pickle_is_not_made_to_fill_the_memory(tmp_path) -> None:
    """`pickle.load` takes the number of a memo for the size of a table: here 64 GB."""
    huge = b"\x80\x02]r\xff\xff\xff\xff."
    assert [code.name for code, *_ in pickletools.genops(huge)][2] == "LONG_BINPUT"
    path = written(tmp_path, huge)
    tracemalloc.start()
    try:
        assert read_plain_pickle(path) == []
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_read_plain_pickle_refuses_what_is_no_file_or_too_large(tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"the annotation file .* does not exist"):
        read_plain_pickle(tmp_path / "none.p")
    with pytest.raises(DataError, match="/dev/zero cannot be read: is not a regular file"):
        read_plain_pickle("/dev/zero")
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", 10)
    with pytest.raises(DataError, match=r"has more than 0 MB, too much for a list of references"):
        read_plain_pickle(written(tmp_path, b"x" * 11))
