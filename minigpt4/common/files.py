"""Files that others may read, or a kill may meet, while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place to write to, beside `path`, that becomes `path` when the block ends.

    At every moment `path` is the old file or the whole new one, after a power cut too. Where the block
    fails, nothing is left of the new one.
    """
    path = Path(path)
    # Not mkstemp's: its files can be read by their owner alone.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # writing to a full disk does not name it
        raise
    finally:
        temporary.unlink(missing_ok=True)
