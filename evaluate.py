#!/usr/bin/env python
"""Caption the pictures of webdataset shards with any model config, and compare with the true captions.

Prints the mean loss a token and the share of captions that match exactly; `--out` keeps a record of each
picture. With `--shuffled` the pictures are dealt to wrong captions: a model that looks has a clearly
higher loss then, one that only guesses has not.

example:
  python evaluate.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml \\
      --shards 'output/shapes/test/{00000..00000}.tar' --out output/report.json
"""

import argparse
import logging
from pathlib import Path

from minigpt4.common.cli import config_parser, run

log = logging.getLogger("evaluate")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    parser.add_argument("--shards", required=True, metavar="PATTERN", help="e.g. 'DIR/{00000..00004}.tar'")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--out", metavar="JSON", help="where the report goes, with a record a picture")
    parser.add_argument("--shuffled", action="store_true", help="deal the pictures to wrong captions")
    parser.add_argument("--batch-size", type=int, default=32, metavar="B", help="pictures a batch (32)")
    parser.add_argument(
        "--device", metavar="D", help="cuda, cuda:1, mps or cpu; the best there is by default"
    )
    run(evaluate, parser.parse_args())


def evaluate(args: argparse.Namespace) -> None:
    """Config, shards, model, captions, report: one paragraph a step."""
    from torch.utils.data import DataLoader

    from minigpt4.common.config import Config, plain
    from minigpt4.common.logger import write_json
    from minigpt4.datasets.collate import BatchStream
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream, expand_shards
    from minigpt4.processors.base_processor import processors_of
    from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask

    cfg = Config(args)
    task = ImageTextPretrainTask()

    log.info("finding the shards")
    shards = expand_shards(args.shards, "--shards")
    image_processor, text_processor = processors_of(
        plain(cfg.datasets_cfg), "eval", cfg.model_cfg.get("image_size")
    )
    stream = WebdatasetStream(shards, image_processor.to_batch, text_processor, training=False)
    # One worker: the order of the shards is kept, and pictures are decoded while the model works.
    batches = DataLoader(
        BatchStream(stream, args.batch_size, cfg.run_cfg.get("max_bad_fraction", 0.5), args.limit),
        batch_size=None,
        num_workers=1,
    )

    log.info("building the model")
    model = task.build_model(cfg, device=args.device)

    log.info("captioning")
    records = task.evaluate(model, batches, shuffled=args.shuffled, total=args.limit)
    metrics = task.summarize(records)

    for name, value in metrics.items():
        print(f"{name.replace('_', ' '):32} {value:.4g}")
    if args.out:
        report = {"config": args.cfg_path, "shards": args.shards, "shuffled": args.shuffled, **metrics}
        write_json(Path(args.out), report | {"records": records})
        log.info("wrote %s", args.out)


if __name__ == "__main__":
    main()
