"""The language model: whatever `AutoModelForCausalLM` loads, and what each family does differently."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from minigpt4.common.device import dtype_for
from minigpt4.common.errors import ConfigError, nearest
from minigpt4.conversation import templates
from minigpt4.conversation.templates import PromptTemplate


@dataclass(frozen=True)
class Backbone:
    """What differs between families of language models.

    Attributes:
        name: as `model.llm_backbone` names it.
        model_types: the `model_type`s of transformers' configs that mean this family.
        template: how a turn is written where the YAML does not say.
        fp16_overflows: activations leave float16's range; bfloat16 must be used.
    """

    name: str
    model_types: tuple[str, ...]
    template: PromptTemplate
    fp16_overflows: bool = False


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone("llama", ("llama",), templates.LLAMA2),
        Backbone(
            "gemma",
            ("gemma", "gemma2", "gemma3_text", "gemma3"),
            templates.GEMMA,
            fp16_overflows=True,
        ),
        Backbone("chatml", (), templates.CHATML),
        Backbone("plain", (), templates.PLAIN),
    )
}


def find_backbone(name: str, model_type: str) -> Backbone:
    """The family that `model.llm_backbone` names, or, for `auto`, that the model's own config means.

    Raises:
        ConfigError: for an unknown name, or `auto` with a model type no family claims.
    """
    if name != "auto":
        if name not in BACKBONES:
            raise ConfigError(
                f"model.llm_backbone: unknown {name!r}{nearest(name, BACKBONES)} "
                f"(known: auto, {', '.join(BACKBONES)})"
            )
        return BACKBONES[name]
    for backbone in BACKBONES.values():
        if model_type in backbone.model_types:
            return backbone
    raise ConfigError(
        f"model.llm_backbone is auto, but no family is known for the model type {model_type!r}: please "
        f"set it to the one whose turns it was taught ({', '.join(BACKBONES)})"
    )


def load_language_model(
    source: Path | str,
    llm_backbone: str,
    llm_precision: str,
    device: torch.device,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Backbone]:
    """Load a causal language model and its tokenizer, straight into its final dtype.

    Args:
        source: what `resolve` made of `model.llama_model`; a `.gguf` file is dequantised.
        llm_backbone: `auto` or a key of BACKBONES.
        llm_precision: bf16, fp16, fp32, 8bit or 4bit.
        device: where it will run.

    Raises:
        ConfigError: if the folder holds no language model, or a setting cannot be had.
    """
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source)}
    if isinstance(source, Path) and source.is_file():
        if source.suffix != ".gguf":
            raise ConfigError(f"model.llama_model: {source} is neither a folder nor a .gguf file")
        where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    config = _from_pretrained(AutoConfig.from_pretrained, where)
    backbone = find_backbone(llm_backbone, config.model_type)
    arguments = _precision_arguments(llm_precision, backbone, device)
    if "gguf_file" in where:
        arguments["quantization_config"] = GgufConfig(dequantize=True)
    model = _from_pretrained(AutoModelForCausalLM.from_pretrained, where | arguments)
    if not hasattr(model, "hf_device_map"):
        model = model.to(device)
    tokenizer = _from_pretrained(AutoTokenizer.from_pretrained, where)
    return model.eval(), tokenizer, backbone


def _from_pretrained(load: Callable, arguments: dict[str, Any]) -> Any:
    try:
        return load(**arguments)
    except (OSError, ValueError, KeyError) as error:
        place = arguments["pretrained_model_name_or_path"]
        raise ConfigError(f"model.llama_model: could not load {place}: {error}") from error


def _precision_arguments(precision: str, backbone: Backbone, device: torch.device) -> dict[str, Any]:
    if precision in ("8bit", "4bit"):
        try:
            import bitsandbytes  # noqa: F401  (transformers would fail later and less clearly)
        except ImportError as error:
            raise ConfigError(
                f"model.llm_precision is {precision} (low_resource: True means 8bit), which needs "
                "bitsandbytes: pip install .[quant]"
            ) from error
        quantized = BitsAndBytesConfig(**{f"load_in_{precision}": True})
        return {"quantization_config": quantized, "device_map": {"": device}}
    dtype = dtype_for(precision, device, "model.llm_precision")
    if dtype is torch.float16 and backbone.fp16_overflows:
        dtype = torch.bfloat16
    return {"dtype": dtype}


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts for this model begin with BOS: its own tokenizer knows (LLaMA, Gemma: yes)."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a").input_ids[:1] == [bos]


def reply_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_sym: str) -> list[int]:
    """The ids that end a reply: the model's own EOS ids, and the end symbol where it is one token."""
    own = model.generation_config.eos_token_id
    ids = set(own if isinstance(own, list) else [own]) | {tokenizer.eos_token_id}
    symbol = tokenizer.convert_tokens_to_ids(end_sym)
    if symbol != tokenizer.unk_token_id:
        ids.add(symbol)
    return sorted(i for i in ids if i is not None)
