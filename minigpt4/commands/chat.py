"""Chat about pictures in the browser, with the model that a YAML describes.

example:
  python demo.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml
  python demo.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml --gpu-id 0 \\
      --options model.ckpt=output/minigpt4_tiny_gemma_stage1/checkpoint_latest.pth
"""

import argparse
import logging

from minigpt4.common.cli import config_parser, run

log = logging.getLogger("chat")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu-id", type=int, metavar="N", help="run on this GPU; the same as --device cuda:N")
    where.add_argument(
        "--device", metavar="D", help="cuda, cuda:0, mps (untested) or cpu; the best there is by default"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--share", action="store_true", help="open a public link through gradio's servers")
    run(chat, parser.parse_args())


def chat(args: argparse.Namespace) -> None:
    """Config, model, page: one paragraph per step."""
    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config, plain
    from minigpt4.common.errors import UserError
    from minigpt4.common.ports import listening

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    device_name = args.device if args.gpu_id is None else f"cuda:{args.gpu_id}"
    with listening(args.host, args.port) as sock:
        port = sock.getsockname()[1]
    check_model(cfg, device_name)

    from minigpt4.common.device import pick_device
    from minigpt4.common.registry import registry
    from minigpt4.processors.base_processor import processors_of

    device = pick_device(device_name)
    vis_processor, _ = processors_of(plain(cfg.datasets_cfg), "train", cfg.model_cfg.get("image_size"))

    log.info("building the model")
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    model = model_class.from_config(cfg.model_cfg, device=device).eval()
    model.vision.warn_of_other_statistics(vis_processor, "datasets: the image processor")
    if not cfg.model_cfg.get("ckpt"):
        log.warning("model.ckpt is not set: the projection is untrained, so the model cannot see")

    log.info("opening the page")
    from minigpt4.conversation.chat import Chat
    from minigpt4.conversation.page import MAX_UPLOAD, build_page

    page = build_page(Chat(model, vis_processor), title=model_class.__name__)
    try:
        page.launch(server_name=args.host, server_port=port, share=args.share, max_file_size=MAX_UPLOAD)
    except OSError as error:
        raise UserError(f"--port {port} on --host {args.host}: {error}") from error


if __name__ == "__main__":
    main()
