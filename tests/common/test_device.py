"""Devices: which one is taken, what is said where it is not there, and their memory."""

import pytest
import torch

from minigpt4.common.device import is_out_of_memory, pick_device, room_for_weights
from minigpt4.common.errors import ConfigError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.81 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_is_out_of_memory_knows_the_errors_of_all_devices(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_is_out_of_memory_knows_the_cpu_s_own_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ConfigError("run.output_dir: out of memory"),
        OSError(28, "No space left on device"),
    ],
)
def test_is_out_of_memory_leaves_other_errors_alone(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_room_for_weights_names_the_device_and_the_keys() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB")
    with pytest.raises(ConfigError) as raised, room_for_weights(torch.device("cuda", 1)):
        raise error
    message = str(raised.value)
    assert "do not fit into the memory of cuda:1 (CUDA out of memory. Tried to allocate 2.00 GiB.)" in message
    assert "model.llm_precision" in message and "GPU 0" not in message
    with pytest.raises(RuntimeError, match="size mismatch"), room_for_weights(torch.device("cpu")):
        raise RuntimeError("size mismatch")


def test_all_cards_are_hidden_from_the_tests() -> None:
    assert not torch.cuda.is_available() and torch.cuda.device_count() == 0
    assert pick_device("cpu") == torch.device("cpu")


def test_pick_device_says_where_torch_can_use_no_card(monkeypatch) -> None:
    """pip installs such a torch on Windows."""
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        ConfigError, match=r"'cuda' is not available: 0 CUDA .* built for the CPU alone.*pytorch\.org"
    ):
        pick_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    with pytest.raises(ConfigError, match=r"'cuda:1' is not available: 0 CUDA devices found$"):
        pick_device("cuda:1")
