"""Which device there is, and which floating-point formats it is fast at."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from minigpt4.common import launch
from minigpt4.common.errors import ConfigError, nearest

# What torch's allocators say that raise no OutOfMemoryError: the CPU's, MPS's, and the CUDA libraries' own.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_as_named: ContextVar[bool] = ContextVar("_as_named", default=False)


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """The device that was asked for, or the best available one: cuda, then mps, then cpu.

    `cuda` without a number is this process's own GPU where a launcher started several processes.

    Raises:
        ConfigError: if the device asked for is not available.
    """
    if name is None or str(name) == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
        name = "cpu" if launch.wants_cpu() else name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {str(name)!r} is not a device (cuda, cuda:0, mps or cpu)") from error
    if device.type not in ("cuda", "mps", "cpu"):
        raise ConfigError(f"device {str(name)!r} is not one that is supported (cuda, cuda:0, mps or cpu)")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", launch.local_rank())
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"device {str(name)!r} is not available: "
            f"{torch.cuda.device_count()} CUDA devices found{_without_cuda()}"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not available")
    return device


def _without_cuda() -> str:
    """What to do where torch was built without CUDA, as pip installs it on Windows."""
    if torch.version.cuda or torch.version.hip:
        return ""
    return (
        f", because torch {torch.__version__} was built for the CPU alone. Please uninstall it, and use the "
        "command that https://pytorch.org/get-started/locally/ shows for your system and CUDA version"
    )


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products beat float32 here (on a CPU: AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older versions of torch (2.6, say) cannot tell; float32 is right everywhere.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def dtype_for(precision: str, device: torch.device, key: str) -> torch.dtype:
    """The dtype that a precision key of the YAML means on this device.

    16 bits are asked for to be fast: where the device is slow at that format (float16 on a CPU is hundreds of
    times slower than float32), the nearest fast one is taken.

    Raises:
        ConfigError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"{key}: unknown precision {precision!r}{nearest(str(precision), PRECISIONS)}")
    if precision == "fp32":
        return torch.float32
    if _as_named.get():
        return PRECISIONS[precision]
    if device.type == "cpu":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if precision == "bf16" and not has_fast_bf16(device):
        return torch.float16
    return PRECISIONS[precision]


@contextmanager
def dtypes_as_named() -> Iterator[None]:
    """Inside, `dtype_for` takes precisions as they are named, for weights that are written, not run.

    Weights in the dtype of their file are only mapped into memory.
    """
    token = _as_named.set(True)
    try:
        yield
    finally:
        _as_named.reset(token)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def summarized(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def room_for_weights(device: torch.device) -> Iterator[None]:
    """Weights are loaded inside. Raises ConfigError if they do not fit into the device's memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"the weights do not fit into the memory of {device} ({summarized(error)}). A smaller "
            "model.llm_precision (bf16, 8bit, 4bit) takes less; model.device_map spreads the language model "
            "over several GPUs"
        ) from error
