"""Loading a language model: whatever `AutoModelForCausalLM` takes."""

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from minigpt4.common import launch
from minigpt4.common.device import dtype_for
from minigpt4.common.errors import ConfigError
from minigpt4.models.backbones.base_backbone import choose_backbone, claimed_by
from minigpt4.models.execution import plain_attention_wins
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.llm_files import check_files, load_whole
from minigpt4.models.lora import Lora
from minigpt4.models.pretrained import from_pretrained, loading, location
from minigpt4.models.settings import QUANTIZED, SHARD
from minigpt4.models.stock_llm import language_config
from minigpt4.models.text_model import text_model
from minigpt4.models.tokenizer_loading import load_tokenizer
from minigpt4.weights.gguf_file import reading_once

log = logging.getLogger(__name__)

# Image, prompt and answer of a short dialogue; captions are shorter.
USUAL_TOKENS = 256


def ranks_share_layers(device_map: str | None) -> bool:
    """Whether the ranks of this launch hold one language model together.

    `device_map: shard` asks for it, or `accelerate launch --use_fsdp`. A lone process has a whole one.
    """
    return (device_map == SHARD or launch.wants_sharding()) and launch.ranks_per_model() > 1


@reading_once()
def load_language_model(
    source: Path,
    *,
    backbone: str = "auto",
    precision: str = "bf16",
    trainable: str = "frozen",
    lora: Lora | None = None,
    device: torch.device,
    attention: str | None = None,
    device_map: str | None = None,
    name: str = "",
) -> LanguageModel:
    """Load a causal language model and its tokenizer directly into their dtype and device.

    Args:
        source: a folder, or a `.gguf` file, which is dequantised.
        backbone: `auto` or the name of a registered family.
        precision: bf16, fp16, fp32, 8bit or 4bit, while it is frozen; what is trained is kept in float32.
        trainable: which of its weights are trained: none (`frozen`) or all (`full`).
        lora: an adapter to add, which is trained.
        device: where it will run.
        attention: transformers' name (sdpa, eager, flash_attention_2, ...); None for the best supported one.
        device_map: `auto` spreads it over GPUs and CPU memory; `shard` leaves it on the CPU, to be sharded.
        name: stored in checkpoints.

    Raises:
        ConfigError: if it is not a language model, or a setting is not available.
    """
    check_files(source)
    whole = from_pretrained(AutoConfig.from_pretrained, location(source), "the config of {}")
    config = language_config(whole)
    with loading(source, "the tokenizer of {}"):
        tokenizer = load_tokenizer(source, rows=config.get_text_config().vocab_size)
        family = choose_backbone(backbone, config.model_type, tokenizer)
    # fp16 overflow depends on the model's own family, not on that of its template.
    overflows = family.fp16_overflows or claimed_by(config.model_type).fp16_overflows
    arguments = _precision_arguments("fp32" if trainable == "full" else precision, overflows, device)
    sharded = ranks_share_layers(device_map)
    if sharded:
        _check_sharding(precision, trainable)
    home = torch.device("cpu") if sharded else device
    arguments |= _attention_argument(attention, config, device, arguments["dtype"])
    if source.is_dir():
        one_device = sharded or device_map in (None, SHARD)
        arguments["device_map"] = {"": home} if one_device else device_map
    elif hasattr(transformers, "GgufConfig"):
        # Dense weights, although `kernels` could use packed ones. Without GgufConfig they always are.
        arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = text_model(load_whole(source, whole, arguments))
    if source.suffix == ".gguf":
        model = model.to(home)
    _keep_backward_pass(model)
    return LanguageModel(
        model,
        tokenizer,
        family,
        trainable=trainable,
        lora=lora,
        name=name,
        sharded=sharded,
        device=device if sharded else None,
    )


def _attention_argument(
    attention: str | None, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, str]:
    own = str(getattr(config, "_attn_implementation", None))
    if "/" in own:  # a kernel from the hub
        raise ConfigError(
            f"model.llama_model: the config of {config.name_or_path} asks for the attention {own!r}, which "
            "is code from elsewhere and never run: please take attn_implementation out of it"
        )
    # Gemma-2 caps the scores. SDPA cannot, and before transformers 5.21 it silently left the cap out.
    capped = getattr(config, "attn_logit_softcapping", None)
    if attention is None and (capped or plain_attention_wins(device, dtype, USUAL_TOKENS)):
        attention = "eager"
    return {} if attention is None else {"attn_implementation": attention}


def _check_sharding(precision: str, trainable: str) -> None:
    if trainable != "frozen":
        raise ConfigError(
            f"model.device_map: shard is for a frozen language model, and model.llm_trainable is {trainable}"
        )
    if precision in QUANTIZED:
        raise ConfigError(
            f"model.device_map: a language model of llm_precision {precision} cannot be sharded: please "
            "leave out one of the two"
        )


def _keep_backward_pass(model: PreTrainedModel) -> None:
    """Have bitsandbytes leave 4-bit weights as they are.

    On a CPU with AVX512-BF16 it would repack them at the first look without gradients, for a kernel that has
    no backward pass, and training after it would silently get next to no gradient.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _precision_arguments(precision: str, overflows: bool, device: torch.device) -> dict[str, Any]:
    if precision in QUANTIZED:
        try:
            import bitsandbytes  # noqa: F401  (transformers would fail later and less clearly)
        except ImportError as error:
            raise ConfigError(
                f"model.llm_precision is {precision} (low_resource: True means 8bit), which needs "
                "bitsandbytes: pip install .[quant]"
            ) from error
        # What stays dense (and what 4-bit weights are multiplied in) must be a dtype that is computed in
        # here, whatever the file has: float16 on a CPU has no backward pass.
        dtype = dtype_for("bf16", device, "model.llm_precision")
        settings: dict[str, Any] = {"load_in_8bit": True}
        if precision == "4bit":
            settings = {"load_in_4bit": True, "bnb_4bit_compute_dtype": dtype}
        return {"quantization_config": BitsAndBytesConfig(**settings), "dtype": dtype}
    dtype = dtype_for(precision, device, "model.llm_precision")
    if dtype is torch.float16 and overflows:
        log.warning("model.llm_precision: this language model overflows in float16, so it runs in bfloat16")
        dtype = torch.bfloat16
    return {"dtype": dtype}
