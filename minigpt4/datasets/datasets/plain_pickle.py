"""Pickles that hold nothing but lists, tuples, dicts, sets, texts and numbers.

RefCOCO's references are published as pickles, and `pickle.load` runs whatever code a pickle names.
"""

import io
import os
import pickle
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError, reading
from minigpt4.common.files import nearest_path, open_regular

MAX_BYTES = 200 * 2**20  # RefCOCO's have tens of MB


# Python's own unpickler in Python. The one in C takes a number from the file for the size of a table, and
# ten bytes would fill the memory with it.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Every class and function is refused, so there is nothing that a pickle could call."""
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def read_plain_pickle(path: str | Path) -> Any:
    """What a pickle of plain containers holds, in the text encoding of Python 2's pickles as well.

    Raises:
        DataError: if the file does not exist, is too large or damaged, or holds anything else.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise DataError(
                    f"{path} has more than {MAX_BYTES // 2**20} MB, too much for a list of references"
                )
            content = file.read()
    except FileNotFoundError as error:
        raise DataError(f"the annotation file {path} does not exist{nearest_path(path)}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with reading(path, DataError, failed="{} is not a pickle of plain lists and dicts"):
        return _PlainUnpickler(io.BytesIO(content), encoding="utf-8", errors="replace").load()
