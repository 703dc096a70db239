"""How the parts are run: in which precision, compiled, recomputed, without masks."""

import importlib.util
import inspect
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from minigpt4.common.errors import ConfigError

# torch's SDPA under a name for which transformers knows no mask: it makes none, and does not look at the
# positions, which are on the device, whether several texts share a row. SDPA without a mask is causal.
UNMASKED_SDPA = "unmasked_sdpa"
AttentionInterface.register(UNMASKED_SDPA, sdpa_attention_forward)

# On a CPU in bf16, plain products beat torch's flash kernel up to about so many tokens. Measured on one core
# with AVX512-BF16: twice as fast for an encoder's 257, 2.6 times for a language model's 64, forward and
# backward. An encoder's 1,025 take 2.5 times as long in plain products. In float32 the kernel always wins.
PLAIN_ATTENTION_TOKENS = 512

COMPILERS = ("g++", "clang++", "c++", "cl")


def plain_attention_wins(device: torch.device, dtype: torch.dtype, tokens: int) -> bool:
    """Whether attention is faster as two matrix products and a softmax than as one kernel of torch."""
    return device.type == "cpu" and dtype is torch.bfloat16 and tokens <= PLAIN_ATTENTION_TOKENS


def own_precision(frozen: bool, device: torch.device) -> AbstractContextManager:
    """The context to run a part in: frozen parts compute in their own dtype, trained ones in autocast's."""
    return torch.autocast(device.type, enabled=False) if frozen else nullcontext()


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Keep cuDNN's attention out of SDPA while a reply is generated.

    It makes a plan for each new number of keys, and every token of a reply has one. With it, the first reply
    on an H100 came at 18 tokens per second, and later ones at 76.
    """
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)


@contextmanager
def unmasked(llm: PreTrainedModel, length: int) -> Iterator[None]:
    """Let a causal model that is given no mask run without one, and without waiting for the device.

    Args:
        llm: attends as it always does where it does not use SDPA, where its family knows no other attention
            than its own (Falcon), or where a window is shorter than the text.
        length: T.
    """
    config = llm.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    fits = all(length < (window or length + 1) for window in windows)
    usual = config._attn_implementation
    if usual == "sdpa" and llm._supports_attention_backend and fits:
        config._attn_implementation = UNMASKED_SDPA
    try:
        yield
    finally:
        config._attn_implementation = usual


def layers_of(llm: nn.Module) -> list[nn.Module]:
    """The repeated layers of a language model."""
    return [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_blocks(blocks: Iterable[nn.Module], *, random: bool) -> None:
    """Keep only each block's input, and compute the rest of it again in the backward pass.

    transformers' own switch asks for training mode, in which a frozen model would drop out.

    Args:
        blocks: whatever repeats.
        random: whether something in it is random (dropout), so that the random state must be put back.
    """
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=random)


def has_compiler() -> bool:
    """Whether torch.compile would find a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS))


def compile_blocks(blocks: Iterable[nn.Module], device: torch.device, *, dynamic: bool | None = None) -> None:
    """Have torch compile each block at its first use; blocks of one kind share their code.

    The blocks stay what they are, under their names.

    Args:
        blocks: whatever repeats.
        device: where they run.
        dynamic: True for one code for all shapes, None for the first shape's own and, where others
            follow, one for all.

    Raises:
        ConfigError: where nothing can be compiled.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("model.compile: True needs the package triton, which comes with torch on Linux")
    if not has_compiler():
        raise ConfigError(
            f"model.compile: True needs a C++ compiler: none of CXX, {', '.join(COMPILERS)} was found"
        )
    for block in blocks:
        # Without the wrapper that transformers puts around the layers of all models alike: for torch it would
        # be one function, which it compiles for eight kinds of input and no more.
        forward = inspect.unwrap(type(block).forward)
        block.forward = torch.compile(forward.__get__(block), dynamic=dynamic)


def is_compile_error(error: BaseException) -> bool:
    """Whether torch.compile failed, as it does when its C++ compiler hears a Ctrl-C too."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    return isinstance(error, TorchDynamoException)
