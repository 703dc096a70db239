"""Write a checkpoint's LoRA adapter as a folder that peft puts on the stock language model.

example:
  minigpt4 export-adapter --cfg-path train_configs/mine.yaml --out adapter --options model.ckpt=mine.pth
"""

import argparse

from minigpt4.common import cli


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = cli.config_parser(__doc__)
    parser.add_argument(
        "--out", type=cli.user_path, required=True, metavar="DIR", help="the adapter's folder"
    )
    cli.run(export, parser.parse_args())


def export(args: argparse.Namespace) -> None:
    """Neither the language model nor the encoder is loaded."""
    from minigpt4.common.config import Config
    from minigpt4.common.errors import CheckpointError, ConfigError

    settings = Config(args).model_settings()
    if not settings.lora_r or not settings.ckpt:
        raise ConfigError("model.lora_r and model.ckpt must name an adapter and the checkpoint that holds it")

    from minigpt4.models.assembly import lora_of
    from minigpt4.models.foreign_tensors import split_derived
    from minigpt4.models.lora_folder import write_adapter
    from minigpt4.models.saved_lora import is_lora, other_lora, saved_alpha
    from minigpt4.weights.checkpoint import read_checkpoint
    from minigpt4.weights.resolver import resolve_file

    checkpoint = read_checkpoint(resolve_file(settings.ckpt, "model.ckpt"))
    tensors, _ = split_derived(checkpoint["model"], {})
    if not any(map(is_lora, tensors)):
        raise CheckpointError(f"{settings.ckpt} holds no LoRA adapter")
    lora = lora_of(settings)
    assert lora is not None
    # Which layers are adapted is not compared: only the language model knows those of the config.
    alpha = {**saved_alpha(checkpoint), **checkpoint.get("meta", {})}.get("lora_alpha")
    if unfit := other_lora(lora, tensors, alpha, tensors):
        raise CheckpointError(f"{settings.ckpt} {unfit}")
    write_adapter(args.out, tensors, lora, str(settings.llama_model))
    print(f"{args.out}: a LoRA adapter of rank {lora.rank} for {settings.llama_model}")


if __name__ == "__main__":
    main()
