"""Serve a model with an OpenAI-compatible API: /v1/chat/completions, /v1/models, /health.

example:
  python serve.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml --port 8000
  curl localhost:8000/v1/models
"""

import argparse
import logging
import os
from typing import TYPE_CHECKING, Any

from minigpt4.common.cli import add_device, config_parser, run

if TYPE_CHECKING:
    from minigpt4.serving.openai.limits import ServerSettings

log = logging.getLogger("serve")

API_KEY = "MINIGPT4_API_KEY"
# Seconds to finish running replies when the server is stopped.
GRACE = 5


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__, exported=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--api-key",
        default=os.environ.get(API_KEY),
        metavar="KEY",
        help=f"key that requests must send; by default ${API_KEY}, invisible to other users",
    )
    parser.add_argument(
        "--model-name", metavar="NAME", help="the model's name in the API; by default model.arch"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-concurrency", type=int, default=16, metavar="N", help="replies per batch (16)")
    limits.add_argument("--max-queue", type=int, default=128, metavar="N", help="queued requests (128)")
    limits.add_argument("--max-images", type=int, default=16, metavar="N", help="images per request (16)")
    limits.add_argument("--max-new-tokens", type=int, default=2048, metavar="N", help="longest reply (2048)")
    limits.add_argument("--max-body-mb", type=int, default=32, metavar="MB", help="size of a request (32)")
    parser.add_argument(
        "--allow-image-urls",
        action="store_true",
        help="fetch images from http(s) URLs, but never from this machine or a private network",
    )
    add_device(parser)
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["own"],
        metavar=("own|vllm", "KEY=VALUE"),
        help="what generates replies; vllm needs its own environment (docs/inference.md), and takes options "
        "such as tensor_parallel_size=2",
    )
    run(serve, parser.parse_args())


def serve(args: argparse.Namespace) -> None:
    """Arguments, address, model, server: one paragraph per step."""
    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config
    from minigpt4.common.ports import listening

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    limits = checked(args, str(cfg.model_cfg.get("arch")))
    engine, options = engine_of(args.engine)
    check_model(cfg, args.device)
    with listening(args.host, args.port) as sock:
        import uvicorn

        from minigpt4.serving import from_config
        from minigpt4.serving.openai.app import build_app

        log.info("building the model")
        if engine == "vllm":
            from minigpt4.serving.vllm_engine import VllmEngine, prepare

            folder = prepare(cfg)
            model = from_config(cfg, args.device)
            replies = VllmEngine(model, folder, limits.together, limits.waiting, limits.new_tokens, **options)
        else:
            model, replies = from_config(cfg, args.device), None
            model.warm_up()

        log.info("serving %s on http://%s:%d/v1", limits.name, *sock.getsockname()[:2])
        app = build_app(model, limits, replies)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=GRACE,
            limit_concurrency=limits.connections,
        )
        uvicorn.Server(config).run(sockets=[sock])


def engine_of(words: list[str]) -> tuple[str, dict[str, Any]]:
    """What generates, and its options. Raises ConfigError."""
    from importlib.util import find_spec

    from omegaconf import OmegaConf

    from minigpt4.common.errors import ConfigError

    name, *options = words
    for option in options:
        if name != "vllm" or "=" not in option.strip("="):
            raise ConfigError(f"--engine {' '.join(words)}: it must be own, or vllm with KEY=VALUE options")
    if name not in ("own", "vllm"):
        raise ConfigError(f"--engine {name}: it must be own or vllm")
    if name == "vllm" and find_spec("vllm") is None:
        raise ConfigError(
            "--engine vllm: vLLM is not installed in this environment; it needs its own: make vllm, then "
            "source .venv-vllm/bin/activate"
        )
    return name, OmegaConf.to_container(OmegaConf.from_dotlist(options))  # type: ignore[return-value]


def checked(args: argparse.Namespace, arch: str) -> "ServerSettings":
    """The limits. Raises ConfigError."""
    from minigpt4.common.errors import ConfigError
    from minigpt4.serving.openai.limits import ServerSettings

    for name in ("max_concurrency", "max_queue", "max_images", "max_new_tokens", "max_body_mb"):
        value, least = getattr(args, name), 0 if name == "max_images" else 1
        if value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, it must be at least {least}")
    return ServerSettings(
        name=args.model_name or arch,
        api_key=args.api_key or None,
        together=args.max_concurrency,
        waiting=args.max_queue,
        body=args.max_body_mb * 2**20,
        images=args.max_images,
        new_tokens=args.max_new_tokens,
        image_urls=args.allow_image_urls,
    )


if __name__ == "__main__":
    main()
