"""Fetch everything that finetuning MiniGPT-v2 needs, item by item: about 70 GB, 90 GB while it unpacks.

example:
  minigpt4 download-minigptv2 --out data/minigptv2 --list
  minigpt4 download-minigptv2 --out data/minigptv2 --only coco_images coco_captions
  minigpt4 download-minigptv2 --out data/minigptv2

Run it again after an interruption: what is done is skipped, and what broke off is resumed. An archive that
you already have may be put into OUT/.downloads/NAME.zip. Exits with 1 unless everything is there.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minigpt4.common import cli
from minigpt4.datasets.download.items import ITEMS, Item

if TYPE_CHECKING:
    from minigpt4.datasets.download.store import Store


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "--out", type=cli.user_path, required=True, metavar="DIR", help="the folder of all items"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="fetch only these items")
    parser.add_argument("--list", action="store_true", help="show what there is, and fetch nothing")
    cli.run(download, parser.parse_args())


def download(args: argparse.Namespace) -> None:
    """Choose the items, fetch what is missing, show the table; exit with 1 unless everything is there."""
    from minigpt4.datasets.download.store import Store

    items, store = choose(args.only), Store(args.out)
    problems = [] if args.list else store.fetch_all(items)
    print(overview(items, store))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def choose(names: Sequence[str]) -> list[Item]:
    """The items of these names, in the table's order; all of them without names."""
    from minigpt4.common.errors import ConfigError, nearest

    known = [item.name for item in ITEMS]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--only: no item {name!r}{nearest(name, known)} (there are: {', '.join(known)})"
            )
    return [item for item in ITEMS if not names or item.name in names]


def overview(items: Sequence[Item], store: "Store") -> str:
    """The table of items, and how much of them is still to come."""
    from minigpt4.common.formatting import format_table

    rows = [(item.name, store.status(item), _size([item]), item.folder, item.origin) for item in items]
    missing, by_hand = (
        _size([item for item in items if store.status(item) in states])
        for states in (("begun", "missing"), ("by hand",))
    )
    header = ("item", "", "about", f"folder in {store.root}", "source")
    summary = f"still to download: about {missing}; by hand: about {by_hand}"
    return f"{format_table([header, *rows])}\n{summary}"


def _size(items: Sequence[Item]) -> str:
    """Of several together; of some it is not known."""
    from minigpt4.common.formatting import format_bytes

    known = [item.gigabytes for item in items if item.gigabytes is not None]
    shown = [format_bytes(1e9 * sum(known))] if known or not items else []
    return " + ".join([*shown, *["?"] * (len(known) < len(items))])


if __name__ == "__main__":
    main()
