"""Chat about pictures in the browser, with the model that a YAML describes.

example:
  python demo.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml
  python demo.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml --gpu-id 0 \\
      --options model.ckpt=output/minigpt4_tiny_gemma_stage1/checkpoint_latest.pth
"""

import argparse
import logging
import os
import sys

from minigpt4.common.cli import add_device, config_parser, run

log = logging.getLogger("chat")

AUTH = "MINIGPT4_AUTH"


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__, exported=True)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu-id", type=int, metavar="N", help="run on this GPU; the same as --device cuda:N")
    add_device(where)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--share", action="store_true", help="open a public link through gradio's servers")
    parser.add_argument(
        "--auth",
        default=os.environ.get(AUTH),
        metavar="USER:PASSWORD",
        help=f"what visitors must enter; by default ${AUTH}, invisible to other users",
    )
    parser.add_argument(
        "--lang", choices=("en", "zh"), help="the page's language; by default each visitor's own"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser here")
    run(chat, parser.parse_args())


def chat(args: argparse.Namespace) -> None:
    """Arguments, page, model: one paragraph per step."""
    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config
    from minigpt4.common.ports import listening

    # The config, the address and the files are checked before anything heavy is imported.
    cfg = Config(args)
    auth = checked_auth(args.auth)
    device_name = args.device if args.gpu_id is None else f"cuda:{args.gpu_id}"
    with listening(args.host, args.port) as sock:
        port = sock.getsockname()[1]
    check_model(cfg, device_name)

    log.info("opening the page")
    from minigpt4.conversation.page.examples import examples_for
    from minigpt4.conversation.page.layout import build_page
    from minigpt4.conversation.page.loader import Loader
    from minigpt4.conversation.page.privacy import Uploads
    from minigpt4.conversation.page.serving import Address, serving
    from minigpt4.conversation.page.tasks import tasks_for
    from minigpt4.serving import from_config

    loader, uploads = Loader(cfg.model_cfg.get("ckpt")), Uploads()
    examples, tasks = examples_for(cfg.model_cfg), tasks_for(cfg.model_settings())
    page = build_page(loader, uploads, examples, args.lang, tasks)
    browser = not args.no_browser and has_screen()
    with serving(page, uploads, Address(args.host, port, args.share, auth, browser), args.lang):
        log.info("building the model")
        loader.load(lambda: from_config(cfg, device_name))
        log.info("the model is ready")
        page.block_thread()


def checked_auth(auth: str | None) -> tuple[str, str] | None:
    """User and password. Raises ConfigError."""
    from minigpt4.common.errors import ConfigError

    if auth is None:
        return None
    user, _, password = auth.partition(":")
    if not user or not password:
        raise ConfigError("--auth must be USER:PASSWORD")  # without the value: it may be a password
    return user, password


def has_screen() -> bool:
    """Whether a browser can be opened here."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


if __name__ == "__main__":
    main()
