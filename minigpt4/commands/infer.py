"""Ask a model about pictures or videos: one question, a dialogue in the terminal, or many into a file.

With `--ask` the reply is printed; without it a dialogue starts. With `--input`, many questions are answered
into a JSONL file, one record each, in order; the same command resumes it after an interruption.

example:
  python infer.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml --image a.jpg --ask "What is this?"
  python infer.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml --image a.jpg
  python infer.py --cfg-path eval_configs/minigptv2_tiny_gemma_eval.yaml --image a.jpg --ask "[refer] star"
  python infer.py --cfg-path train_configs/minigpt4_tiny_video.yaml --video a.mp4 --ask "what comes first?" \\
      --options model.ckpt=output/minigpt4_tiny_gemma_video/checkpoint_latest.pth
  python infer.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml --input photos/ --output a.jsonl
"""

import argparse
import dataclasses
import logging
import signal
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common import parts
from minigpt4.common.cli import add_device, config_parser, run, user_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minigpt4.common.config import Config
    from minigpt4.models.generation import GenerationSettings
    from minigpt4.serving.answers import AnswerFile
    from minigpt4.serving.inputs import Input

log = logging.getLogger("infer")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    from minigpt4.models.generation import GenerationSettings

    parser = config_parser(__doc__, exported=True)
    parser.add_argument(
        "--ask", metavar="TEXT", help="the question; with --input, about each picture or video"
    )
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="pictures for the question")
    parser.add_argument("--video", nargs="+", default=[], metavar="FILE", help="videos for the question")
    parser.add_argument("--subtitles", metavar="FILE", help="of the one video: .srt or .vtt")
    parser.add_argument(
        "--whisper",
        metavar="FOLDER_OR_NAME",
        help="write --subtitles (.vtt), if they are not there, with this Whisper model; needs ffmpeg",
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="a long video is described in parts of this length, and --ask answered from the descriptions",
    )
    many = parser.add_argument_group("many questions")
    many.add_argument(
        "--input",
        nargs="+",
        metavar="SOURCE",
        help="pictures, videos, folders of them, shards (.tar), or .jsonl files: a `question` per line, and "
        "`image`, or `video` and `subtitles`",
    )
    many.add_argument("--output", type=user_path, metavar="JSONL", help="the answers")
    many.add_argument(
        "--images",
        type=user_path,
        metavar="DIR",
        help="where paths in .jsonl files begin (the file's folder)",
    )
    many.add_argument("--batch-size", type=int, default=8, metavar="B", help="questions per batch (8)")
    how = parser.add_argument_group(
        "how replies are generated; outside of a dialogue, the temperature is 0 by default"
    )
    for field in dataclasses.fields(GenerationSettings):
        kind = float if field.type == "float" or field.type is float else int
        about = f"{field.metadata['doc']} ({field.default})"
        how.add_argument(f"--{field.name.replace('_', '-')}", type=kind, metavar="X", help=about)
    add_device(parser)
    parts.add_arguments(parser)
    run(infer, parser.parse_args())


def infer(args: argparse.Namespace) -> None:
    """Arguments, model, then one of the three ways to ask."""
    from minigpt4.commands.early import check_files, check_model
    from minigpt4.common.config import Config

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    check_arguments(args)
    if not args.merge:
        check_model(cfg, args.device)
        check_files(args.image, args.video, given_subtitles(args))

    from minigpt4.common.files import expanded
    from minigpt4.serving import from_config

    settings = chosen_settings(args)
    if args.input:
        answer_many(cfg, args, settings)
        return
    if args.whisper and not Path(expanded(args.subtitles)).exists():
        from minigpt4.processors.speech import write_subtitles

        log.info("writing %s with %s", args.subtitles, args.whisper)
        write_subtitles(expanded(args.video[0]), expanded(args.subtitles), args.whisper, args.device)
    log.info("building the model")
    model = from_config(cfg, args.device)
    from minigpt4.serving.videos import VideoFile

    videos = [VideoFile(path, args.subtitles) for path in args.video]
    if args.window is not None:
        from minigpt4.serving.long_videos import watch

        said = partial(print, file=sys.stderr, flush=True)
        print(watch(model, args.video[0], args.ask, args.window, args.subtitles, said, **vars(settings)))
    elif args.ask is not None:
        for piece in model.chat(args.ask, args.image, stream=True, videos=videos, **vars(settings)):
            print(piece, end="", flush=True)
        print()
    else:
        from minigpt4.serving.terminal import TerminalChat

        TerminalChat(model, vars(settings), args.image, videos).run()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError for mistakes that would otherwise show after the model is loaded."""
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.files import expanded, require_writable
    from minigpt4.common.launch import is_launched

    if bool(args.input) != bool(args.output):
        raise ConfigError("--input (questions) and --output (the file of answers) go together")
    for name in ("image", "video", "subtitles", "whisper", "window"):
        if args.input and getattr(args, name):
            raise ConfigError(f"--{name} is for one question; please leave it out with --input")
    for name in ("subtitles", "window"):
        if getattr(args, name) is not None and len(args.video) != 1:
            raise ConfigError(f"--{name} is about one video: please name it with --video")
    if args.window is not None and args.ask is None:
        raise ConfigError("--window answers one question: please set --ask")
    if args.window is not None and args.image:
        raise ConfigError("--window is about one video alone: please leave out --image")
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size is {args.batch_size}, it must be at least 1")
    if args.whisper and Path(args.subtitles or "").suffix.lower() != ".vtt":
        raise ConfigError("--whisper writes subtitles: please name their file .vtt with --subtitles")
    files = {"image": args.image, "video": args.video, "subtitles": given_subtitles(args)}
    for name, paths in files.items():
        for path in paths:
            if not Path(expanded(path)).is_file():
                raise ConfigError(f"--{name}: file not found: {Path(expanded(path)).absolute()}")
    if args.output:
        require_writable(args.output, "--output")
        if args.output.exists():
            raise ConfigError(
                f"--output: {args.output} already exists: please remove it or name another file"
            )
    elif is_launched() or args.num_shards or args.merge:
        raise ConfigError("--num-shards, --merge and torchrun share the questions of --input; please set it")


def given_subtitles(args: argparse.Namespace) -> list[str]:
    """The file of subtitles that has to be there: with `--whisper` it may be written first."""
    return [args.subtitles] if args.subtitles and not args.whisper else []


def chosen_settings(args: argparse.Namespace) -> "GenerationSettings":
    """The settings from the command line. Outside of a dialogue, decoding is greedy by default.

    Raises:
        ConfigError: for one that is out of bounds.
    """
    from minigpt4.models.generation import GenerationSettings

    names = [field.name for field in dataclasses.fields(GenerationSettings)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    dialogue = args.ask is None and not args.input
    return GenerationSettings(**given if dialogue else {"temperature": 0.0, **given})


def answer_many(cfg: "Config", args: argparse.Namespace, settings: "GenerationSettings") -> None:
    """Answer this process's share of the questions, and merge all shares once they are complete."""
    from minigpt4.common.config import plain
    from minigpt4.common.parts import Parts, Share
    from minigpt4.serving.answers import AnswerFile
    from minigpt4.serving.inputs import read_inputs

    share = Share.of(args)
    of_shares = Parts(args.output, share, "--output")
    made = {"model": plain(cfg.model_cfg), "input": args.input, "ask": args.ask, "settings": vars(settings)}
    if not share.merge_only:
        inputs = share.take(enumerate(read_inputs(args.input, args.ask, args.images)))
        with of_shares.claimed() as path:
            file = AnswerFile(path, made)
            if not file.complete:
                answer_share(file, inputs, cfg, args, settings)
    of_shares.merge(partial(put_together, out=args.output, made=made))


def answer_share(
    file: "AnswerFile",
    inputs: "Iterator[tuple[int, Input]]",
    cfg: "Config",
    args: argparse.Namespace,
    settings: "GenerationSettings",
) -> None:
    """Answer the questions that have no answer in the file yet."""
    from tqdm import tqdm

    from minigpt4.common.errors import Interrupted
    from minigpt4.serving import from_config
    from minigpt4.serving.answers import answer

    if file.done:
        log.info("%s has %d answers already", file.part, file.done)
    log.info("building the model")
    model = from_config(cfg, args.device)
    done = file.done
    try:
        with tqdm(initial=done, desc="answering", unit="question", disable=None) as bar:
            for records in answer(model, islice(inputs, done, None), args.batch_size, settings):
                file.write(records)
                bar.update(len(records))
                done += len(records)
    except KeyboardInterrupt as stop:
        message = f"stopped; {file.part} keeps {done} answers; run the same command again to resume"
        raise Interrupted(message, signal.SIGINT) from stop
    file.finish()


def put_together(paths: "list[Path]", out: Path, made: "dict[str, Any]") -> None:
    """Write `--output` from the files of all shares."""
    from minigpt4.serving.answers import merge

    counts = merge(paths, out, made)
    log.info("%d answers, %d of them errors, in %s", counts["records"], counts["errors"], out)


if __name__ == "__main__":
    main()
